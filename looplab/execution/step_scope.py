"""The scalars of one step: what a step returns, reduced over replicas by one rule.

What `minimize` and `measure` return is global already and knows its weight. Any other scalar is
taken as a mean over the replica's own rows, and becomes the mean over the global batch.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from looplab import strategy
from looplab.errors import LossError
from looplab.execution import cross_replica, step_log
from looplab.execution.cross_replica import WITHIN
from looplab.execution.metric_results import MetricResults
from looplab.execution.step_log import Handed, Slice
from looplab.execution.step_result import Guard, Measure, Result, Scalars, Shown


@dataclass(frozen=True)
class Update:
    """An update that a step asks for.

    Attributes:
        optimizer: Its name.
        loss_fn: From a slice of the replica's rows and `training=True` to values; see `Trainer.compute_loss`.
        batch: This replica's rows, or some of them.
        variables: Gives what is trained; asked after the loss was traced, which may build a model.
        regularized: The models whose penalties count.
        separable: Whether the loss of some examples is meant to depend on no others.
        when: Scalar bool, the same on all replicas, whether anything is changed; None for always.
    """

    optimizer: str
    loss_fn: Callable[..., Any]
    batch: Any
    variables: Callable[[], Sequence[Any]]
    regularized: Sequence[keras.Model]
    separable: bool
    when: Any = None


class StepScope(ABC):
    """What a step knows of itself while it is traced or runs: its batch, and the scalars it made.

    What becomes of an update, a metric or something shown is said by its two kinds: one for the first trace,
    in which variables come to be, and one for steps that run.

    Attributes:
        examples: Scalar float32, examples of the global batch.
        rows: Scalar float32, those of this replica.
        valid: Which of the rows of the loss that is being computed are examples, bool of shape `[rows]`;
            None where all are (see `looplab.strategy.Padded`).
        in_xla: Whether the loss that is being traced will be compiled by XLA, apart from other replicas.
        here: What is being computed: the slice that a loss is asked for, else all rows of this replica.
        guard: What happens where a loss or gradient is not finite.
        is_aside: Whether what is traced now counts for nothing.
        metric_results: What metrics have given that the step keeps.
    """

    def __init__(
        self,
        examples: Any,
        rows: Any,
        fixed_rows: int | None = None,
        guard: Guard = Guard.OFF,
        valid: Any = None,
        measures: Sequence[Measure] = (),
    ) -> None:
        """Starts one step on one replica."""
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
        """Makes an update, or notes that the step makes one; returns its global scalars."""

    @abstractmethod
    def measure(
        self, loss_fn: Callable[..., Any], batch: Any, regularized: Sequence[keras.Model], separable: bool
    ) -> Scalars:
        """Computes a loss over the global batch and updates nothing; returns its global scalars.

        Args:
            loss_fn: From a slice of the replica's rows and `training=False` to values, weights or terms.
            batch: This replica's rows, or some of them.
            regularized: The models whose penalties count.
            separable: Whether the loss of an example does not depend on other examples.
        """

    @abstractmethod
    def apply_gradients(
        self, optimizer: str, gradients: Sequence[Any], variables: Sequence[Any], weight: Any
    ) -> None:
        """Applies gradients of sums over this replica's rows, or notes that the step does.

        Args:
            optimizer: Its name.
            gradients: Of the sum of weighted values.
            variables: What they belong to.
            weight: Scalar, the sum of the weights over this replica's rows.
        """

    @abstractmethod
    def update_metrics(self, targets: Any, predictions: Any, weights: Any = None) -> None:
        """Adds some examples, perhaps with weights, to the metrics, or notes what they will measure."""

    @abstractmethod
    def note_updated(self, metric: keras.Metric) -> None:
        """Takes that the step has updated a metric that a model or the trainer keeps."""

    @abstractmethod
    def show(self, tag: str, what: Shown, value: Any = None) -> None:
        """Takes what the step shows beside its scalars; of several values of one tag the first."""

    @abstractmethod
    def result(self, returned: Any) -> Any:
        """Returns what the step comes to, from what the step method returned."""

    def pieces(self, batch: Any, count: int) -> list[tuple[Any, Any]]:
        """Returns a batch in pieces, each with which of its rows are examples (None for all).

        Raises:
            LossError: If rows are padded, and these are others than those the step was given.
        """
        if self.valid is None:
            return [(strategy.rows(batch, index, count), None) for index in range(count)]
        if strategy.static_rows(batch) != strategy.static_rows(self.valid):
            raise LossError(
                f"a loss is asked for {strategy.static_rows(batch)} rows of a batch whose "
                f"{strategy.static_rows(self.valid)} rows are padded (strategy=tpu), so which of them "
                "count is not known. Give batches of one size that the replicas share evenly "
                "(drop_remainder=True)."
            )
        return [strategy.rows((batch, self.valid), index, count) for index in range(count)]

    @contextmanager
    def computing(self, here: Slice, valid: Any = None, *, in_xla: bool = False) -> Iterator[None]:
        """Says of what a loss within the block is computed.

        Args:
            here: The rows.
            valid: Which of them are examples.
            in_xla: Whether XLA will compile it.
        """
        before = self.here, self.valid, self.in_xla
        self.here, self.valid, self.in_xla = here, valid, in_xla
        try:
            yield
        finally:
            self.here, self.valid, self.in_xla = before

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Has what is traced within the block count for nothing: no metric, no summary takes note of it."""
        before, self.is_aside = self.is_aside, True
        try:
            yield
        finally:
            self.is_aside = before

    def note(self, scalars: Scalars) -> None:
        """Remembers scalars that are global, by identity: a step may rename what it returns."""
        for name, value in scalars.values.items():
            self._global[id(value)] = value, scalars.weights[name], scalars.parts.get(name)

    def fail_if(self, failed: tf.Tensor) -> None:
        """Notes, a scalar bool equal on every replica, that an update was not made.

        Raises:
            LossError: If the update is inside a loop or a condition of the graph.
        """
        self._must_be_outside(
            f"an update is made {WITHIN}, where whether it was finite cannot be taken out. Loop in "
            "Python, or use minimize(..., when=condition); or give the trainer on_nonfinite='ignore'."
        )
        self._failures.append(failed)

    def skip_if(self, skipped: tf.Tensor) -> None:
        """Notes, likewise, that an update was not made and that the next may be.

        Raises:
            LossError: If the update is inside a loop or a condition of the graph.
        """
        self._must_be_outside(
            f"an update in float16 is made {WITHIN}, where whether it overflowed cannot be taken "
            "out. Loop in Python, or use minimize(..., when=condition)."
        )
        self._skips.append(skipped)

    def must_meet(self, name: str) -> None:
        """Refuses a method by which replicas exchange values where they cannot meet.

        Args:
            name: Of the method.

        Raises:
            LossError: If there are others to meet, and it is inside a loop or a condition of the graph.
        """
        apart = tf.compat.v1.get_default_graph() is not self._graph
        if apart and strategy.replicas() > 1 and strategy.meets():
            raise cross_replica.refusal(name)

    def _must_be_outside(self, message: str) -> None:
        """Refuses what is traced now where it belongs to a loop or condition within the step."""
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
                f"{WITHIN}, where they cannot be taken out. Loop in Python, or leave the callback "
                "out."
            )
        for measure in self._measures:
            self._measured |= measure(optimizer, gradients, variables)

    def keep_shown(self, tag: str, value: Any) -> None:
        """Keeps a value that the step shows; of several of one tag the first, as of micro-batches.

        Raises:
            LossError: If a value is shown inside a loop or a condition of the graph.
        """
        if tf.compat.v1.get_default_graph() is not self._shows_in:
            raise LossError(
                f"looplab.summary: {tag!r} is shown {WITHIN}, out of which its value cannot be "
                "taken. Show it outside of that, with tf.where where it depends on a condition; every= "
                "says at which steps."
            )
        self._handed.shown.setdefault(tag, value)

    def log(self, name: str, value: Any, weight: Any) -> None:
        """Adds to a mean over the global batch; of several calls, as of micro-batches, all count.

        Args:
            name: Of the value.
            value: A number, or a tensor of shape `[examples, ...]`.
            weight: What it weighs in the mean; None for the number of examples, or 1 for each element.

        Raises:
            LossError: If it is inside a loop or a condition of the graph, or no numbers are given.
        """
        if self.is_aside:
            return
        step_log.check_logged_name(name)
        if (found := self.metric_results.of(value)) is not None:
            raise LossError(
                f"self.log: {name!r} is the result of the metric {found.metric.name!r}, which is logged at "
                "the end of the epoch, with all that it has seen. Leave the call out; or return the result "
                "from the step, under the name that it is to have."
            )
        if tf.compat.v1.get_default_graph() is not self._shows_in:
            raise LossError(
                f"self.log: {name!r} is logged {WITHIN}, out of which its value cannot be taken. Log outside "
                "of that: what a loop or a condition returns; or with weight=tf.where(condition, 1.0, 0.0), "
                "where it counts only sometimes."
            )
        here = self.here
        own = step_log.weighted_sum(
            name, value, weight, examples=here.examples, rows=here.rows, valid=self.valid
        )
        step_log.add(self._handed.logged, {name: own})

    @property
    def logged(self) -> Collection[str]:
        """The names of what was logged so far."""
        return self._handed.logged.keys()

    def take(self, handed: Handed) -> None:
        """Takes what a nested function has returned, see `nested`."""
        for tag, value in handed.shown.items():
            self._handed.shown.setdefault(tag, value)
        step_log.add(self._handed.logged, handed.logged)

    @contextmanager
    def nested(self) -> Iterator[Handed]:
        """Gives what a nested function must return of what it shows and logs: it is its own graph."""
        outer, self._handed = (self._handed, self._shows_in), Handed({}, {})
        self._shows_in = tf.compat.v1.get_default_graph()
        try:
            yield self._handed
        finally:
            self._handed, self._shows_in = outer

    def mean(self, values: Sequence[Any]) -> list[tf.Tensor]:
        """Returns means over this replica's rows as means over the rows of all."""
        if strategy.replicas() == 1:
            return list(values)
        # A replica without rows has no value: what it computed there may be NaN.
        shares = [tf.where(self.rows > 0, own * tf.cast(self.rows, own.dtype), 0) for own in values]
        return [share / tf.cast(self.examples, share.dtype) for share in strategy.reduce_sum(shares)]

    def collect(self, logs: Any) -> Result:
        """Returns what a step returned as global scalars with their weights.

        Args:
            logs: Scalars by name.

        Raises:
            LossError: If it is no dict of scalars.
        """
        if not isinstance(logs, Mapping):
            kind = "None" if logs is None else type(logs).__name__
            raise LossError(f"a step returned {kind}; return scalars by name.")
        values: dict[str, Any] = {}
        weights: dict[str, Any] = {}
        parts: dict[str, Any] = {}
        own = []
        for name, value in logs.items():
            if (found := self.metric_results.of(value)) is not None:  # of the whole epoch: it has no mean
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
            values[name] = total / weights[name]  # what weighs nothing has no value
        skipped = _any(self._skips)
        if self._skips:  # what it has seen is undone, so it counts in no mean
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
