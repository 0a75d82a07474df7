"""The scalars of one step: what a step returns, reduced over replicas by one rule.

What `minimize` and `measure` return is global already and knows its weight. Any other scalar is
taken as a mean over the replica's own rows, and becomes the mean over the global batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from looplab import strategy
from looplab.errors import LossError


class Scalars(NamedTuple):
    """Values of one step and what they weigh in a mean over steps; equal on every replica."""

    values: dict[str, tf.Tensor]
    weights: dict[str, tf.Tensor]


class StepScope:
    """What a running step knows of itself: its purpose, its batch, and the scalars it made.

    Attributes:
        purpose: `"train"`, `"test"`, `"predict"`, or `"look"` while variables are being made.
        examples: Scalar float32, examples of the global batch.
    """

    def __init__(self, purpose: str, examples: Any) -> None:
        """Starts one step on one replica."""
        self.purpose, self.examples = purpose, examples
        self._global: dict[int, tuple[Any, Any]] = {}  # id(value) -> (value, weight)

    def note(self, scalars: Scalars) -> None:
        """Remembers scalars that are global, by identity: a step may rename what it returns."""
        for name, value in scalars.values.items():
            self._global[id(value)] = value, scalars.weights[name]

    def collect(self, logs: Any, rows: Any) -> Scalars:
        """Returns what a step returned as global scalars with their weights.

        Args:
            logs: Scalars by name.
            rows: Scalar float32, how many examples this replica held.

        Raises:
            LossError: If it is no dict of scalars.
        """
        if not isinstance(logs, Mapping):
            raise LossError(f"a step returned {type(logs).__name__}; return scalars by name.")
        values: dict[str, Any] = {}
        weights: dict[str, Any] = {}
        own = []
        for name, value in logs.items():
            if id(value) in self._global:
                values[name], weights[name] = self._global[id(value)]
                continue
            value = tf.cast(value, keras.config.floatx())
            if value.shape.rank != 0:
                raise LossError(
                    f"a step returned {name!r} with shape {tuple(value.shape)}; values by name must "
                    "be scalars. Take the mean of it."
                )
            values[name], weights[name] = value, self.examples
            own.append(name)
        if own and strategy.replicas() > 1:
            # A replica without rows has no value: what it computed there may be NaN.
            shares = [tf.where(rows > 0, values[name] * tf.cast(rows, values[name].dtype), 0) for name in own]
            for name, share in zip(own, strategy.reduce_sum(shares), strict=True):
                values[name] = share / tf.cast(self.examples, share.dtype)
        return Scalars(values, weights)


_running = threading.local()  # MirroredStrategy runs each replica in a thread of its own


@contextmanager
def entered(scope: StepScope) -> Iterator[StepScope]:
    """Makes `scope` the running step of this thread within the block."""
    before = getattr(_running, "scope", None)
    _running.scope = scope
    try:
        yield scope
    finally:
        _running.scope = before


def running() -> StepScope:
    """Returns the running step.

    Raises:
        LossError: If no step is running in this thread.
    """
    scope: StepScope | None = getattr(_running, "scope", None)
    if scope is None:
        raise LossError(
            "minimize, apply_gradients and update_metrics work inside a step only: call them from "
            "train_step or test_step, and let fit or evaluate run those."
        )
    return scope


def in_scope(method: Callable[[Any], Any], purpose: str) -> Callable[..., Any]:
    """Makes a step function of a trainer's step method.

    Args:
        method: From a replica's rows to scalars by name (for `"predict"`: to anything).
        purpose: See `StepScope`.

    Returns:
        From a replica's rows and the global count of examples to `Scalars` (for `"predict"` and
        `"look"`: to what the method returned).
    """

    def step(rows: Any, examples: Any = None) -> Any:
        count = tf.cast(strategy.batch_size(rows), tf.float32)
        scope = StepScope(purpose, count if examples is None else examples)
        with entered(scope):
            result = method(rows)
            return result if purpose in ("predict", "look") else scope.collect(result, count)

    return step
