"""Evaluations and predictions of whole sets: every example once, on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from looplab.callbacks.keras.batch_calls import BatchCalls, Calls
from looplab.data import explained
from looplab.errors import DataError
from looplab.execution import ChunkSize, CompiledLoop, StepMeans
from looplab.execution import explained as xla_explained
from looplab.protocols import Feed
from looplab.runs.tags import RAW
from looplab.runs.wall_time import Block, WallTime
from looplab.strategy import precision, tree
from looplab.training.engine.engine import Engine
from looplab.training.evaluation_schedule import EvaluationSchedule


def _never() -> bool:
    return False


class Evaluator:
    """Evaluates on a whole feed, as often as needed.

    If weights are averaged, the values are those of the averages; the values of the weights themselves are
    added as `raw_<name>`.

    Attributes:
        pictures: Kind and data of the pictures of the last evaluation's metrics, by tag.
    """

    def __init__(self, engine: Engine, feed: Feed) -> None:
        """Stores an engine that is prepared for testing, and a feed of known length."""
        self._engine, self._feed, self._chunk_size = engine, feed, engine.chunk_size.copy()
        self.pictures: dict[str, tuple[str, Any]] = {}

    def run(
        self,
        give_up: Callable[[], bool] = _never,
        wall_time: WallTime | None = None,
        batches: BatchCalls | None = None,
    ) -> dict[str, float] | None:
        """Returns the values by name, or None if it gave up.

        Args:
            give_up: Called between executions; True ends the evaluation.
            wall_time: The object that counts the time, if any.
            batches: The batch hooks to call; with averages, for the evaluation with averages only.
        """
        if not self._engine.weights.averages():
            return self._values(give_up, wall_time, batches)
        raw = self._values(give_up, wall_time)
        if raw is None:
            return None
        with self._engine.weights.averaged():  # last, so that the metrics' pictures are of the averages too
            averaged = self._values(give_up, wall_time, batches)
        return None if averaged is None else averaged | _named_raw(raw)

    def _values(
        self, give_up: Callable[[], bool], wall_time: WallTime | None, batches: BatchCalls | None = None
    ) -> dict[str, float] | None:
        try:
            return self._once(give_up, wall_time, batches)
        except tf.errors.OpError as error:
            if not self._engine.loops.leaves_xla("test", error):
                with xla_explained(self._engine.loops.mode_of("test")):
                    raise
            return self._once(give_up, wall_time, batches)

    def _once(
        self, give_up: Callable[[], bool], wall_time: WallTime | None, batches: BatchCalls | None
    ) -> dict[str, float] | None:
        metrics, loop = self._engine.metrics, self._engine.loops.of("test")
        told = None if batches is None else Told(batches, lambda: metrics.values("test"))
        with metrics.apart("test"):
            means = evaluate(loop, self._feed, self._chunk_size, give_up, wall_time, told)
            self.pictures = metrics.pictures("test")
            return None if means is None else means | metrics.values("test")


class Told(NamedTuple):
    """The batch hooks of an evaluation, and the values for them.

    Attributes:
        batches: The callbacks.
        metrics: Returns the values of the metrics so far.
    """

    batches: BatchCalls
    metrics: Callable[[], dict[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """One validation set, and its schedule.

    Attributes:
        split: Its name; `"validation"` if there is only one.
        feed: Its batches.
        schedule: The steps at which it is due.
        evaluator: Evaluates on it.
    """

    split: str
    feed: Feed
    schedule: EvaluationSchedule
    evaluator: Evaluator


def evaluate(
    loop: CompiledLoop,
    feed: Feed,
    chunk_size: ChunkSize,
    give_up: Callable[[], bool] = _never,
    wall_time: WallTime | None = None,
    told: Told | None = None,
) -> dict[str, float] | None:
    """Runs one whole pass over a feed and returns the weighted means of the values of its steps.

    Args:
        loop: The loop of the test step.
        feed: A feed of known length; it begins at its first batch.
        chunk_size: The number of steps at once.
        give_up: Called between executions; True ends the evaluation.
        wall_time: The object that counts the time, if any.
        told: The batch hooks; they limit the number of steps in an execution.

    Returns:
        The means by name, or None if it gave up.
    """
    means, wall_time = StepMeans(), wall_time or WallTime()
    total, done = feed.steps_per_epoch or 0, 0
    feed.seek(0)
    while left := total - done:
        if give_up():
            return None
        if told is not None:
            told.batches.before(done)
            left = min(left, told.batches.room(done))
        count = chunk_size.plan(min(left, feed.max_take or left))
        with explained(feed, done, count), timed(loop, wall_time, "evaluation"):
            steps = loop.run(feed, count)
        chunk_size.learn(steps.done)
        means.add(steps.values, steps.weights, steps.parts)
        done += steps.done
        if told is not None and told.batches.after(
            done, done == total, lambda: means.result() | told.metrics()
        ):
            break
    return means.result()


@contextmanager
def timed(loop: CompiledLoop, wall_time: WallTime, part: str) -> Iterator[Block]:
    """Counts an execution's time as a part, or as tracing and compilation if it did either."""
    traces, tracing, retraces = loop.traces(), loop.tracing, loop.retraces.count
    compiled = len(loop.compiled)
    with wall_time.time(part) as block:
        yield block
        new = list(loop.compiled.values())[compiled:]
        if new or loop.traces() != traces:
            wall_time.compilations += new
            wall_time.move(loop.tracing - tracing, block, "trace and compile/trace")
            block.part = "trace and compile/compile"
            wall_time.retraces += loop.retraces.count - retraces


