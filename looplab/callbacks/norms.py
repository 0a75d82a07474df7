"""Logs the norms of parameters and gradients, by groups of layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from looplab.callbacks.base import Callback, Event, StepEvent
from looplab.checkpoint import state
from looplab.errors import ConfigurationError
from looplab.protocols import Controls
from looplab.targets import configurable


@configurable
class Norms(Callback):
    """Logs the Euclidean norms of parameters and of gradients, by groups of layers and in total.

    Tags are `parameter_norm/<group>` and `gradient_norm/<group>`, with `all` for everything. Norms of
    parameters are computed at the interval. Norms of gradients are computed in every step, before clipping,
    and logged with the step's other values.
    """

    def __init__(self, every: str | int = "100st", depth: int = 1) -> None:
        """Sets the interval and the groups.

        Args:
            every: The interval for the norms of parameters.
            depth: The number of levels of layers that make a group: 1 for the layers of a model, 2 for the
                layers inside them, 0 for whole models.

        Raises:
            ConfigurationError: If the depth is negative.
        """
        if depth < 0:
            raise ConfigurationError(f"Norms.depth: must be at least 0, got {depth}.")
        self.every = every
        self._depth = depth
        self._groups: dict[int, str] = {}  # by the id of a variable
        self._prefixes: dict[int, str] = {}  # by the id of an optimizer

    def on_check(self, event: Event) -> None:
        """See `Callback`: finds the groups.

        `on_train_begin` would be too late: looplab traces `measure` earlier, to time the execution modes.
        """
        several = len(event.models) > 1
        for path, variable in state.of_models(event.models).items():
            _, model, *layers, _ = path.split("/")
            self._groups[id(variable)] = "/".join([model] * several + layers[: self._depth]) or "all"
        several = len(event.optimizers) > 1
        self._prefixes = {id(made): f"{name}/" * several for name, made in event.optimizers.items()}

    def on_step(self, event: StepEvent, controls: Controls) -> None:
        """See `Callback`: logs the norms of the parameters."""
        trained = [v for model in event.models.values() for v in model.trainable_variables]
        norms = self._norms(trained, trained)
        controls.log({f"parameter_norm/{group}": float(norm) for group, norm in norms.items()})

    def measure(
        self,
        optimizer: keras.optimizers.Optimizer,
        gradients: Sequence[tf.Tensor | None],
        variables: Sequence[Any],
    ) -> Mapping[str, tf.Tensor]:
        """See `Callback`: the norms of the gradients; with several optimizers under `<optimizer>/`."""
        prefix = self._prefixes[id(optimizer)]
        pairs = [(v, g) for v, g in zip(variables, gradients, strict=True) if g is not None]
        norms = self._norms(*zip(*pairs, strict=True)) if pairs else {}
        return {f"{prefix}gradient_norm/{group}": norm for group, norm in norms.items()}

    def _norms(self, variables: Iterable[Any], tensors: Iterable[Any]) -> dict[str, tf.Tensor]:
        squares: dict[str, list[tf.Tensor]] = {"all": []}
        for variable, tensor in zip(variables, tensors, strict=True):
            value = tf.cast(tf.convert_to_tensor(tensor), tf.float32)
            square = tf.reduce_sum(tf.square(value))
            squares["all"].append(square)
            group = self._groups.get(id(variable), "other")  # variables that belong to no model
            if group != "all":
                squares.setdefault(group, []).append(square)
        return {group: tf.sqrt(tf.add_n(own)) for group, own in squares.items() if own}
