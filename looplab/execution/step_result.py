"""What a step asks for and returns, and its reaction to numbers that are not finite."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import keras
import tensorflow as tf

from looplab.interval import Interval


class Guard(enum.Enum):
    """The reaction of a step to a loss or a gradient that is not finite."""

    OFF = "nothing"
    HOLD = "it makes no update, and fails"
    SEE = "it fails; the caller undoes the update"
    SEE_LOSS = "the same, for a loss only; for gradients the caller checks `traces` after many steps"


def are_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Whether all numbers are finite: one pass over each tensor, because only then their sum is finite.

    (A sum of finite numbers may overflow, but then training has diverged too.)
    """
    if not tensors:
        return tf.constant(True)
    dtype = tensors[0].dtype
    return tf.math.is_finite(tf.add_n([tf.cast(tf.reduce_sum(tensor), dtype) for tensor in tensors]))


# From an optimizer, the gradients of the global batch and their variables to scalars by name.
Measure = Callable[[Any, Sequence[Any], Sequence[Any]], Mapping[str, tf.Tensor]]


@dataclass(frozen=True)
class Update:
    """An update that a step requests.

    Attributes:
        optimizer: The name of the optimizer.
        loss_fn: A function from a slice of the replica's rows and `training=True` to values; see
            `Trainer.compute_loss`.
        batch: This replica's rows, or some of them.
        variables: Returns the variables to train; called after the loss was traced, which may build a model.
        regularized: The models whose penalties count.
        separable: Whether the loss of an example is meant to be independent of other examples.
        when: Scalar bool, the same on all replicas, whether anything is changed; None for always.
    """

    optimizer: str
    loss_fn: Callable[..., Any]
    batch: Any
    variables: Callable[[], Sequence[Any]]
    regularized: Sequence[keras.Model]
    separable: bool
    when: Any = None


class Scalars(NamedTuple):
    """Values of one step and their weights in a mean over steps; equal on every replica.

    Attributes:
        values: Scalars by name.
        weights: Their weights by name: a scalar, or shape `[parts]` for a value that is a sum of parts.
        parts: The parts of such values by name, shape `[parts]`; see `looplab.execution.StepMeans`.
    """

    values: dict[str, tf.Tensor]
    weights: dict[str, tf.Tensor]
    parts: dict[str, tf.Tensor]

    def renamed(self, prefix: str) -> Scalars:
        """Returns the scalars with a prefix before their names."""
        return Scalars(*({prefix + name: own for name, own in field.items()} for field in self))


class Result(NamedTuple):
    """The result of one step; equal on every replica.

    Attributes:
        values: Scalars by name.
        weights: The weight of each value in a mean over steps, by name; measured values have none.
        failed: Scalar bool, whether an update was not made because something was not finite.
        skipped: Scalar bool, whether an update was not made because a gradient overflowed in float16.
        shown: The values that this replica shows, by tag; tensors of any shape.
        parts: The parts of those values that are sums, by name, shape `[parts]`.
    """

    values: dict[str, tf.Tensor]
    weights: dict[str, tf.Tensor]
    failed: tf.Tensor
    skipped: Any
    shown: dict[str, tf.Tensor]
    parts: dict[str, tf.Tensor] = {}  # noqa: RUF012 - in a tuple, never changed


class Shown(NamedTuple):
    """Something that a step shows beside its scalars; see `looplab.summary`.

    Attributes:
        kind: `"scalar"`, `"image"`, `"histogram"` or `"text"`.
        interval: The steps at which it is shown.
        text: The text, if it is known when the step is traced; otherwise None.
    """

    kind: str
    interval: Interval
    text: str | None = None


class StepWatch(Protocol):
    """Makes further steps fail, by their results; see `looplab.optimization.SpikeWatch`."""

    def observe(self, result: Result) -> Result:
        """Returns the result of a step, perhaps marked as failed; in the graph, across replicas."""
        ...
