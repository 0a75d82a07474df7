"""What fields that a step reads, and what is trainable, are while a run goes on: part of its checkpoints.

A run that goes on in a new process begins with what the user's code makes there. Where that is what it was
when the run began, a callback has changed it since, and it becomes what it was at the checkpoint. Where it is
something else, the user has changed it, and that counts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import keras

from looplab.callbacks import freeze
from looplab.callbacks.keras.saved_fields import CannotSave, decode, encode
from looplab.training.engine.attribute_reads import TRAINER, AttributeReads, Place, at, words
from looplab.training.engine.model_structure import ModelStructure
from looplab.training.engine.value_tokens import is_plain, text, token

_log = logging.getLogger("looplab")


class KeptFields:
    """The fields of the trainer and of its losses that are read by steps and that a checkpoint can hold."""

    def __init__(self, roots: Mapping[str, Any], models: Mapping[str, keras.Model]) -> None:
        """Knows no field yet.

        Args:
            roots: The trainer and its losses by name; read when it is needed.
            models: Of the trainer, by name; likewise.
        """
        self._roots, self._models = roots, models
        self._began: dict[Place, Any] = {}  # encoded
        self._known: dict[Place, Any] = {}  # tokens of what nobody but the run has changed
        self._flags_began, self._flags_known = "", ""
        self._pending: Mapping[str, Any] | None = None

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Learns which fields a step reads that is traced first within the block, before any run."""
        read: dict[Place, tuple[Any, Any]] = {}
        roots = {name: root for name, root in self._roots.items() if ":" not in name}

        def note(place: Place) -> None:
            if place in read or not all(isinstance(step, str) for step in place):
                return
            value = at(roots, place)
            if is_plain(now := token(value)):  # else it may be large, too
                with suppress(CannotSave):
                    read[place] = encode(value), now

        with AttributeReads(roots, note).recorded():
            yield
        for place, (encoded, before) in read.items():
            if place not in self._began and token(at(roots, place)) == before:
                self._began[place], self._known[place] = encoded, before
        self._flags_began = self._flags_began or self._flags()
        self._flags_known = self._flags()

    def leave(self) -> None:
        """Takes in that a run has ended: what is set from here on is set by the user."""
        self._known = {place: token(at(self._roots, place)) for place in self._began}
        self._flags_known = self._flags()

    def state(self) -> dict[str, Any]:
        """Returns what is not as it was when the run began, for a checkpoint; empty where all is."""
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

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Takes what `state` returned, for `apply`."""
        self._pending = saved

    def apply(self) -> None:
        """Makes fields, and what is trainable, what they were at the checkpoint; for a run that goes on."""
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
            "%s was %s at the checkpoint, and is %s: the run goes on with what is set now.",
            words(place),
            text(saved),
            text(value),
        )

    def _flags(self) -> str:
        """Returns for each layer and variable whether it is trainable, but for what a `Freeze` holds."""
        held = freeze.held()
        return "".join(
            "1" if one.trainable or id(one) in held else "0" for one in ModelStructure(self._models).parts
        )

    def _set_flags(self, flags: str) -> None:
        parts, held = ModelStructure(self._models).parts, freeze.held()
        if len(parts) != len(flags):
            return  # of other models, which is said where their variables are compared
        # Layers from the outside to the inside, then variables: Keras sets it of all in a layer.
        targets = [
            (one, one.trainable if id(one) in held else flag == "1")
            for one, flag in zip(parts, flags, strict=True)
        ]
        for one, trainable in targets:
            one.trainable = trainable
