"""Weights that are not trained, or not yet."""

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

# By its id, each layer or variable that is held and was trainable before, and who holds it: the last one to
# release it makes it trainable again. (Keras' variables are no keys, since == compares values.)
_held: dict[int, tuple[Any, set[Callback]]] = {}


@configurable
class Freeze(Callback):
    """Freezes layers and weights chosen by pattern, from the start of training until a step, or for good.

    With `until="5ep"` the last step of epoch 5 is the last one without them, and the next one trains them.
    A frozen layer is one whose `trainable` is False, as in Keras: its weights, their slots in the
    optimizer and their averages keep every bit, and BatchNormalization uses its moving statistics and
    leaves them. Training then goes on with the optimizer as it is (Adam's bias correction counts the
    updates of the others). To unfreeze layers one after another, give several of these; a weight is
    trained when none holds it. What must never train can also be frozen before it is given to the
    trainer, `layer.trainable = False`.

    Patterns are those of parameter groups (`looplab.ParameterGroup`): of a layer's path, such as `stem` or
    `encoder/conv2d_*`, which freezes it and the layers in it; or of a weight's, such as `*/bias`, which
    freezes that alone (its layer goes on). Where there are several models, the model's name stands before.
    """

    times = 1

    def __init__(self, layers: str | Sequence[str], until: str | int | None = None) -> None:
        """Chooses the layers and weights, and how long they are frozen.

        Args:
            layers: One pattern or several.
            until: The interval after which they are trained, such as `"5ep"`; None keeps them frozen.

        Raises:
            ConfigurationError: If `until` is not an interval.
        """
        self.patterns = (layers,) if isinstance(layers, str) else tuple(layers)
        self.until = None if until is None else Interval.parse(until, what="Freeze.until")
        self._set(frozen=True)

    def _set(self, frozen: bool) -> None:
        self._frozen = frozen
        # An interval comes again, and only the first time counts: afterwards nothing waits for it.
        self.every = str(self.until) if frozen and self.until is not None else None

    def on_check(self, event: Event) -> None:
        """See `Callback`.

        Raises:
            ConfigurationError: If a pattern matches nothing.
        """
        self._check(event.models)

    def freeze(self, models: Mapping[str, keras.Model]) -> None:
        """Freezes what is chosen in some models and leaves it so, whether they are trained or not.

        Args:
            models: By name, built; those of no running `fit`.

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
        """See `Callback`: what is frozen, beside the parameter groups."""
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
        """See `Callback`: the time has come."""
        if self._frozen and self.until is not None:
            self._set(frozen=False)
            self._release()
            controls.rebuild()
            _log.info("step %d: %s is trained from now on", event.step, ", ".join(self.patterns))

    def on_train_end(self, event: Event, controls: Controls) -> None:
        """See `Callback`: what is to stay frozen is frozen again by the next `fit`."""
        self._release()
        controls.rebuild()  # evaluations after it are of all that is trainable

    def on_exception(self, event: Event, error: BaseException) -> None:
        """See `Callback`: likewise."""
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
    """Returns the ids of the layers and variables that some `Freeze` holds and will release."""
    return set(_held)


def _chosen(
    models: Mapping[str, keras.Model], patterns: Sequence[str]
) -> tuple[list[keras.Layer], list[Any]]:
    """Returns the layers that are frozen as such, and the weights that are, in them or alone."""
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
    """Returns the variables of the models by path, each with the layer whose own it is."""
    owners = {
        id(variable): layer
        for model in models.values()
        for layer in model._flatten_layers()
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables)
    }
    named = state.shortened(state.of_models(models))
    return {path: (owners[id(v)], v) for path, v in named.items() if id(v) in owners}


def _make_trainable(one: Any, trainable: bool) -> None:
    """Sets it of a layer or a variable alone: Keras sets it of all that is inside a layer too."""
    inside = (
        [*one._flatten_layers(include_self=False), *one.variables] if isinstance(one, keras.Layer) else []
    )
    before = [(inner, inner.trainable) for inner in inside]
    one.trainable = trainable
    for inner, was in before:  # layers from the outside to the inside, then variables
        inner.trainable = was
