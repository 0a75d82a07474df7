"""Saves the fields that a step reads, and the trainable flags, in checkpoints.

A run that continues in a new process starts with the values of the user's code there. If such a value equals
the one at the start of the run, a callback has changed it since, and it gets its value from the checkpoint.
If it differs, the user has changed it, and the user's value counts.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import keras

from looplab.callbacks import freeze
from looplab.callbacks.keras.saved_fields import CannotSave, decode, encode
from looplab.training.engine.attribute_reads import TRAINER, AttributeReads, Place, at, words
from looplab.training.engine.model_structure import ModelStructure
from looplab.training.engine.value_tokens import WIDE, is_plain, text, token

_log = logging.getLogger("looplab")


@contextmanager
def plain_reads(roots: Mapping[str, Any]) -> Iterator[dict[Place, Any]]:
    """Records the fields of objects that are read within the block and hold plain values.

    Args:
        roots: The objects by name.

    Yields:
        The values, encoded, which are there when the block has ended. Fields that the block itself has
        changed are left out.
    """
    read: dict[Place, tuple[Any, Any]] = {}
    found: dict[Place, Any] = {}

    def note(place: Place) -> None:
        if place in read or not all(isinstance(step, str) for step in place):
            return
        value = at(roots, place)
        if is_plain(now := token(value)):  # otherwise it may be large
            with suppress(CannotSave):
                read[place] = encode(value), now

    with AttributeReads(roots, note).recorded():
        yield found
    found |= {place: own for place, (own, before) in read.items() if token(at(roots, place)) == before}


def said(read: Mapping[Place, Any]) -> dict[str, str]:
    """Returns encoded values as texts, by their names as Python code; equal in each process.

    Sets, whose order differs from process to process, are left out.
    """
    return {words(place): text for place, own in read.items() if (text := _text(own)) is not None}


def _text(encoded: Any) -> str | None:
    whole = json.dumps(encoded, default=lambda array: [array.dtype.str, array.shape, array.tobytes().hex()])
    if '"kind": "set"' in whole:
        return None
    short = text(decode(encoded))
    is_whole = len(short) < WIDE and not ('"kind": "array"' in whole or '"kind": "tensor"' in whole)
    return short if is_whole else f"{short} ({hashlib.sha256(whole.encode()).hexdigest()[:8]})"


class KeptFields:
    """The fields of the trainer and its losses that steps read and a checkpoint can hold."""

    def __init__(self, roots: Mapping[str, Any], models: Mapping[str, keras.Model]) -> None:
        """Starts without fields.

        Args:
            roots: The trainer and its losses by name; read when needed.
            models: The trainer's models by name; read when needed.
        """
        self._roots, self._models = roots, models
        self._began: dict[Place, Any] = {}  # encoded
        self._known: dict[Place, Any] = {}  # tokens of values that only the run has changed
        self._flags_began, self._flags_known = "", ""
        self._pending: Mapping[str, Any] | None = None

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Records the fields that a step reads in its first trace within the block, before any run."""
        roots = {name: root for name, root in self._roots.items() if ":" not in name}
        with plain_reads(roots) as read:
            yield
        for place, encoded in read.items():
            if place not in self._began:
                self._began[place], self._known[place] = encoded, token(at(roots, place))
        self._flags_began = self._flags_began or self._flags()
        self._flags_known = self._flags()

    def leave(self) -> None:
        """Records that a run has ended: values that are set from here on are set by the user."""
        self._known = {place: token(at(self._roots, place)) for place in self._began}
        self._flags_known = self._flags()

    def state(self) -> dict[str, Any]:
        """Returns the values that differ from the run's start, for a checkpoint; empty if there are none."""
        fields = []
        for place, began in self._began.items():
            value = at(self._roots, place)
            if token(value) == token(decode(began)):
                continue
            with suppress(CannotSave):
                fields.append({"place": list(place), "began": began, "now": encode(value)})
        flags = self._flags()
        trainable = {} if flags == self._flags_began else {"began": self._flags_began, "now": flags}
        return {"fields": fields, "trainable": trainable} if fields or trainable else {}

    def names(self) -> set[str]:
        """Returns the names of the trainer's fields that checkpoints hold."""
        return {place[1] for place in self._began if place[0] == TRAINER and len(place) == 2}

    def at_start(self) -> dict[str, str]:
        """Returns the values with which the user's code began, each as a text, to name what has changed."""
        return said(self._began)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Stores the result of `state`, for `apply`."""
        self._pending = saved

    def apply(self) -> None:
        """Restores fields and trainable flags from the checkpoint; for a run that continues."""
        saved, self._pending = self._pending, None
        if saved is None:
            return
        before = {tuple(each["place"]): each for each in saved.get("fields", ())}
        for place, began in self._began.items():
            found = before.get(place, {"began": began, "now": began})
            self._apply_field(place, decode(found["began"]), decode(found["now"]), decode(began))
        flags = saved.get("trainable") or {"began": self._flags_began, "now": self._flags_began}
        present = self._flags()
        if present != flags["now"] and present == self._flags_known and flags["began"] == self._flags_began:
            self._set_flags(flags["now"])

    def _apply_field(self, place: Place, before: Any, saved: Any, began: Any) -> None:
        value = at(self._roots, place)
        if token(value) == token(saved):
            return
        if token(value) == self._known[place] and token(before) == token(began):
            setattr(at(self._roots, place[:-1]), place[-1], saved)
            return
        _log.warning(
            "%s was %s at the checkpoint, but is %s now: the run goes on with the present value.",
            words(place),
            text(saved),
            text(value),
        )

    def _flags(self) -> str:
        """Returns the trainable flag of each layer and variable, as without the `Freeze` callbacks."""
        held = freeze.held()
        return "".join(
            "1" if one.trainable or id(one) in held else "0" for one in ModelStructure(self._models).parts
        )

    def _set_flags(self, flags: str) -> None:
        parts, held = ModelStructure(self._models).parts, freeze.held()
        if len(parts) != len(flags):
            return  # other models: the comparison of variables reports it
        # Outer layers first, then variables, because Keras sets it for everything in a layer.
        targets = [
            (one, one.trainable if id(one) in held else flag == "1")
            for one, flag in zip(parts, flags, strict=True)
        ]
        for one, trainable in targets:
            one.trainable = trainable
