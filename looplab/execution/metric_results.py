"""The results of metrics that a step reads; such a result is not averaged over steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from looplab import strategy
from looplab.errors import LossError


class MetricResult(NamedTuple):
    """A value that `metric.result()` returned.

    Attributes:
        value: The returned object itself.
        metric: The metric.
        key: The key of the value if the result is a dict; None for the whole result.
    """

    value: Any
    metric: keras.Metric
    key: Any

    def whole(self) -> Any:
        """Returns the result over the examples of all replicas; inside `strategy.run`."""
        if strategy.replicas() == 1:
            return self.value
        result = self.metric.stateless_result([_over_replicas(v) for v in self.metric.variables])
        return result if self.key is None else result[self.key]


class MetricResults:
    """The metric results that one step has read."""

    def __init__(self) -> None:
        """Starts without results."""
        self._found: dict[int, MetricResult] = {}

    def note(self, metric: keras.Metric, result: Any) -> None:
        """Remembers the result of a metric, by identity: a step may return it under another name."""
        for key, value in result.items() if isinstance(result, Mapping) else [(None, result)]:
            self._found[id(value)] = MetricResult(value, metric, key)

    def of(self, value: Any) -> MetricResult | None:
        """Returns the metric result whose value this is, or None."""
        return self._found.get(id(value))

    def refuse_derived(self, name: str, value: Any) -> None:
        """Refuses a value that is computed from a metric's result; only in a graph, which shows this.

        Raises:
            LossError: With the metric.
        """
        if not self._found or not tf.is_tensor(value) or tf.executing_eagerly():
            return
        for tensor in _behind(value):
            if (found := self.of(tensor)) is not None:
                raise LossError(
                    f"a step returned {name!r}, which is computed from the result of the metric "
                    f"{found.metric.name!r}. The metric is a number of the whole epoch, so a mean over steps "
                    "of a value computed from it has no meaning. Return metric.result() itself, or give the "
                    "metric a result() that computes it."
                )


def _behind(value: tf.Tensor) -> Iterator[tf.Tensor]:
    """Yields the tensors from which a tensor is computed."""
    left, seen = [value], {id(value)}
    while left:
        tensor = left.pop()
        yield tensor
        for source in tensor.op.inputs:
            if id(source) not in seen:
                seen.add(id(source))
                left.append(source)


def _over_replicas(variable: Any) -> Any:
    """Returns a metric's variable, aggregated over all replicas."""
    raw = strategy.unwrapped(variable)
    own = strategy.local_part(raw).read_value()
    if raw.aggregation == tf.VariableAggregation.SUM:
        return strategy.reduce_sum([own])[0]
    if raw.aggregation == tf.VariableAggregation.MEAN:
        return strategy.reduce_sum([own])[0] / strategy.replicas()
    return own
