"""What the traces of steps have read that a person may change later: noticed, said, and traced anew.

A trace keeps the Python values that it has read. So they are compared with those of now whenever code on the
host may have changed them: at each start, and where callbacks were told something or an epoch begins.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from looplab.training.engine.attribute_reads import (
    ABSENT,
    TRAINER,
    AttributeReads,
    Place,
    at,
    class_attributes,
    words,
)
from looplab.training.engine.model_structure import ModelStructure
from looplab.training.engine.value_tokens import cannot_change, text, token

_log = logging.getLogger("looplab")

_NEVER = object()
_OFTEN = 5  # changes of one field after which the remedy is named


class _Read(NamedTuple):
    """What a trace has read: how it compares, and as a message names it."""

    token: Any
    text: str
    constant: Any  # the value, where the same object is the same value

    @classmethod
    def of(cls, value: Any) -> _Read:
        own = token(value)
        return cls(own, text(value), value if cannot_change(value, own) else _NEVER)

    def is_of(self, value: Any) -> bool:
        return value is self.constant or token(value) == self.token


@dataclass(frozen=True)
class Changes:
    """What has changed since steps were traced.

    Attributes:
        purposes: The kinds of steps that have read it.
        lines: What it was and is, each in words.
        of_layers: Those that say which models have other layers.
    """

    purposes: frozenset[str]
    lines: tuple[str, ...]
    of_layers: tuple[str, ...]


class TracedValues:
    """What was read by the traces of each kind of step.

    Of the trainer, its losses and its metrics those attributes count that a step has read, with all that
    these hold in containers, and in objects of the person's own. Of models it is which layers there are and
    what of them is trainable.
    """

    def __init__(self, models: Mapping[str, keras.Model]) -> None:
        """Knows of no trace yet.

        Args:
            models: Those of the trainer, by name; read anew each time.
        """
        self._models = models
        self._roots: dict[str, Any] = {}
        self._fields: dict[str, dict[Place, _Read]] = {}
        self._structures: dict[str, ModelStructure] = {}
        self._old = set[str]()  # purposes that the next trace is the first of
        self._moving = set[Place]()  # what steps change themselves while they are traced
        self._counts = Counter[str]()

    @property
    def roots(self) -> Mapping[str, Any]:
        """What is watched, by name; the metrics of a kind of step are there once it was traced."""
        return self._roots

    def watch(self, **roots: Any) -> None:
        """Has attributes of objects count.

        Args:
            **roots: By the name that messages have for them; that of the trainer is `trainer`.
        """
        copied = {name: dict(root) if isinstance(root, Mapping) else root for name, root in roots.items()}
        self._roots |= {TRAINER if name == "trainer" else name: root for name, root in copied.items()}

    @contextmanager
    def tracing(self, purpose: str, metrics: Mapping[str, keras.Metric]) -> Iterator[None]:
        """Takes note of what a step reads that is traced within the block.

        Args:
            purpose: `"train"`, `"test"` or `"predict"`.
            metrics: Those of this kind of step, by tag.
        """
        self._roots |= {f"{purpose}:metric {tag}": metric for tag, metric in metrics.items()}
        if purpose in self._old:
            self.forget(purpose)
        trainer = self._roots[TRAINER]
        start, before = dict(vars(trainer)), dict[Place, _Read]()

        def note(place: Place) -> None:
            if place not in before:
                before[place] = _Read.of(at(self._roots, place))

        for name in self._roots.keys() - {TRAINER}:
            note((name,))
        with AttributeReads(self._roots, note).recorded():
            yield
        called = [place[1] for place in before if place[0] == TRAINER and len(place) == 2]
        for name in class_attributes(trainer, [f"{purpose}_step", *called]):
            note((TRAINER, name))
        self._note_moving(before, start)
        is_first = purpose not in self._fields
        fields = self._fields.setdefault(purpose, {})
        for place in before.keys() - fields.keys() - self._moving:
            fields[place] = _Read.of(at(self._roots, place))
        if is_first:
            self._structures[purpose] = ModelStructure(self._models_of(purpose))

    def begin(self, purpose: str) -> None:
        """Looks at the models for a kind of step that is prepared, and perhaps never traced."""
        self._structures[purpose] = ModelStructure(self._models_of(purpose))

    def will_be_traced(self, purpose: str) -> None:
        """Has the next trace of a kind of step stand for all of them; until then changes are noticed."""
        self._old.add(purpose)

    def forget(self, purpose: str) -> None:
        """Has nothing count of what the traces of a kind of step have read."""
        self._old.discard(purpose)
        self._fields.pop(purpose, None)
        self._structures.pop(purpose, None)

    def changes(self) -> Changes | None:
        """Returns what has changed since it was read, or since it was asked before; None for nothing.

        Takes some microseconds where nothing has.
        """
        purposes, lines, values = set[str](), dict[str, None](), dict[Place, Any]()
        for purpose, fields in self._fields.items():
            for place, read in fields.items():
                value = values[place] if place in values else values.setdefault(place, at(self._roots, place))
                if read.is_of(value):
                    continue
                fields[place] = now = _Read.of(value)
                purposes.add(purpose)
                name = words(place)
                if (line := _line(name, read, now)) not in lines:
                    lines[line] = None
                    self._count(name, now)
        of_layers = dict[str, None]()
        taken: list[ModelStructure] = []
        for purpose, structure in self._structures.items():
            models = self._models_of(purpose)
            present = next((one for one in taken if one.models == models), None) or ModelStructure(models)
            taken.append(present)
            own = structure.layers_changed(present)
            flags = structure.trainable_changed(present)
            if own or flags:
                self._structures[purpose] = present
                purposes.add(purpose)
                of_layers |= dict.fromkeys(own)
                lines |= dict.fromkeys([*own, *flags])
        if not purposes:
            return None
        self._old |= purposes
        return Changes(frozenset(purposes), tuple(lines), tuple(of_layers))

    def _models_of(self, purpose: str) -> dict[str, Any]:
        """Returns the models of the trainer, and those that are held by its fields which steps read."""
        models: dict[str, Any] = dict(self._models)
        for place in self._fields.get(purpose, {}):
            if isinstance(value := at(self._roots, place), keras.Layer):
                models.setdefault(words(place), value)
        return models

    def _note_moving(self, before: Mapping[Place, _Read], start: Mapping[str, Any]) -> None:
        """Takes in what the step itself has changed while it was traced, and says it of what it counts.

        Args:
            before: What it has read, as it was then.
            start: The attributes of the trainer when the trace began.
        """
        trainer = vars(self._roots[TRAINER])
        for place, read in before.items():
            now = _Read.of(at(self._roots, place))
            is_own = place[0] == TRAINER and len(place) == 2
            counts = now.token != read.token
            is_set = is_own and trainer.get(place[1], ABSENT) is not start.get(place[1], ABSENT)
            if not (counts or is_set) or place in self._moving or read.text in ("None", "absent"):
                continue  # what was made once, when it was first needed, is no change
            self._moving.add(place)
            for fields in self._fields.values():
                fields.pop(place, None)
            if is_own and counts:
                _log.warning(
                    "the step itself changes %s (%s -> %s) while it is traced: Python runs once in each "
                    "trace, not in each step, so it counts traces, and later changes of it are not noticed. "
                    "Make it a tf.Variable(..., trainable=False) in setup, and assign it in the step.",
                    words(place),
                    read.text,
                    now.text,
                )

    def _count(self, name: str, now: _Read) -> None:
        self._counts[name] += 1
        if self._counts[name] == _OFTEN:
            own = name if name.isidentifier() else "value"
            _log.warning(
                "%s has changed %d times, and each time the step is traced anew. Make it a variable in "
                "setup, self.%s = tf.Variable(%s, trainable=False), which the step reads and the callback "
                "assigns (trainer.%s.assign(...)): nothing is traced for it, and checkpoints hold it.",
                name,
                _OFTEN,
                own,
                now.text,
                own,
            )


def _line(name: str, before: _Read, now: _Read) -> str:
    if before.text == now.text:
        return f"{name}: changed in place, {now.text}"
    return f"{name}: {before.text} -> {now.text}"
