"""One compiled function of (feed, k): k steps of training or evaluation without the host.

The single step and the loop are the same function (k = 1), so they cannot differ; k is a tensor, so
no length retraces. What the steps return is collected inside the graph and comes back once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from looplab import strategy as replication
from looplab.errors import ConfigurationError, nearest
from looplab.optimization import Result
from looplab.protocols import Feed, Steps

MODES = ("graph", "xla_step")

# From this replica's rows and the global count of examples to a result equal on every replica.
Step = Callable[[Any, tf.Tensor], Result]


class Execution:
    """Runs a step function k times over a feed, in one of TensorFlow's ways.

    `graph` is an in-graph loop. `xla_step` compiles the step in it with XLA on one device; under
    several replicas the step compiles its own gradients instead (collectives do not compile), and
    the loop stays as it is. With `run_eagerly` nothing is compiled: a breakpoint in the step works.
    """

    def __init__(
        self,
        step: Step,
        strategy: tf.distribute.Strategy,
        *,
        mode: str = "graph",
        run_eagerly: bool = False,
        counter: tf.Variable | None = None,
        undo: Sequence[tf.Variable] = (),
        undo_skipped: Sequence[tf.Variable] = (),
        averaged: Sequence[Sequence[tf.Variable]] = (),
    ) -> None:
        """Prepares the functions; nothing is traced before the first `run`.

        Args:
            step: Called inside `strategy.run` with `(local rows, examples of the global batch)`.
            strategy: Where it runs.
            mode: `"graph"` or `"xla_step"`.
            run_eagerly: Whether to run step by step in Python.
            counter: Scalar int64 that counts completed steps, increased after each one.
            undo: What a step that fails has changed in vain, on every replica: it gets its values back.
            undo_skipped: Likewise, of a step that skipped an update and that training goes on after.
            averaged: What becomes the mean over replicas after each step, each a variable's parts.
        """
        self._strategy, self._step, self._counter = strategy, step, counter
        self._undo, self._undo_skipped, self._averaged = list(undo), list(undo_skipped), list(averaged)
        self.mode, self.run_eagerly = mode, run_eagerly
        if run_eagerly:
            self._loop = self._eager_loop
            return
        jit = mode == "xla_step" and strategy.num_replicas_in_sync == 1
        # Partials, because TensorFlow warns of retracing where many trainers trace one method each.
        one, loop = partial(self._one_step), partial(self._graph_loop)
        self._one = tf.function(one, jit_compile=jit or None, reduce_retracing=True)
        self._compiled = tf.function(loop, reduce_retracing=True)
        self._loop = self._compiled_loop
        self._outputs: Any = None

    def run(self, feed: Feed, count: int) -> Steps:
        """Runs up to `count` steps on the feed's next batches, or to the first that fails; on the host.

        Args:
            feed: Positioned at the batch of the next step.
            count: How many, at least 1.
        """
        if not self.run_eagerly and self._outputs is None:
            # What a step returns must be known before a loop can collect it. Traced out here: in the
            # loop's own trace, tapes would not record.
            traced = self._one.get_concrete_function(feed.element_spec, self._padded_size(feed))
            self._outputs = traced.structured_outputs
        results = self._loop(feed.take(count), count, self._padded_size(feed))
        failures = np.asarray(results.failed)
        done = int(failures.argmax()) if failures.any() else count
        found = {name: np.asarray(series, np.float64) for name, series in results.values.items()}
        values = {name: series[:done] for name, series in found.items()}
        weights = {name: np.asarray(series, np.float64)[:done] for name, series in results.weights.items()}
        bad = np.zeros(done, bool)
        for name, shares in weights.items():
            if name == "loss" or name.endswith("/loss"):
                bad |= ~np.isfinite(values[name]) & (shares > 0)
        failed = {name: float(series[done]) for name, series in found.items()} if done < count else None
        first_bad = int(bad.argmax()) if bad.any() else None
        return Steps(done, values, weights, first_bad, failed, results.shown if failed is None else {})

    def graph(self, batch: Any) -> tf.Graph:
        """Traces a step for a batch of exactly this size, apart from those that run; not eager ones."""
        spec = tf.nest.map_structure(lambda part: tf.TensorSpec(part.shape, part.dtype), batch)
        return tf.function(partial(self._one_step)).get_concrete_function(spec).graph

    def traces(self) -> tuple[int, int]:
        """Returns how often the step and the loop were traced; once each unless shapes changed."""
        if self.run_eagerly:
            return 0, 0
        counts = (f.experimental_get_tracing_count() for f in (self._one, self._compiled))
        return tuple(counts)

    def _padded_size(self, feed: Feed) -> int | None:
        return _padded_size(self._strategy, feed)

    def _one_step(self, batch: Any, padded_to: int | None = None) -> Result:
        batch = batch if padded_to is None else replication.padded(batch, padded_to)
        examples = tf.cast(replication.batch_size(batch), tf.float32)
        undo, undo_skipped = _giving_back(self._undo), _giving_back(self._undo_skipped)

        def replica(whole: Any) -> Result:
            return self._step(replication.local_rows(whole), examples)

        result = replication.first(self._strategy, self._strategy.run(replica, args=(batch,)))
        held = replication.rows_held(batch, self._strategy.num_replicas_in_sync)
        for parts in self._averaged:
            replication.average_parts(parts, held)
        if self._undo:
            tf.cond(result.failed, undo, lambda: None)
        if self._undo_skipped:
            tf.cond(result.skipped, undo_skipped, lambda: None)
        if self._counter is not None:
            self._counter.assign_add(tf.where(result.failed, tf.constant(0, tf.int64), 1))
        return result

    def _graph_loop(self, batches: Any, count: tf.Tensor, padded_to: int | None) -> Result:
        collected = tf.nest.map_structure(
            lambda scalar: tf.TensorArray(scalar.dtype, count, element_shape=[]),
            _series(self._outputs),
        )
        shown = {  # of one element, written again and again: their shapes may change from step to step
            tag: tf.TensorArray(value.dtype, 1, element_shape=value.shape, clear_after_read=False)
            for tag, value in self._outputs.shown.items()
        }
        index, failed = tf.constant(0), tf.constant(False)
        while tf.logical_and(index < count, tf.logical_not(failed)):
            result = self._one(_batch(batches, index), padded_to)
            collected = tf.nest.map_structure(
                lambda array, value: array.write(index, value),  # noqa: B023 - called at once
                collected,
                _series(result),
            )
            shown = {tag: array.write(0, result.shown[tag]) for tag, array in shown.items()}
            index, failed = index + 1, result.failed
        stacked = tf.nest.map_structure(lambda array: array.stack(), collected)
        return stacked._replace(shown={tag: array.read(0) for tag, array in shown.items()})

    def _compiled_loop(self, batches: Any, count: int, padded_to: int | None) -> Result:
        return self._compiled(batches, tf.constant(count), padded_to)

    def _eager_loop(self, batches: Any, count: int, padded_to: int | None) -> Result:
        steps: list[Result] = []
        while len(steps) < count and not (steps and steps[-1].failed):
            steps.append(self._one_step(_batch(batches, len(steps)), padded_to))
        stacked = tf.nest.map_structure(lambda *series: tf.stack(series), *(_series(step) for step in steps))
        return stacked._replace(shown=steps[-1].shown)


class Mapped:
    """Applies a step to every batch of a feed, in order."""

    def __init__(
        self, step: Callable[[Any], Any], strategy: tf.distribute.Strategy, run_eagerly: bool
    ) -> None:
        """Prepares the function; see `Execution`.

        Args:
            step: From a replica's rows to tensors with as many rows.
            strategy: Where it runs.
            run_eagerly: Whether to run in Python.
        """

        def one(batch: Any, padded_to: int | None) -> Any:
            whole = batch if padded_to is None else replication.padded(batch, padded_to)
            outputs = strategy.run(lambda whole: step(replication.local_rows(whole)), args=(whole,))
            joined = replication.concatenate(strategy, outputs)
            if padded_to is None:
                return joined
            return tf.nest.map_structure(lambda rows: rows[: replication.batch_size(batch)], joined)

        self._strategy = strategy
        self._one = one if run_eagerly else tf.function(partial(one), reduce_retracing=True)

    def run(self, feed: Feed) -> Iterator[Any]:
        """Gives the outputs of each batch of one whole pass, as NumPy arrays of shape `[examples, ...]`."""
        feed.seek(0)
        for _ in range(feed.steps_per_epoch or 0):
            outputs = self._one(_batch(feed.take(1), 0), _padded_size(self._strategy, feed))
            yield tf.nest.map_structure(np.asarray, outputs)


class Pace:
    """How many steps to run at once: a number given, or as many as fit in a fraction of a second.

    Nothing that is computed depends on it; it decides only how often the host looks in.
    """

    def __init__(self, steps_per_execution: int | str = "auto", seconds: float = 0.25) -> None:
        """Sets the length.

        Args:
            steps_per_execution: At least 1, or `"auto"`.
            seconds: What one execution should take with `"auto"`, so that progress is seen and
                Ctrl-C is served soon.

        Raises:
            ConfigurationError: If it is neither.
        """
        automatic = steps_per_execution == "auto"
        number = isinstance(steps_per_execution, int) and not isinstance(steps_per_execution, bool)
        if not automatic and not (number and int(steps_per_execution) >= 1):
            raise ConfigurationError(
                f"steps_per_execution: must be 'auto' or at least 1, got {steps_per_execution!r}."
            )
        self._automatic, self._seconds = automatic, seconds
        self._length = 1 if automatic else int(steps_per_execution)
        self._began = 0.0

    def copy(self) -> Pace:
        """Returns one with the same setting that has learned nothing."""
        return Pace("auto" if self._automatic else self._length, self._seconds)

    def plan(self, room: int) -> int:
        """Returns how many steps to run, at most `room`, and starts the clock."""
        self._began = time.perf_counter()
        return max(1, min(self._length, room))

    def learn(self, done: int) -> None:
        """Adapts the length to how long the `done` steps since `plan` took."""
        if not self._automatic:
            return
        each = (time.perf_counter() - self._began) / max(done, 1)
        fitting = math.floor(self._seconds / each) if each > 0 else 2 * self._length
        self._length = max(1, min(fitting, 2 * self._length))


def _padded_size(strategy: tf.distribute.Strategy, feed: Feed) -> int | None:
    """Returns the size that the batches of a feed are padded to; None where they are taken as they are."""
    return replication.padded_size(strategy, replication.static_rows(feed.element_spec), feed.examples(1))


def _series(result: Result) -> Any:
    """Returns what of each step is collected: not what is shown, nor what only the step itself needs."""
    return result._replace(shown={}, skipped=())


def _giving_back(variables: Sequence[tf.Variable]) -> Callable[[], None]:
    """Reads variables, and returns what gives them these values back."""
    before = [variable.read_value() for variable in variables]

    def give_back() -> None:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)

    return give_back


def check_mode(mode: str) -> str:
    """Returns `mode` if it is a way of execution looplab has.

    Raises:
        ConfigurationError: Otherwise, with the nearest valid name.
    """
    if mode not in MODES:
        raise ConfigurationError(
            f"execution: {mode!r} is not one of {', '.join(MODES)}." + nearest(str(mode), MODES)
        )
    return mode


def _batch(batches: Any, index: Any) -> Any:
    """Returns the next batch of an iterator, or the one at an index of stacked tensors."""
    if isinstance(batches, tf.data.Iterator):
        return next(batches)
    return tf.nest.map_structure(lambda part: part[index], batches)