def predictions(engine: Engine, feed: Feed, calls: Calls | None = None) -> Iterator[Any]:
    """Yields the predictions of each batch of a whole feed, in order, as NumPy arrays.

    Args:
        engine: An engine prepared for predicting.
        feed: A feed of known length.
        calls: The hooks to call, as Keras calls callbacks of `predict`.
    """
    told = None if calls is None else calls.batches
    batches = engine.loops.batch_map().run(feed, None if told is None else told.steps)
    total, done = feed.steps_per_epoch or 0, 0
    execution: list[Any] = []  # its predictions so far
    if calls is not None:
        calls.begin(total)
    while True:
        if told is not None and done < total:
            told.before(done)
        # Not while it waits for the caller to take the next batch.
        with (
            precision.scope(engine.precision),
            engine.weights.averaged(),
            engine.metrics.apart("predict"),
            xla_explained(engine.modes.mode),
            explained(feed, 0, feed.steps_per_epoch or 0),
        ):
            batch = next(batches, None)
        if batch is None:
            break
        yield batch
        done += 1
        if told is not None:
            execution.append(batch)
            if told.after(done, done == total, partial(_outputs, execution)):
                break
            if done % told.steps == 0:
                execution = []
    if calls is not None:
        calls.end({})


def joined(parts: Iterable[Any]) -> Any:
    """Concatenates the predictions of several batches, NumPy arrays of shape `[examples, ...]`.

    Raises:
        DataError: If they cannot be concatenated.
    """
    batches = list(parts)  # what fails while they are computed has another reason
    try:
        return tree.map_structure(lambda *rows: np.concatenate(rows), *batches)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the predictions of the batches cannot be joined: {error} Let predict_step return "
            "outputs of one form and shape, or take them batch by batch (predict_batches)."
        ) from error


def _outputs(parts: Sequence[Any]) -> dict[str, Any]:
    """Returns the predictions of an execution as logs for Keras callbacks: a dict's outputs by name."""
    outputs = joined(parts)
    return dict(outputs) if isinstance(outputs, dict) else {"outputs": outputs}


def _named_raw(values: Mapping[str, Any]) -> dict[str, Any]:
    return {RAW + name: value for name, value in values.items()}
