"""Prediction: applies a step to every batch of a feed, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from looplab import strategy as replication
from looplab.errors import ConfigurationError
from looplab.execution import autograph
from looplab.execution.autograph import left_alone
from looplab.execution.batches import Taken, Waits, batch_at, spec_of
from looplab.execution.chunk_size import ChunkSize
from looplab.execution.loop_bounds import refuse_unbounded
from looplab.execution.retraces import Retraces
from looplab.execution.undo import placed
from looplab.protocols import Feed
from looplab.strategy import tree

_BYTES = 64 * 2**20  # the most outputs that are collected before they are returned


class BatchMap:
    """Applies a step to every batch of a feed, in order, with many batches in one call."""

    def __init__(
        self,
        step: Callable[..., Any],
        strategy: tf.distribute.Strategy,
        *,
        in_xla: bool = False,
        run_eagerly: bool = False,
    ) -> None:
        """Prepares the functions; see `CompiledLoop`.

        Args:
            step: A function from a replica's rows, and the number of examples of the global batch, to tensors
                with the same number of rows.
            strategy: The strategy under which it runs.
            in_xla: Whether XLA compiles the step, again for each number of rows; on one device only.
            run_eagerly: Whether to run in Python.
        """

        def one(batch: Any, padded_to: int | None) -> Any:
            whole = batch if padded_to is None else replication.padded(batch, padded_to)
            translates = autograph.status()
            examples = tf.cast(replication.batch_size(whole), tf.float32)

            def replica(whole: Any) -> Any:
                with autograph.as_with(translates):
                    return step(replication.local_rows(whole), examples)

            outputs = strategy.run(replica, args=(whole,))
            joined = replication.concatenate(strategy, outputs)
            if padded_to is None:
                return joined
            return tree.map_structure(lambda rows: rows[: replication.batch_size(batch)], joined)

        self._strategy, self._run_eagerly, self._in_xla = strategy, run_eagerly, in_xla
        self._one: Any = one
        if not run_eagerly:
            self._one = tf.function(left_alone(one), jit_compile=in_xla or None, reduce_retracing=True)
        self._loop = tf.function(left_alone(self._many), reduce_retracing=True)
        self._outputs: Any = None  # the step's outputs for a batch, once it is traced
        self._graph: tf.Graph | None = None  # of the step
        self._retraces = Retraces("prediction")

    def run(self, feed: Feed, at_once: int | None = None) -> Iterator[Any]:
        """Yields the outputs of each batch of one whole pass, as NumPy arrays of shape `[examples, ...]`.

        The first batch runs alone; later as many batches run in one call as fit in a fraction of a second and
        in little memory. If the outputs of several batches cannot be joined, all batches run alone.

        Args:
            feed: A feed of known length; it begins at its first batch.
            at_once: The largest number of batches in a call, from the first call on; None for as many as fit.
        """
        feed.seek(0)
        rows = replication.static_rows(feed.element_spec)
        size = replication.padded_size(self._strategy, rows, feed.examples(1))
        traces = self._traces()
        if not self._run_eagerly:
            step = self._one.get_concrete_function(feed.element_spec, size)
            self._outputs, self._graph = step.structured_outputs, step.graph
            _refuse_nothing(self._outputs)
            if self._in_xla:
                refuse_unbounded(step.graph, compiled=True)
        joins = not self._run_eagerly and _can_be_joined(self._outputs)
        left, pace, most = feed.steps_per_epoch or 0, ChunkSize(), 1
        if at_once is not None:
            pace = ChunkSize(at_once)
        while left:
            count = pace.plan(min(left, feed.max_take or left, most))
            taken = feed.take(count)
            with placed(self._graph):
                if count == 1:
                    found = [tree.map_structure(np.asarray, self._one(batch_at(taken, 0), size))]
                    _refuse_nothing(found[0])
                else:
                    found = self._collected(feed, taken, count, rows, size)
            if self._traces() != traces:
                self._retraces.note(taken, feed.element_spec)
                traces = self._traces()
            pace.learn(count)
            left -= count
            if joins:
                held = sum(part.nbytes for batch in found for part in tree.flatten(batch))
                most = max(1, _BYTES * count // max(1, held))
            yield from found

    def _collected(
        self, feed: Feed, taken: Taken, count: int, rows: int | None, size: int | None
    ) -> list[Any]:
        """Returns the outputs of several batches, which run in one call."""
        # Traced for any number of batches; later calls find this trace.
        spec = spec_of(taken, feed.element_spec)
        self._loop.get_concrete_function(spec, tf.TensorSpec([], tf.int32), rows, size)
        joined, lengths, waited = self._loop(taken, tf.constant(count), rows, size)
        feed.waited += float(waited)
        parts = [
            np.split(np.asarray(whole), np.cumsum(own)[:-1])
            for whole, own in zip(joined, lengths, strict=True)
        ]
        return [tree.pack_sequence_as(self._outputs, batch) for batch in zip(*parts, strict=True)]

    def _traces(self) -> int:
        functions = [self._loop] if self._run_eagerly else [self._one, self._loop]
        return sum(function.experimental_get_tracing_count() for function in functions)

    def _many(self, taken: Taken, count: tf.Tensor, rows: int | None, size: int | None) -> Any:
        """Returns the joined outputs of several batches, flat, the rows of each, and the waiting time."""
        outputs = tree.flatten(self._outputs)  # a loop cannot carry None
        joined = [
            tf.TensorArray(out.dtype, count, infer_shape=False, element_shape=[None, *out.shape[1:]])
            for out in outputs
        ]
        lengths = [tf.TensorArray(tf.int32, count, element_shape=[]) for _ in outputs]

        def turn(index: tf.Tensor, waits: Waits, joined: Any, lengths: Any) -> Any:
            batch = batch_at(taken, index, rows)
            waits = waits.until(batch)
            found = tree.flatten(self._one(batch, size))
            joined = [array.write(index, out) for array, out in zip(joined, found, strict=True)]
            lengths = [
                array.write(index, tf.shape(out)[0]) for array, out in zip(lengths, found, strict=True)
            ]
            return index + 1, waits.after(found), joined, lengths

        start = tf.constant(0), Waits.begin(), joined, lengths
        _, waits, joined, lengths = tf.while_loop(lambda index, *_: index < count, turn, start)
        return (
            [array.concat() for array in joined],
            [array.stack() for array in lengths],
            waits.seconds,
        )


def _refuse_nothing(outputs: Any) -> None:
    if not tree.flatten(outputs):
        raise ConfigurationError(
            f"predict_step returned {outputs}: return tensors of shape [examples, ...], nested as you like; "
            "some of them may be None."
        )


def _can_be_joined(outputs: Any) -> bool:
    """Whether the outputs of several batches can be concatenated: fixed shapes except for the first axis."""
    leaves = tree.flatten(outputs)
    return bool(leaves) and all(
        isinstance(out, tf.Tensor | tf.TensorSpec)
        and bool(out.shape.rank)
        and out.shape[1:].is_fully_defined()
        for out in leaves
    )
