"""The scalars of one step: the values that a step returns, reduced over replicas by one rule.

The values of `minimize` and `measure` are global already and know their weights. Any other scalar is treated
as a mean over the replica's own rows, and becomes the mean over the global batch.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from looplab import strategy
from looplab.errors import LossError
from looplab.execution import cross_replica, step_log
from looplab.execution.cross_replica import WITHIN
from looplab.execution.metric_results import MetricResults
from looplab.execution.moved_draws import STEP, Part, Place
from looplab.execution.recompute import Chosen
from looplab.execution.row_random import Draws
from looplab.execution.step_log import Handed, Slice
from looplab.execution.step_result import Guard, Measure, Result, Scalars, Shown, Update


class StepScope(ABC):
    """The context of a step while it is traced or runs: its batch, and the scalars that it made.

    It has two subclasses that treat updates, metrics and summaries differently: one for the first trace, in
    which variables are created, and one for steps that run.

    Attributes:
        examples: Scalar float32, the number of examples in the global batch.
        rows: Scalar float32, the number of examples on this replica.
        valid: Which of the rows of the present loss are examples, bool of shape `[rows]`; None if all are
            (see `looplab.strategy.Padded`).
        in_xla: Whether XLA will compile the loss that is being traced, separately on each replica.
        here: The rows of the present computation: the slice for a loss, otherwise all rows of this replica.
        guard: The reaction to a loss or gradient that is not finite.
        is_aside: Whether the present trace does not count.
        metric_results: The results of metrics that the step has read.
        draws: Makes the random draws; None to draw as TensorFlow does.
        part: The part of the step that is traced or runs.
        recomputes: The layers that the backward pass computes again; None if there are none.
    """

    def __init__(
        self,
        examples: Any,
        rows: Any,
        fixed_rows: int | None = None,
        guard: Guard = Guard.OFF,
        valid: Any = None,
        measures: Sequence[Measure] = (),
        place: Callable[[], Place] = Place,
        draws: Draws | None = None,
        recomputes: Chosen | None = None,
    ) -> None:
        """Starts one step on one replica."""
        self.draws, self.recomputes, self._losses = draws, recomputes, 0
        self._is_placed = draws is not None
        self.part = Part(STEP, place() if self._is_placed else Place())
        self.valid, self.in_xla, self.is_aside = valid, False, False
        self.examples, self.rows, self.guard = examples, rows, guard
        self.here = Slice(rows, fixed_rows)
        self._handed = Handed({}, {})
        self.metric_results = MetricResults()
        self._failures: list[tf.Tensor] = []
        self._skips: list[tf.Tensor] = []
        self._measures = measures
        self._measured: dict[str, tf.Tensor] = {}
        self._graph = self._shows_in = tf.compat.v1.get_default_graph()
        self._global: dict[int, tuple[Any, Any, Any]] = {}  # id(value) -> (value, weight, parts or None)

    @abstractmethod
    def minimize(self, update: Update) -> Scalars:
        """Makes an update, or records that the step makes one; returns its global scalars."""

    @abstractmethod
    def measure(
        self, loss_fn: Callable[..., Any], batch: Any, regularized: Sequence[keras.Model], separable: bool
    ) -> Scalars:
        """Computes a loss over the global batch without an update; returns its global scalars.

        Args:
            loss_fn: A function from a slice of the replica's rows and `training=False` to values, weights or
                terms.
            batch: This replica's rows, or some of them.
            regularized: The models whose penalties count.
            separable: Whether the loss of an example does not depend on other examples.
        """

    @abstractmethod
    def apply_gradients(
        self, optimizer: str, gradients: Sequence[Any], variables: Sequence[Any], weight: Any
    ) -> None:
        """Applies gradients of sums over this replica's rows, or records that the step does.

        Args:
            optimizer: The name of the optimizer.
            gradients: The gradients of the sum of weighted values.
            variables: The variables of these gradients.
            weight: Scalar, the sum of the weights over this replica's rows.
        """

    @abstractmethod
    def update_metrics(self, targets: Any, predictions: Any, weights: Any = None) -> None:
        """Adds some examples, perhaps with weights, to the metrics, or records what they will measure."""

    @abstractmethod
    def note_updated(self, metric: keras.Metric) -> None:
        """Records that the step has updated a metric of a model or the trainer."""

    @abstractmethod
    def note_recomputed(self, generator: Any) -> None:
        """Records a seed generator from which a layer draws again, other numbers, in the backward pass."""

    @abstractmethod
    def show(self, tag: str, what: Shown, value: Any = None) -> None:
        """Records a summary of the step; of several values of one tag the first counts."""

    @abstractmethod
    def result(self, returned: Any) -> Any:
        """Returns the result of the step, from the values that the step method returned."""

    def pieces(self, batch: Any, count: int) -> list[tuple[Any, Any]]:
        """Returns a batch in slices, each with the mask of its rows that are examples (None for all).

        Raises:
            LossError: If rows are padded, and the batch is not the one that the step was given.
        """
        if self.valid is None:
            return [(strategy.rows(batch, index, count), None) for index in range(count)]
        if strategy.static_rows(batch) != strategy.static_rows(self.valid):
            raise LossError(
                f"a loss is computed for {strategy.static_rows(batch)} rows of a batch whose "
                f"{strategy.static_rows(self.valid)} rows are padded (strategy=tpu), so it is not known "
                "which of them are examples. Give batches of one size that the replicas share evenly "
                "(drop_remainder=True)."
            )
        return [strategy.rows((batch, self.valid), index, count) for index in range(count)]

    @contextmanager
    def computing(self, here: Slice, valid: Any = None, *, in_xla: bool = False) -> Iterator[None]:
        """Sets the rows of which a loss within the block is computed.

        Args:
            here: The rows.
            valid: Which of them are examples.
            in_xla: Whether XLA will compile the loss.
        """
        before = self.here, self.valid, self.in_xla
        self.here, self.valid, self.in_xla = here, valid, in_xla
        try:
            yield
        finally:
            self.here, self.valid, self.in_xla = before

    def next_loss(self, batch: Any, pieces: int = 1) -> list[Part]:
        """Returns the parts of the step in which the next loss is computed, one for each slice of a batch.

        Args:
            batch: This replica's rows.
            pieces: The number of slices.
        """
        self._losses += 1
        name = f"loss {self._losses}"
        if not self._is_placed:  # nothing asks where they are, and no operation is added
            return [Part(name)] * pieces
        places = self.part.place.pieces(strategy.rows_of(batch), pieces)
        return [Part(name, place) for place in places]

    @contextmanager
    def within(self, part: Part) -> Iterator[None]:
        """Makes the draws within the block those of a part of the step."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Makes a trace within the block count for nothing: metrics and summaries ignore it."""
        before, self.is_aside = self.is_aside, True
        try:
            yield
        finally:
            self.is_aside = before

    def note(self, scalars: Scalars) -> None:
        """Remembers global scalars, by identity: a step may return them under other names."""
        for name, value in scalars.values.items():
            self._global[id(value)] = value, scalars.weights[name], scalars.parts.get(name)

    def fail_if(self, failed: tf.Tensor) -> None:
        """Records, with a scalar bool equal on every replica, whether an update was not made.

        Raises:
            LossError: If the update is inside a loop or a condition of the graph.
        """
        self._must_be_outside(
            f"an update is made {WITHIN}, where looplab cannot see whether it was finite. Loop in "
            "Python, or use minimize(..., when=condition); or give the trainer on_nonfinite='ignore'."
        )
        self._failures.append(failed)

    def skip_if(self, skipped: tf.Tensor) -> None:
        """Records, like `fail_if`, that an update was skipped and that the next may be made.

        Raises:
            LossError: If the update is inside a loop or a condition of the graph.
        """
        self._must_be_outside(
            f"an update in float16 is made {WITHIN}, where looplab cannot see whether it overflowed. "
            "Loop in Python, or use minimize(..., when=condition)."
        )
        self._skips.append(skipped)

    def must_meet(self, name: str) -> None:
        """Refuses a method with which replicas exchange values, if they cannot communicate at this place.

        Args:
            name: The name of the method.

        Raises:
            LossError: If there are other replicas, and the call is inside a loop or a condition of the graph.
        """
        apart = tf.compat.v1.get_default_graph() is not self._graph
        if apart and strategy.replicas() > 1 and strategy.meets():
            raise cross_replica.refusal(name)

    def _must_be_outside(self, message: str) -> None:
        """Raises the message if the present trace is inside a loop or condition within the step."""
        if tf.compat.v1.get_default_graph() is not self._graph:
            raise LossError(message)

    def measure_update(self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        """Measures an update that is about to be made.

        Raises:
            LossError: If the update is inside a loop or a condition of the graph.
        """
        if self._measures:
            self._must_be_outside(
                "gradients are measured (by a callback such as Norms), and this update is made "
                f"{WITHIN}, which they cannot leave. Loop in Python, or leave the callback "
                "out."
            )
        for measure in self._measures:
            self._measured |= measure(optimizer, gradients, variables)

    def keep_shown(self, tag: str, value: Any) -> None:
        """Keeps a value that the step shows; of several values of one tag (as in micro-batches) the first.

        Raises:
            LossError: If a value is shown inside a loop or a condition of the graph.
        """
        if tf.compat.v1.get_default_graph() is not self._shows_in:
            raise LossError(
                f"looplab.summary: {tag!r} is shown {WITHIN}, which its value cannot leave. "
                "Show it outside of that, with tf.where if it depends on a condition; every= "
                "sets the steps."
            )
        self._handed.shown.setdefault(tag, value)

    def log(self, name: str, value: Any, weight: Any) -> None:
        """Adds a value to a mean over the global batch; all of several calls count, as in micro-batches.

        Args:
            name: The name of the value.
            value: A number, or a tensor of shape `[examples, ...]`.
            weight: Its weight in the mean; None for the number of examples, or 1 for each element.

        Raises:
            LossError: If the call is inside a loop or a condition of the graph, or without numbers.
        """
        if self.is_aside:
            return
        step_log.check_logged_name(name)
        if (found := self.metric_results.of(value)) is not None:
            raise LossError(
                f"self.log: {name!r} is the result of the metric {found.metric.name!r}, which is logged at "
                "the end of the epoch, for all its examples. Leave the call out; or return the result "
                "from the step, under the name that you want."
            )
        if tf.compat.v1.get_default_graph() is not self._shows_in:
            raise LossError(
                f"self.log: {name!r} is logged {WITHIN}, which its value cannot leave. Log outside of "
                "that: the result of the loop or condition; or with weight=tf.where(condition, 1.0, 0.0), "
                "if it counts only sometimes."
            )
        here = self.here
        own = step_log.weighted_sum(
            name, value, weight, examples=here.examples, rows=here.rows, valid=self.valid
        )
        step_log.add(self._handed.logged, {name: own})

    @property
    def logged(self) -> Collection[str]:
        """The names of the values that were logged so far."""
        return self._handed.logged.keys()

    def take(self, handed: Handed) -> None:
        """Adds the values that a nested function has returned, see `nested`."""
        for tag, value in handed.shown.items():
            self._handed.shown.setdefault(tag, value)
        step_log.add(self._handed.logged, handed.logged)

    @contextmanager
    def nested(self) -> Iterator[Handed]:
        """Yields the shown and logged values that a nested function, a separate graph, must return."""
        outer, self._handed = (self._handed, self._shows_in), Handed({}, {})
        self._shows_in = tf.compat.v1.get_default_graph()
        try:
            yield self._handed
        finally:
            self._handed, self._shows_in = outer

    def mean(self, values: Sequence[Any]) -> list[tf.Tensor]:
        """Converts means over this replica's rows to means over the rows of all replicas."""
        if strategy.replicas() == 1:
            return list(values)
        # A replica without rows has no value: its result may be NaN.
        shares = [tf.where(self.rows > 0, own * tf.cast(self.rows, own.dtype), 0) for own in values]
        return [share / tf.cast(self.examples, share.dtype) for share in strategy.reduce_sum(shares)]

    def collect(self, logs: Any) -> Result:
        """Converts the values that a step returned to global scalars with their weights.

        Args:
            logs: Scalars by name.

        Raises:
            LossError: If `logs` is not a dict of scalars.
        """
        if not isinstance(logs, Mapping):
            kind = "None" if logs is None else type(logs).__name__
            raise LossError(f"a step returned {kind}; return scalars by name.")
        values: dict[str, Any] = {}
        weights: dict[str, Any] = {}
        parts: dict[str, Any] = {}
        own = []
        for name, value in logs.items():
            if (found := self.metric_results.of(value)) is not None:  # of the whole epoch, without a mean
                values[name] = _scalar(name, found.whole())
                continue
            if id(value) in self._global:
                values[name], weights[name], own_parts = self._global[id(value)]
                if own_parts is not None:
                    parts[name] = own_parts
                continue
            values[name], weights[name] = _scalar(name, value), self.examples
            own.append(name)
        values |= dict(zip(own, self.mean([values[name] for name in own]), strict=True))
        sums = iter(strategy.reduce_sum([part for pair in self._handed.logged.values() for part in pair]))
        for name in self._handed.logged:
            total, weights[name] = next(sums), next(sums)
            values[name] = total / weights[name]  # without weight it has no value
        skipped = _any(self._skips)
        if self._skips:  # a skipped step is undone, so it counts in no mean
            weights = {name: tf.where(skipped, tf.zeros_like(own), own) for name, own in weights.items()}
        shown = self._handed.shown
        return Result(self._measured | values, weights, _any(self._failures), skipped, shown, parts)


def _scalar(name: str, value: Any) -> tf.Tensor:
    if value is None:
        raise LossError(f"a step returned scalars of which {name!r} is None; leave it out.")
    value = tf.cast(value, keras.config.floatx())
    if value.shape.rank != 0:
        raise LossError(
            f"a step returned {name!r} with shape {tuple(value.shape)}; values by name must "
            "be scalars. Take the mean of it."
        )
    return value


def _any(flags: Sequence[tf.Tensor]) -> tf.Tensor:
    return functools.reduce(tf.logical_or, flags or [tf.constant(False)])
