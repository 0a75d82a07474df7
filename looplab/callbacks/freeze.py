"""Freezes weights for the whole run or until a step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import keras

from looplab.callbacks.base import Callback, Event, StepEvent
from looplab.checkpoint import state
from looplab.checkpoint.patterns import matches, of_nothing
from looplab.errors import ConfigurationError
from looplab.interval import Interval
from looplab.protocols import Controls
from looplab.targets import configurable

_log = logging.getLogger("looplab")

# For each layer or variable that was trainable and is now frozen, by its id: the callbacks that freeze it. It
# becomes trainable when the last of them releases it. (Keras' variables cannot be keys: == compares values.)
_held: dict[int, tuple[Any, set[Callback]]] = {}


@configurable
class Freeze(Callback):
    """Freezes the layers and weights that patterns select, until a step or for the whole run.

    With `until="5ep"` they are frozen up to the last step of epoch 5, and the next step trains them.
    A frozen layer is one whose `trainable` is False, as in Keras: its weights, their slots in the
    optimizer and their averages do not change, and BatchNormalization uses its moving statistics and does
    not update them. After the release, training continues with the optimizer as it is (Adam's bias
    correction counts the updates of the other weights). To unfreeze layers one after another, use several
    `Freeze` callbacks; a weight is trained when none of them freezes it. If a layer must never train, you
    can also set `layer.trainable = False` before you give the model to the trainer.

    The patterns are those of parameter groups (`looplab.ParameterGroup`). A pattern that matches a layer's
    path, such as `stem` or `encoder/conv2d_*`, freezes that layer and the layers in it. A pattern that
    matches a weight's path, such as `*/bias`, freezes that weight alone; the rest of its layer is trained.
    With several models, the path begins with the model's name.
    """

    times = 1

    def __init__(self, layers: str | Sequence[str], until: str | int | None = None) -> None:
        """Chooses the layers and weights, and how long they are frozen.

        Args:
            layers: One pattern or several.
            until: The interval after which they are trained, such as `"5ep"`; None freezes them for the run.

        Raises:
            ConfigurationError: If `until` is not an interval.
        """
        self.patterns = (layers,) if isinstance(layers, str) else tuple(layers)
        self.until = None if until is None else Interval.parse(until, what="Freeze.until")
        self._set(frozen=True)

    def _set(self, frozen: bool) -> None:
        self._frozen = frozen
        # An interval repeats, but only its first time counts. Afterwards no execution needs to end for it.
        self.every = str(self.until) if frozen and self.until is not None else None

    def on_check(self, event: Event) -> None:
        """See `Callback`.

        Raises:
            ConfigurationError: If a pattern matches nothing.
        """
        self._check(event.models)

    def freeze(self, models: Mapping[str, keras.Model]) -> None:
        """Freezes the selected layers and weights of models permanently, also those that are not trainable.

        Args:
            models: Built models by name, which no running `fit` uses.

        Raises:
            ConfigurationError: If a pattern matches nothing.
        """
        self._check(models)
        layers, weights = _chosen(models, self.patterns)
        for one in (*layers, *weights):
            if one.trainable:
                _make_trainable(one, False)

    def _check(self, models: Mapping[str, keras.Model]) -> None:
        for pattern in self.patterns:
            if not any(_chosen(models, [pattern])):
                found = of_nothing(pattern, list(_variables(models)))
                raise ConfigurationError(f"Freeze.layers: {found}")

    def plan(self, event: Event) -> list[tuple[str, str]]:
        """See `Callback`: lists the frozen layers and weights."""
        if event.step and not self._frozen:
            return []
        layers, weights = _chosen(event.models, self.patterns)
        parameters = sum(prod(weight.shape) for weight in weights)
        how_long = "for good" if self.until is None else f"until {self.until}"
        counts = ((len(layers), "layer"), (len(weights), "variable"), (parameters, "parameter"))
        text = ", ".join(f"{count} {what}{'s' * (count != 1)}" for count, what in counts) + f"; {how_long}"
        return [("frozen", f"{', '.join(self.patterns)}: {text}")]

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`."""
        if event.step == 0:
            self._set(frozen=True)
        if self._frozen:
            self._hold(event, controls)

    def on_step(self, event: StepEvent, controls: Controls) -> None:
        """See `Callback`: releases them when the interval has passed."""
        if self._frozen and self.until is not None:
            self._set(frozen=False)
            self._release()
            controls.rebuild()
            _log.info("step %d: %s is trained from now on", event.step, ", ".join(self.patterns))

    def on_train_end(self, event: Event, controls: Controls) -> None:
        """See `Callback`: releases them; the next `fit` freezes again what is due to stay frozen."""
        self._release()
        controls.rebuild()  # later evaluations use the full set of trainable weights

    def on_exception(self, event: Event, error: BaseException) -> None:
        """See `Callback`: releases them, as `on_train_end` does."""
        self._release()

    def state(self) -> dict[str, Any]:
        """See `Callback`."""
        return {"frozen": self._frozen}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Callback`."""
        self._set(state["frozen"])

    def _hold(self, event: Event, controls: Controls) -> None:
        layers, weights = _chosen(event.models, self.patterns)
        for one in (*layers, *weights):
            if one.trainable or id(one) in _held:
                _held.setdefault(id(one), (one, set()))[1].add(self)
                _make_trainable(one, False)
        controls.rebuild()

    def _release(self) -> None:
        for key, (one, holding) in list(_held.items()):
            holding.discard(self)
            if not holding:
                del _held[key]
                _make_trainable(one, True)


def held() -> set[int]:
    """Returns the ids of the layers and variables that a `Freeze` has frozen and will release."""
    return set(_held)


def _chosen(
    models: Mapping[str, keras.Model], patterns: Sequence[str]
) -> tuple[list[keras.Layer], list[Any]]:
    """Returns the layers to freeze, and all weights to freeze, those of these layers included."""
    layers: dict[int, keras.Layer] = {}
    weights = []
    for path, (layer, variable) in _variables(models).items():
        chosen = [pattern for pattern in patterns if matches(path, pattern)]
        if any(matches(path.rpartition("/")[0], pattern) for pattern in chosen):
            layers[id(layer)] = layer
        if chosen and any(variable is own for own in layer._trainable_variables):
            weights.append(variable)
    return list(layers.values()), weights


def _variables(models: Mapping[str, keras.Model]) -> dict[str, tuple[keras.Layer, Any]]:
    """Returns the variables of the models by path, each with the layer that owns it."""
    owners = {
        id(variable): layer
        for model in models.values()
        for layer in model._flatten_layers()
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables)
    }
    named = state.shortened(state.of_models(models))
    return {path: (owners[id(v)], v) for path, v in named.items() if id(v) in owners}


def _make_trainable(one: Any, trainable: bool) -> None:
    """Sets `trainable` of one layer or variable; Keras sets it for all that is inside a layer too."""
    inside = (
        [*one._flatten_layers(include_self=False), *one.variables] if isinstance(one, keras.Layer) else []
    )
    before = [(inner, inner.trainable) for inner in inside]
    one.trainable = trainable
    for inner, was in before:  # from outer layers to inner layers, then variables
        inner.trainable = was
