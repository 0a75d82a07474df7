"""One compiled function of (batches, k): k steps of training or evaluation without the host.

The single step and the loop are the same function (k = 1), so they cannot differ; k is a tensor, so no length
retraces. The results of the steps are collected inside the graph and returned once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import tensorflow as tf

from looplab import strategy as replication
from looplab.errors import ConfigurationError
from looplab.execution import autograph, xla_random
from looplab.execution.autograph import left_alone, trace
from looplab.execution.batches import Stacked, Taken, Waits, batch_at, spec_of, words
from looplab.execution.loop_bounds import refuse_unbounded
from looplab.execution.loop_shapes import (
    WHOLE,
    WHOLE_BYTES,
    LoopResult,
    LoopShape,
    check_names,
    compiled_kinds,
    full_batches,
    pull_batches,
    series_of,
    stack_full,
)
from looplab.execution.retraces import Retraces
from looplab.execution.step_result import Guard, Result, StepWatch
from looplab.execution.undo import Output, Undo, giving_back, placed
from looplab.protocols import Feed, Steps
from looplab.strategy import placement, tree

_NOTHING = Undo()

# From this replica's rows, the global number of examples and a guard to a result equal on all replicas.
Step = Callable[[Any, tf.Tensor, Guard], Result]


class CompiledLoop:
    """Runs a step function k times over a feed, in one of the execution modes.

    `graph` is an in-graph loop. `xla_step` compiles the step in it with XLA on one device; under several
    replicas the step compiles its own gradients instead (collectives do not compile), and the loop stays the
    same. `xla_loop` compiles the loop itself, over batches of one size; the loop in the graph runs a short
    last batch. With `run_eagerly` nothing is compiled: a breakpoint works.

    A step that fails leaves no trace. Without XLA each step holds back its own update. Compiled by XLA, that
    would double the cost of a small step: a condition copies what it keeps, and reads gradients once more. So
    there the updates are made; after all steps looplab looks for signs of a bad step, and if there are any,
    it repeats the steps from the state before, up to the one that failed.

    Attributes:
        mode: One of `looplab.options.execution.MODES`.
        run_eagerly: Whether steps run in Python.
        tracing: The seconds spent on tracing so far, without retracing for other shapes.
        retraces: The retraces so far.
        compiled: The kinds of batches (the lengths of all their axes) for which XLA has compiled steps, each
            with the seconds of the call that compiled it.
    """

    def __init__(
        self,
        step: Step,
        strategy: tf.distribute.Strategy,
        *,
        mode: str = "graph",
        run_eagerly: bool = False,
        counter: tf.Variable | None = None,
        undoing: Undo = _NOTHING,
        averaged: Sequence[Sequence[tf.Variable]] = (),
        watch: StepWatch | None = None,
    ) -> None:
        """Prepares the functions; nothing is traced before the first `run`.

        Args:
            step: Called inside `strategy.run` with `(local rows, examples of the global batch)`.
            strategy: The strategy under which it runs.
            mode: One of `looplab.options.execution.MODES`.
            run_eagerly: Whether to run step by step in Python.
            counter: Scalar int64, the number of completed steps, increased after each step.
            undoing: Whether steps fail if something is not finite, and what is undone then.
            averaged: The variables to average over replicas after each step, each as a variable's parts.
            watch: Makes further steps fail; their updates are made, and are then undone too.
        """
        self._strategy, self._step, self._counter = strategy, step, counter
        self._undoing, self._averaged, self._watch = undoing, list(averaged), watch
        self.mode, self.run_eagerly = mode, run_eagerly
        one, loop = left_alone(self._one_step), left_alone(self._graph_loop)
        jit = mode == "xla_step" and strategy.num_replicas_in_sync == 1
        self._one = tf.function(one, jit_compile=jit or None, reduce_retracing=True)
        self._loop = tf.function(loop, reduce_retracing=True)
        self._compiled_loop = tf.function(left_alone(self._stacked_loop), jit_compile=True)
        self._xla_loop = tf.function(left_alone(self._padded_loop), reduce_retracing=True)
        self._outputs: Any = None
        self._names: list[str] | None = None  # of the results of eager steps
        self._graph: tf.Graph | None = None  # of the step
        self._traces: dict[Any, Any] = {}  # by function and type of batches
        self.tracing, self.compiled = 0.0, dict[tuple[int | None, ...], float]()
        self.retraces = Retraces("evaluation" if counter is None else "training")

    def run(self, feed: Feed, count: int) -> Steps:
        """Runs up to `count` steps on the feed's next batches, or to the first that fails; on the host.

        Args:
            feed: A feed at the batch of the next step. Its `waited` grows by the time that steps wait.
            count: The number of steps, at least 1.

        Raises:
            ConfigurationError: If `xla_loop` gets batches whose size is not known.
        """
        shape = self._shape(feed)
        if not self.run_eagerly and self._outputs is None:
            # The step's outputs must be known before a loop can collect them. Traced out here, because tapes
            # would
            # not record in the loop's own trace.
            step = self._traced(self._one, feed.element_spec, shape)
            self._outputs, self._graph = step.structured_outputs, step.graph
        traces, taken = self.traces(), feed.take(count)
        with placed(self._graph):
            ran = [LoopResult.of(result, asked) for result, asked in self._results(feed, taken, count, shape)]
        if self.traces() != traces:
            self.retraces.note(taken, feed.element_spec)
        done = sum(piece.done for piece in ran)
        values, weights, parts = (
            {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
            for pieces in zip(*((piece.values, piece.weights, piece.parts) for piece in ran), strict=True)
        )
        bad = np.zeros(done, bool)
        for name, shares in weights.items():
            if name == "loss" or name.endswith("/loss"):
                bad |= ~np.isfinite(values[name]) & (shares > 0).any(axis=tuple(range(1, shares.ndim)))
        first_bad = int(bad.argmax()) if bad.any() else None
        failed = ran[-1].failed
        if failed is None:
            return Steps(done, values, weights, first_bad, None, ran[-1].shown, parts=parts)
        batch = None if isinstance(taken, tf.data.Iterator) else batch_at(taken, done, shape.rows)
        return Steps(done, values, weights, first_bad, failed, {}, batch, parts)

    def _results(
        self, feed: Feed, taken: Taken, count: int, shape: LoopShape
    ) -> Iterator[tuple[Result, int]]:
        """Yields the result and the number of each group of batches, up to a step that fails."""
        if self.run_eagerly:
            yield self._eager_loop(feed, taken, count, shape), count
        elif self.mode != "xla_loop":
            yield self._run_or_undo(self._loop, feed, taken, 0, count, shape), count
        else:
            full = full_batches(taken, count, shape)
            lengths = [min(shape.length, full - first) for first in range(0, full, shape.length)]
            calls = [(self._xla_loop, length) for length in lengths]
            done = 0
            for function, some in calls + [(self._loop, 1)] * (count - full):
                result = self._run_or_undo(function, feed, taken, done, some, shape)
                yield result, some
                if np.asarray(result.failed)[:some].any():
                    return
                done += some

    def _run_or_undo(
        self, function: Any, feed: Feed, taken: Taken, first: int, count: int, shape: LoopShape
    ) -> Result:
        """Calls a loop, and undoes a step that fails."""
        output = self._called(function, feed, taken, first, count, shape)
        failed = output.failed(count)
        if shape.guard in (Guard.OFF, Guard.HOLD) or (failed is None and bool(output.finite)):
            return output.result
        again, start, before = taken, first, output.before
        if isinstance(taken, tf.data.Iterator):
            again, start = Stacked(output.rows, tf.constant(shape.full)), 0
        if shape.guard is Guard.SEE_LOSS:  # which step was the first?
            self._undoing.put_back(before)
            each = shape._replace(guard=Guard.SEE)
            output = self._called(function, feed, again, start, count, each)
            failed = output.failed(count)
            if failed is None:  # not from a gradient; it may stay for long
                self._undoing.traces = ()
                return output.result
        self._undoing.put_back(before)
        if failed:
            self._called(function, feed, again, start, failed, shape)
        return output.result

    def _called(
        self, function: Any, feed: Feed, taken: Taken, first: int, count: int, shape: LoopShape
    ) -> Output:
        """Calls a loop; for arrays by its stored trace, because a lookup takes twice as long as the call."""
        streams = isinstance(taken, tf.data.Iterator)
        form = taken.element_spec if streams else taken.rows
        parts = [
            None if tree.is_absent(part) else (part.dtype, part.shape[1:]) for part in tf.nest.flatten(form)
        ]
        key = id(function), streams, shape, *parts
        if key not in self._traces:
            number = tf.TensorSpec([], tf.int32)  # any number of batches
            traced = self._traced(function, spec_of(taken, feed.element_spec), number, number, shape)
            if self.mode.startswith("xla"):
                refuse_unbounded(traced.graph)
            self._traces[key] = traced
        call, began = function if streams else self._traces[key], time.monotonic()
        output: Output = call(taken, tf.constant(first), tf.constant(count), shape)
        if streams:
            feed.waited += float(output.waits.seconds)
        whole = function is self._xla_loop
        if not whole and self.mode != "xla_step":
            return output
        lengths = [length for part in parts if part is not None for length in part[1]]
        compiled = compiled_kinds(taken, count, shape, output.lengths, lengths, whole)
        if new := [kind for kind in compiled if kind not in self.compiled]:
            each = (time.monotonic() - began) / len(new)
            self.compiled |= dict.fromkeys(new, each)
        return output

    def _traced(self, function: Any, *specs: Any) -> Any:
        """Traces a function for arguments, and adds the time to `tracing`."""
        began = time.monotonic()
        trace = function.get_concrete_function(*specs)
        self.tracing += time.monotonic() - began
        return trace

    def _shape(self, feed: Feed) -> LoopShape:
        rows = replication.static_rows(feed.element_spec)
        padded_to = replication.padded_size(self._strategy, rows, feed.examples(1))
        guard = self._guard(feed)
        if self.mode != "xla_loop":
            return LoopShape(rows, padded_to, 0, 0, guard)
        full = rows or feed.examples(1)
        if full is None or any(None in part.shape[1:] for part in tree.flatten(feed.element_spec)):
            raise ConfigurationError(
                "execution.mode: xla_loop needs batches of one size, but a batch is "
                f"{words(feed.element_spec)}: {feed.describe()}. Use execution=xla_step or graph, arrays, or "
                "a tf.data.Dataset batched with drop_remainder=True, whose examples have one shape."
            )
        of_batch = full * sum(
            math.prod(part.shape[1:]) * part.dtype.size for part in tree.flatten(feed.element_spec)
        )
        most = min(WHOLE, feed.steps_per_epoch or WHOLE, WHOLE_BYTES // max(1, of_batch))
        return LoopShape(rows, padded_to, full, max(1, most), guard)

    def _guard(self, feed: Feed) -> Guard:
        if not self._undoing.guarded:
            return Guard.OFF
        makes = (self.mode == "xla_step" or self._undoing.afterwards) and feed.gives_rows
        makes = makes and self._strategy.num_replicas_in_sync == 1
        if self.run_eagerly or not (makes or self.mode == "xla_loop"):
            return Guard.HOLD
        return Guard.SEE_LOSS if self._undoing.traces else Guard.SEE

    def graph(self, batch: Any) -> tf.Graph:
        """Traces a step separately, for a batch of exactly this size; not with `run_eagerly`."""
        spec = tree.map_structure(lambda part: tf.TensorSpec(part.shape, part.dtype), batch)
        return trace(self._one_step, spec).graph

    def traces(self) -> tuple[int, int]:
        """Returns how often the step and the loop were traced; once each unless shapes changed."""
        loops = self._loop, self._compiled_loop
        return (
            self._one.experimental_get_tracing_count(),
            sum(function.experimental_get_tracing_count() for function in loops),
        )

    def _one_step(self, batch: Any, shape: LoopShape | None = None) -> Result:
        if shape is not None and shape.padded_to is not None:
            batch = replication.padded(batch, shape.padded_to)
        examples = tf.cast(replication.batch_size(batch), tf.float32)
        guard = Guard.OFF if shape is None else shape.guard
        beside = self._undoing.beside if guard is Guard.HOLD else ()
        undo, undo_skipped = giving_back(beside), giving_back(self._undoing.skipped)
        translates = autograph.status()

        def replica(whole: Any) -> Result:
            with autograph.as_with(translates):
                return self._step(replication.local_rows(whole), examples, guard)

        in_xla = self.mode.startswith("xla") or placement.of(self._strategy).fixed_rows
        with xla_random.as_outside_xla() if in_xla else nullcontext():
            result = replication.first(self._strategy, self._strategy.run(replica, args=(batch,)))
        if self._watch is not None:
            result = self._watch.observe(result)
        held = replication.rows_held(batch, self._strategy.num_replicas_in_sync)
        for parts in self._averaged:
            replication.average_parts(parts, held)
        if beside:
            tf.cond(result.failed, undo, lambda: None)
        if self._undoing.skipped:
            tf.cond(result.skipped, undo_skipped, lambda: None)
        if self._counter is not None:
            self._counter.assign_add(tf.where(result.failed, tf.constant(0, tf.int64), 1))
        return result

    def _graph_loop(self, taken: Taken, first: tf.Tensor, count: tf.Tensor, shape: LoopShape) -> Output:
        """Runs the steps one by one in a loop of the graph."""
        before = self._undoing.before(shape.guard)
        if not isinstance(taken, tf.data.Iterator):

            def of_rows(index: tf.Tensor, _: tuple[()]) -> tuple[Result, tuple[()]]:
                return self._one(batch_at(taken, first + index, shape.rows), shape), ()

            result, _ = self._collect(of_rows, count, count, ())
            return Output(result, before, self._undoing.finite(shape.guard))
        parts = tree.flatten(taken.element_spec)
        compiles = self.mode == "xla_step" and not all(part.shape.is_fully_defined() for part in parts)

        def one(index: tf.Tensor, carried: tuple[Waits, Any]) -> tuple[Result, tuple[Waits, Any]]:
            waits, lengths = carried
            batch = batch_at(taken, index)
            if compiles:
                lengths = lengths.write(index, tf.concat([tf.shape(p) for p in tree.flatten(batch)], 0))
            waits = waits.until(batch)
            result = self._one(batch, shape)
            return result, (waits.after(result), lengths)

        axes = sum(part.shape.rank for part in parts) if compiles else 0
        lengths = tf.TensorArray(tf.int32, count if compiles else 0, element_shape=[axes])
        result, (waits, lengths) = self._collect(one, count, count, (Waits.begin(), lengths))
        return Output(result, before, self._undoing.finite(shape.guard), waits, lengths.stack())

    def _padded_loop(self, taken: Taken, first: tf.Tensor, count: tf.Tensor, shape: LoopShape) -> Output:
        """Runs the steps in one loop that XLA compiles."""
        before = self._undoing.before(shape.guard)
        waits: Any = ()
        kept: Any = ()
        if isinstance(taken, tf.data.Iterator):
            began = Waits.begin()
            rows = kept = pull_batches(taken, count)
            waits = began.until(rows)
        else:
            own = first * shape.full, (first + count) * shape.full
            rows = tree.map_structure(lambda part: part[own[0] : own[1]], taken.rows)
        result = self._compiled_loop(stack_full(rows, shape), count, shape)
        return Output(result, before, self._undoing.finite(shape.guard), waits, rows=kept)

    def _stacked_loop(self, stack: Any, count: tf.Tensor, shape: LoopShape) -> Result:
        """Runs the first steps of a stack, whose length is fixed for XLA."""

        def one(index: tf.Tensor, _: tuple[()]) -> tuple[Result, tuple[()]]:
            # Not the trace of a step: it leaves the rows open, but the gradient of an LSTM needs them in XLA.
            return self._one_step(tree.map_structure(lambda part: part[index], stack), shape), ()

        return self._collect(one, count, shape.length, ())[0]

    def _collect(
        self, one: Callable[[tf.Tensor, Any], tuple[Result, Any]], count: tf.Tensor, room: Any, carried: Any
    ) -> tuple[Result, Any]:
        """Runs up to `count` steps in a loop of the graph; their scalars become series of shape `[room]`.

        Args:
            one: A function from the index of a step and the carried values to its result and the next values.
            count: The number of steps.
            room: The length of the series.
            carried: The values for the first step.
        """
        collected = tree.map_structure(
            lambda value: tf.TensorArray(value.dtype, room, element_shape=value.shape),
            series_of(self._outputs),
        )
        shown = {  # of one element, overwritten each step, because shapes may change from step to step
            tag: tf.TensorArray(value.dtype, 1, element_shape=value.shape, clear_after_read=False)
            for tag, value in self._outputs.shown.items()
        }

        def goes_on(index: tf.Tensor, failed: tf.Tensor, *_: Any) -> tf.Tensor:
            return tf.logical_and(index < count, tf.logical_not(failed))

        def turn(index: tf.Tensor, _: tf.Tensor, collected: Any, shown: Any, carried: Any) -> Any:
            result, carried = one(index, carried)
            collected = tree.map_structure(
                lambda array, value: array.write(index, value), collected, series_of(result)
            )
            shown = {tag: array.write(0, result.shown[tag]) for tag, array in shown.items()}
            return index + 1, result.failed, collected, shown, carried

        start = tf.constant(0), tf.constant(False), collected, shown, carried
        *_, collected, shown, carried = tf.while_loop(goes_on, turn, start)
        stacked = tree.map_structure(lambda array: array.stack(), collected)
        return stacked._replace(shown={tag: array.read(0) for tag, array in shown.items()}), carried

    def _eager_loop(self, feed: Feed, taken: Taken, count: int, shape: LoopShape) -> Result:
        steps: list[Result] = []
        while len(steps) < count and not (steps and steps[-1].failed):
            began = time.monotonic()
            batch = batch_at(taken, len(steps), shape.rows)
            feed.waited += time.monotonic() - began
            steps.append(self._one_step(batch, shape))
            self._names = check_names(steps[-1], self._names)
        stacked = tree.map_structure(lambda *series: tf.stack(series), *(series_of(step) for step in steps))
        return stacked._replace(shown=steps[-1].shown)
