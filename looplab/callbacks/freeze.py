"""Layers that are not trained, or not yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any
from weakref import WeakKeyDictionary

import keras

from looplab import state
from looplab.callbacks.base import Callback, Event, StepEvent
from looplab.errors import ConfigurationError, nearest
from looplab.interval import Interval
from looplab.protocols import Controls

_log = logging.getLogger("looplab")

# Who holds a layer that was trainable before: the last one to release it makes it trainable again.
_held: WeakKeyDictionary[keras.Layer, set[Callback]] = WeakKeyDictionary()


class Freeze(Callback):
    """Freezes layers chosen by pattern, from the start of training until a step of it, or for good.

    A frozen layer is one whose `trainable` is False, as in Keras: its weights, their slots in the
    optimizer and their averages keep every bit, and BatchNormalization uses its moving statistics and
    leaves them. Training then goes on with the optimizer as it is (Adam's bias correction counts the
    updates of the others). To unfreeze layers one after another, give several of these; a layer is
    trained when none holds it. What must never train can also be frozen before it is given to the
    trainer, `layer.trainable = False`.

    Each pattern (`*`, `?`, `[...]`) is compared with the layers' paths, such as `encoder/conv2d_1`, and with
    those of the layers they stand in; where there are several models, the model's name stands before.
    """

    def __init__(self, layers: str | Sequence[str], until: str | int | None = None) -> None:
        """Says what is frozen, and how long.

        Args:
            layers: A pattern, or several.
            until: The interval after which they are trained, such as `"5ep"`; None for never.

        Raises:
            ConfigurationError: If `until` is no interval.
        """
        self.patterns = (layers,) if isinstance(layers, str) else tuple(layers)
        self.until = None if until is None else Interval.parse(until, what="Freeze.until")
        # An interval comes again; only the first time counts. An epoch's end costs no execution.
        self.every = "1ep" if self.until is None else str(self.until)
        self._frozen = True

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`.

        Raises:
            ConfigurationError: If a pattern matches no layer.
        """
        if event.step == 0:
            self._frozen = True
        if self._frozen:
            self._hold(event, controls)

    def on_step(self, event: StepEvent, controls: Controls) -> None:
        """See `Callback`: the time has come."""
        if self._frozen and self.until is not None:
            self._frozen = False
            self._release(event.models)
            controls.rebuild()
            _log.info("step %d: %s is trained from here on", event.step, ", ".join(self.patterns))

    def on_train_end(self, event: Event, controls: Controls) -> None:
        """See `Callback`: what is to stay frozen is frozen again by the next `fit`."""
        self._release(event.models)

    def on_exception(self, event: Event, error: BaseException) -> None:
        """See `Callback`: likewise."""
        self._release(event.models)

    def state(self) -> dict[str, Any]:
        """See `Callback`."""
        return {"frozen": self._frozen}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Callback`."""
        self._frozen = state["frozen"]

    def _hold(self, event: Event, controls: Controls) -> None:
        for layer in self._chosen(event.models):
            if layer.trainable or layer in _held:
                _held.setdefault(layer, set()).add(self)
                layer.trainable = False
        controls.rebuild()

    def _release(self, models: Mapping[str, keras.Model]) -> None:
        for layer in self._chosen(models):
            holding = _held.get(layer, set())
            holding.discard(self)
            if layer in _held and not holding:
                del _held[layer]
                layer.trainable = True

    def _chosen(self, models: Mapping[str, keras.Model]) -> list[keras.Layer]:
        layers = _layers(models)
        paths = list(dict.fromkeys(path for path, _ in layers))
        for pattern in self.patterns:
            if not any(_matches(path, pattern) for path in paths):
                raise ConfigurationError(
                    f"Freeze: {pattern!r} matches no layer with weights; there are {', '.join(paths)}."
                    + nearest(pattern, paths)
                )
        return [layer for path, layer in layers if any(_matches(path, p) for p in self.patterns)]


def _layers(models: Mapping[str, keras.Model]) -> list[tuple[str, keras.Layer]]:
    """Returns the layers that have variables of their own, each with the path of these."""
    owners = {
        id(variable): layer
        for model in models.values()
        for layer in model._flatten_layers()
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables)
    }
    named = state.shortened(state.of_models(models))
    found = {owners[id(v)]: path.rpartition("/")[0] for path, v in named.items() if id(v) in owners}
    return [(path, layer) for layer, path in found.items()]


def _matches(path: str, pattern: str) -> bool:
    parts = path.split("/")
    return any(fnmatchcase("/".join(parts[: count + 1]), pattern) for count in range(len(parts)))
