"""Tracks the values that traces of steps have read and that may change later: they are traced again.

A trace keeps the Python values that it has read. So these are compared with the present ones whenever code on
the host may have changed them: at each start, and after callbacks or at the start of an epoch.
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
_OFTEN = 5  # changes of one field after which a warning names the remedy


class _Read(NamedTuple):
    """A value that a trace has read: its token for comparison, and its text for messages."""

    token: Any
    text: str
    constant: Any  # the value, if the same object is always the same value

    @classmethod
    def of(cls, value: Any) -> _Read:
        own = token(value)
        return cls(own, text(value), value if cannot_change(value, own) else _NEVER)

    def is_of(self, value: Any) -> bool:
        return value is self.constant or token(value) == self.token


@dataclass(frozen=True)
class Changes:
    """The changes since steps were traced.

    Attributes:
        purposes: The kinds of steps that have read the changed values.
        lines: The old and the new value of each, as text.
        of_layers: The lines about models with other layers.
    """

    purposes: frozenset[str]
    lines: tuple[str, ...]
    of_layers: tuple[str, ...]


class TracedValues:
    """The values that the traces of each kind of step have read.

    For the trainer, its losses and its metrics these are the attributes that a step has read, with everything
    that these hold in containers and in objects of the user's classes. For models these are the layers and
    their trainable flags.
    """

    def __init__(self, models: Mapping[str, keras.Model]) -> None:
        """Starts without traces.

        Args:
            models: The trainer's models by name; read again each time.
        """
        self._models = models
        self._roots: dict[str, Any] = {}
        self._fields: dict[str, dict[Place, _Read]] = {}
        self._structures: dict[str, ModelStructure] = {}
        self._old = set[str]()  # purposes whose next trace counts as the first
        self._moving = set[Place]()  # values that steps change themselves while they are traced
        self._counts = Counter[str]()

    @property
    def roots(self) -> Mapping[str, Any]:
        """The watched objects by name; includes the metrics of a kind of step after its trace."""
        return self._roots

    def watch(self, **roots: Any) -> None:
        """Watches the attributes of objects.

        Args:
            **roots: The objects by their names in messages; the trainer's name is `trainer`.
        """
        copied = {name: dict(root) if isinstance(root, Mapping) else root for name, root in roots.items()}
        self._roots |= {TRAINER if name == "trainer" else name: root for name, root in copied.items()}

    @contextmanager
    def tracing(self, purpose: str, metrics: Mapping[str, keras.Metric]) -> Iterator[None]:
        """Records the values that a step reads which is traced within the block.

        Args:
            purpose: `"train"`, `"test"` or `"predict"`.
            metrics: The metrics of this kind of step, by tag.
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
        """Reads the models for a kind of step that is prepared, and perhaps never traced."""
        self._structures[purpose] = ModelStructure(self._models_of(purpose))

    def will_be_traced(self, purpose: str) -> None:
        """Lets the next trace of a kind of step replace all earlier ones; until then changes are noticed."""
        self._old.add(purpose)

    def forget(self, purpose: str) -> None:
        """Discards the values that the traces of a kind of step have read."""
        self._old.discard(purpose)
        self._fields.pop(purpose, None)
        self._structures.pop(purpose, None)

    def changes(self) -> Changes | None:
        """Returns the changes since the values were read, or since the last call; None if there are none.

        Takes some microseconds if nothing has changed.
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
        """Returns the models of the trainer, including those in fields that steps read."""
        models: dict[str, Any] = dict(self._models)
        for place in self._fields.get(purpose, {}):
            if isinstance(value := at(self._roots, place), keras.Layer):
                models.setdefault(words(place), value)
        return models

    def _note_moving(self, before: Mapping[Place, _Read], start: Mapping[str, Any]) -> None:
        """Records values that the step itself changed during its trace, and warns if it counts in this way.

        Args:
            before: The values that it has read, as they were then.
            start: The attributes of the trainer at the start of the trace.
        """
        trainer = vars(self._roots[TRAINER])
        for place, read in before.items():
            now = _Read.of(at(self._roots, place))
            is_own = place[0] == TRAINER and len(place) == 2
            counts = now.token != read.token
            is_set = is_own and trainer.get(place[1], ABSENT) is not start.get(place[1], ABSENT)
            if not (counts or is_set) or place in self._moving or read.text in ("None", "absent"):
                continue  # an object created at its first use is not a change
            self._moving.add(place)
            for fields in self._fields.values():
                fields.pop(place, None)
            if is_own and counts:
                _log.warning(
                    "the step itself changes %s (%s -> %s) while it is traced: Python runs once in each "
                    "trace, not in each step, so it counts traces, and looplab does not notice its later "
                    "changes. Make it a tf.Variable(..., trainable=False) in setup, and assign it in the "
                    "step.",
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
