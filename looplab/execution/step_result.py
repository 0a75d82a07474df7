"""What one step comes to, and what it does about numbers that are not finite."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from looplab.interval import Interval


class Guard(enum.Enum):
    """What a step does about a loss or a gradient that is not finite."""

    OFF = "nothing"
    HOLD = "it makes no update, and fails"
    SEE = "it fails; whoever runs it undoes the update"
    SEE_LOSS = "likewise, of a loss only: of gradients, `traces` are looked at after many steps"


def are_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Whether all numbers are finite: one pass over each tensor, since their sum is finite only then.

    (A sum of finite numbers may overflow, where training has diverged as well.)
    """
    if not tensors:
        return tf.constant(True)
    dtype = tensors[0].dtype
    return tf.math.is_finite(tf.add_n([tf.cast(tf.reduce_sum(tensor), dtype) for tensor in tensors]))


# From an optimizer, the gradients of the global batch and their variables to scalars by name.
Measure = Callable[[Any, Sequence[Any], Sequence[Any]], Mapping[str, tf.Tensor]]


class Scalars(NamedTuple):
    """Values of one step and what they weigh in a mean over steps; equal on every replica.

    Attributes:
        values: Scalars by name.
        weights: Their weights by name: a scalar each, or shape `[parts]` of a value that is a sum of parts.
        parts: The parts of such values by name, shape `[parts]`; see `looplab.execution.StepMeans`.
    """

    values: dict[str, tf.Tensor]
    weights: dict[str, tf.Tensor]
    parts: dict[str, tf.Tensor]

    def renamed(self, prefix: str) -> Scalars:
        """Returns them under other names."""
        return Scalars(*({prefix + name: own for name, own in field.items()} for field in self))


class Result(NamedTuple):
    """What one step comes to; equal on every replica.

    Attributes:
        values: Scalars by name.
        weights: What each weighs in a mean over steps, by name; values that were measured have none.
        failed: Scalar bool, whether an update was not made because something was not finite.
        skipped: Scalar bool, whether an update was not made because a gradient overflowed in float16.
        shown: What this replica shows, by tag; tensors of any shape.
        parts: The parts of those values that are sums, by name, shape `[parts]`.
    """

    values: dict[str, tf.Tensor]
    weights: dict[str, tf.Tensor]
    failed: tf.Tensor
    skipped: Any
    shown: dict[str, tf.Tensor]
    parts: dict[str, tf.Tensor] = {}  # noqa: RUF012 - of a tuple, never changed


class Shown(NamedTuple):
    """Something that a step shows beside its scalars; see `looplab.summary`.

    Attributes:
        kind: `"scalar"`, `"image"`, `"histogram"` or `"text"`.
        interval: At which steps.
        text: What it shows, if that is known when the step is traced; else None.
    """

    kind: str
    interval: Interval
    text: str | None = None


class StepWatch(Protocol):
    """Has further steps fail, by what they come to; see `looplab.optimization.SpikeWatch`."""

    def observe(self, result: Result) -> Result:
        """Returns what a step came to, failed if it is to fail; in the graph, across replicas."""
        ...
