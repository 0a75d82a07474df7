"""Evaluations and predictions of whole sets: every example once, on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from looplab.data import explained
from looplab.errors import DataError
from looplab.execution import ChunkSize, CompiledLoop, StepMeans
from looplab.execution import explained as xla_explained
from looplab.loggers import value_names
from looplab.protocols import Feed
from looplab.runs.wall_time import Block, WallTime
from looplab.strategy import precision, tree
from looplab.training.engine.engine import Engine
from looplab.training.evaluation_schedule import EvaluationSchedule


def _never() -> bool:
    return False


class Evaluator:
    """Evaluates on a whole feed, as often as it is asked to.

    Where weights are averaged the values are those of the averages; beside them, as `raw_<name>`, stand those
    of the weights themselves.

    Attributes:
        pictures: Kind and data of what the metrics of the last evaluation show, by tag.
    """

    def __init__(self, engine: Engine, feed: Feed) -> None:
        """Takes an engine that is prepared for testing, and batches of known length."""
        self._engine, self._feed, self._chunk_size = engine, feed, engine.chunk_size.copy()
        self.pictures: dict[str, tuple[str, Any]] = {}

    def run(
        self, give_up: Callable[[], bool] = _never, wall_time: WallTime | None = None
    ) -> dict[str, float] | None:
        """Returns the values by name, or None if it gave up.

        Args:
            give_up: Asked between executions.
            wall_time: Where the time is counted, if anywhere.
        """
        if not self._engine.averages():
            return self._values(give_up, wall_time)
        raw = self._values(give_up, wall_time)
        if raw is None:
            return None
        with self._engine.averaged():  # the last, so that what metrics show is of the averages too
            averaged = self._values(give_up, wall_time)
        return None if averaged is None else averaged | _named_raw(raw)

    def _values(self, give_up: Callable[[], bool], wall_time: WallTime | None) -> dict[str, float] | None:
        try:
            return self._once(give_up, wall_time)
        except tf.errors.OpError as error:
            if not self._engine.loops.leaves_xla("test", error):
                with xla_explained(self._engine.loops.mode_of("test")):
                    raise
            return self._once(give_up, wall_time)

    def _once(self, give_up: Callable[[], bool], wall_time: WallTime | None) -> dict[str, float] | None:
        metrics, loop = self._engine.metrics, self._engine.loops.of("test")
        with metrics.apart("test"):
            means = evaluate(loop, self._feed, self._chunk_size, give_up, wall_time)
            self.pictures = metrics.pictures("test")
            return None if means is None else means | metrics.values("test")


@dataclass(frozen=True)
class Evaluation:
    """One validation set, and when it is evaluated.

    Attributes:
        split: Its name; `"validation"` where there is but one.
        feed: Its batches.
        schedule: When it is due.
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
) -> dict[str, float] | None:
    """Runs one whole pass over a feed and returns the weighted means of what its steps return.

    Args:
        loop: Of the test step.
        feed: Of known length; begins at its first batch.
        chunk_size: How many steps at once.
        give_up: Asked between executions.
        wall_time: Where the time is counted, if anywhere.

    Returns:
        Means by name, or None if it gave up.
    """
    means, wall_time = StepMeans(), wall_time or WallTime()
    total, done = feed.steps_per_epoch or 0, 0
    feed.seek(0)
    while left := total - done:
        if give_up():
            return None
        count = chunk_size.plan(min(left, feed.max_take or left))
        with explained(feed, done, count), timed(loop, wall_time, "evaluation"):
            steps = loop.run(feed, count)
        chunk_size.learn(steps.done)
        means.add(steps.values, steps.weights, steps.parts)
        done += steps.done
    return means.result()


@contextmanager
def timed(loop: CompiledLoop, wall_time: WallTime, part: str) -> Iterator[Block]:
    """Counts an execution as a part, or as tracing and compilation if it has done such."""
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


def predictions(engine: Engine, feed: Feed) -> Iterator[Any]:
    """Gives the predictions of each batch of a whole feed, in order, as NumPy arrays.

    Args:
        engine: Prepared for predicting.
        feed: Of known length.
    """
    batches = engine.loops.batch_map().run(feed)
    while True:
        # Not while it waits for whoever takes the next.
        with (
            precision.scope(engine.precision),
            engine.averaged(),
            engine.metrics.apart("predict"),
            xla_explained(engine.modes.mode),
            explained(feed, 0, feed.steps_per_epoch or 0),
        ):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def joined(parts: Iterable[Any]) -> Any:
    """Returns the predictions of several batches as one, NumPy arrays of shape `[examples, ...]`.

    Raises:
        DataError: If they cannot be joined.
    """
    try:
        return tree.map_structure(lambda *rows: np.concatenate(rows), *parts)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the predictions of the batches cannot be joined: {error} Let predict_step return "
            "outputs of one form and shape, or take them batch by batch (predict_batches)."
        ) from error


def _named_raw(values: Mapping[str, Any]) -> dict[str, Any]:
    return {value_names.RAW + name: value for name, value in values.items()}
