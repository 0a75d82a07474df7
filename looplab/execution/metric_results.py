"""The results of metrics that a step asks for: one that it returns is no mean over steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from looplab import strategy
from looplab.errors import LossError


class MetricResult(NamedTuple):
    """A value that `metric.result()` gave.

    Attributes:
        value: The very object that it gave.
        metric: Of which it is.
        key: Under which it stands in a result that is a dict; None for the whole.
    """

    value: Any
    metric: keras.Metric
    key: Any

    def whole(self) -> Any:
        """Returns it from what all replicas have seen; inside `strategy.run`."""
        if strategy.replicas() == 1:
            return self.value
        result = self.metric.stateless_result([_over_replicas(v) for v in self.metric.variables])
        return result if self.key is None else result[self.key]


class MetricResults:
    """The results that one step has asked for."""

    def __init__(self) -> None:
        """Knows of none yet."""
        self._found: dict[int, MetricResult] = {}

    def note(self, metric: keras.Metric, result: Any) -> None:
        """Remembers what a metric gave, by identity: a step may rename what it returns."""
        for key, value in result.items() if isinstance(result, Mapping) else [(None, result)]:
            self._found[id(value)] = MetricResult(value, metric, key)

    def of(self, value: Any) -> MetricResult | None:
        """Returns the result that a value is, if it is one."""
        return self._found.get(id(value))

    def refuse_derived(self, name: str, value: Any) -> None:
        """Refuses a value that is computed from a result; in the graph, where that is known.

        Raises:
            LossError: With the metric.
        """
        if not self._found or not tf.is_tensor(value) or tf.executing_eagerly():
            return
        for tensor in _behind(value):
            if (found := self.of(tensor)) is not None:
                raise LossError(
                    f"a step returned {name!r}, which is computed from the result of the metric "
                    f"{found.metric.name!r}. The metric is a number of the whole epoch, and a mean over "
                    "steps of what is computed from it is none. Return metric.result() itself, or give the "
                    "metric a result() that computes it."
                )


def _behind(value: tf.Tensor) -> Iterator[tf.Tensor]:
    """Gives the tensors from which one is computed."""
    left, seen = [value], {id(value)}
    while left:
        tensor = left.pop()
        yield tensor
        for source in tensor.op.inputs:
            if id(source) not in seen:
                seen.add(id(source))
                left.append(source)


def _over_replicas(variable: Any) -> Any:
    """Returns a variable of a metric as it is over all replicas."""
    raw = strategy.unwrapped(variable)
    own = strategy.local_part(raw).read_value()
    if raw.aggregation == tf.VariableAggregation.SUM:
        return strategy.reduce_sum([own])[0]
    if raw.aggregation == tf.VariableAggregation.MEAN:
        return strategy.reduce_sum([own])[0] / strategy.replicas()
    return own
