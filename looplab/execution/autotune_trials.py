"""Runs a step in several execution modes, each from the same state on the same batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from looplab.checkpoint import state
from looplab.execution.batches import Stacked, batch_at
from looplab.execution.compiled_loop import CompiledLoop
from looplab.execution.xla_refusal import why_not as reason_of
from looplab.protocols import Feed
from looplab.strategy import tree

_log = logging.getLogger("looplab")

SAMPLE = 8  # batches
_SAMPLE_BYTES = 256 * 2**20
_COMPARED = 2  # steps
TIMED = 0.2  # seconds of steps, twice
_ROUNDS = 3  # further measurements of as many steps, in turn
_SLOW = 3.0  # times the time in the graph: too slow to be measured more closely
# The allowed relative error of an update; an unstable step (Adam's first) amplifies rounding.
_TOLERANCES = {"float64": 1e-6, "float32": 1e-2}
_COARSE = 0.2  # in 16 bits

Make = Callable[[str], CompiledLoop]  # from a mode


@dataclass(frozen=True)
class Trial:
    """The result of trying one mode.

    Attributes:
        mode: One of `looplab.options.execution.MODES`.
        microseconds: The time of a step; None if it was not timed.
        seconds: The time until its first steps were done: tracing and compiling.
        why_not: Why the mode cannot be chosen, or was not tried; empty if it can be chosen.
    """

    mode: str
    microseconds: float | None = None
    seconds: float = 0.0
    why_not: str = ""

    def __str__(self) -> str:
        """Returns the result as text."""
        if self.microseconds is None:
            return f"{self.mode} {self.why_not}"
        return f"{self.mode} {self.microseconds:.4g} us{self.why_not and f' ({self.why_not})'}"


class Trials:
    """Runs a step in several modes, each from the same state on the same batches."""

    def __init__(
        self,
        sample: Any,
        variables: state.Variables,
        before: Mapping[str, np.ndarray],
        trained: list[Any],
        precision: str,
        draws: Sequence[str],
    ) -> None:
        self._sample, self._variables, self._before = sample, variables, before
        self._draws = ", ".join(draws)
        self._trained, self._tolerance = trained, _TOLERANCES.get(precision, _COARSE)
        self._weights = self._read()
        self._update: np.ndarray | None = None
        self._in_graph = float("inf")  # seconds of a step
        self._timed: dict[str, tuple[CompiledLoop, int]] = {}  # by mode, with the number of steps in a call

    def reference(self, execution: CompiledLoop, least: float) -> Trial:
        """Times the loop in the graph, whose update is the reference; roughly, if a step is below `least`."""
        began = time.perf_counter()
        execution.run(self._sample, min(_COMPARED, self._sample.most))
        seconds = time.perf_counter() - began
        self._update = self._read() - self._weights
        began = time.perf_counter()
        execution.run(self._sample, min(_COMPARED, self._sample.most))
        each = (time.perf_counter() - began) / min(_COMPARED, self._sample.most)
        microseconds = 1e6 * each if each < least else self._time(execution)
        self._in_graph = microseconds / 1e6
        return Trial(execution.mode, microseconds, seconds)

    def trial(self, mode: str, make: Make) -> Trial:
        """Times another mode, if it makes the same update."""
        state.assign(self._variables, dict(self._before), "the state before")
        began = time.perf_counter()
        try:
            execution = make(mode)
            execution.run(self._sample, min(_COMPARED, self._sample.most))
        except Exception as error:  # any error: the step itself ran in the graph
            _log.debug("execution=%s: %s", mode, error)
            why_not = f"cannot run this step: {reason_of(error)}"
            return Trial(mode, seconds=time.perf_counter() - began, why_not=why_not)
        seconds = time.perf_counter() - began
        assert self._update is not None
        off = float(np.linalg.norm(self._read() - self._weights - self._update))
        allowed = self._tolerance * float(np.linalg.norm(self._update))
        allowed += 1e-6 * float(np.linalg.norm(self._weights))
        if not off <= allowed:
            drawn = f"; XLA draws other random numbers for {self._draws}" if self._draws else ""
            why_not = f"rejected: its update is off by {off:.2g}{drawn}"
            return Trial(mode, self._time(execution), seconds, why_not)
        return Trial(mode, self._time(execution), seconds)

    def settled(self, trials: Sequence[Trial], until: float) -> list[Trial]:
        """Times the modes that can be chosen a few times more, in turn, as far as time allows.

        Other load on the machine lasts longer than one measurement: two cores may act like one for half a
        second.

        Args:
            trials: The trials so far.
            until: The time of `perf_counter` after which no round ends, as far as is known before it.
        """
        offered = [trial for trial in trials if trial.mode in self._timed and not trial.why_not]
        least = {trial.mode: trial.microseconds or 0.0 for trial in offered}
        for _ in range(_ROUNDS):
            seconds = sum(least[mode] * self._timed[mode][1] / 1e6 for mode in least)
            if time.perf_counter() + seconds > until:
                break
            for mode in least:
                execution, count = self._timed[mode]
                least[mode] = min(least[mode], self._run(execution, count) * 1e6)
        return [replace(trial, microseconds=least.get(trial.mode, trial.microseconds)) for trial in trials]

    def _run(self, execution: CompiledLoop, count: int) -> float:
        """Runs `count` steps and returns the seconds of one."""
        began = time.perf_counter()
        execution.run(self._sample, count)
        return (time.perf_counter() - began) / count

    def _time(self, execution: CompiledLoop) -> float:
        """Returns the microseconds of a step: the smaller of two times, because of other load on the machine.

        A hopelessly slow mode is timed once: a whole loop in XLA may be slower by a factor of 30.
        """
        times: list[float] = []
        count, each = 1, float("inf")
        while len(times) < 2:
            last = self._run(execution, count)
            each, took = min(each, last), last * count
            if took >= TIMED / 2 or count == self._sample.most:
                times.append(last)
                if last > _SLOW * self._in_graph:
                    break
                self._timed[execution.mode] = execution, count
            count = min(self._sample.most, max(count * 2 if took < TIMED / 8 else 1, int(TIMED / each)))
        return 1e6 * min(times)

    def _read(self) -> np.ndarray:
        return np.concatenate([np.asarray(v, np.float64).ravel() for v in self._trained])


class SampleFeed:
    """Repeats a few batches in memory, so the feed itself costs no time."""

    waited = 0.0
    max_take = None

    def __init__(self, batches: list[Any], feed: Feed) -> None:
        self.element_spec, self.steps_per_epoch = feed.element_spec, feed.steps_per_epoch
        self._batches, self._feed, self.gives_rows = batches, feed, feed.gives_rows
        self._rows = int(tree.first(batches[0]).shape[0])
        size = sum(part.dtype.size * int(np.prod(part.shape)) for part in tree.flatten(batches[0]))
        self.most = int(max(1, min(2048, _SAMPLE_BYTES // max(size, 1))))
        self._taken: dict[int, Stacked] = {}

    def take(self, count: int) -> Stacked:
        """Returns `count` batches of the sample, repeated as needed."""
        if count not in self._taken:
            own = [self._batches[index % len(self._batches)] for index in range(count)]
            rows = tree.map_structure(lambda *parts: tf.concat(parts, axis=0), *own)
            self._taken = {count: Stacked(rows, tf.constant(self._rows))}
        return self._taken[count]

    def examples(self, step: int) -> int | None:
        """Returns the number of examples in `step` steps of the whole feed, or None."""
        return self._feed.examples(step)

    def describe(self) -> str:
        """Returns the line that describes the whole feed."""
        return self._feed.describe()


def sample(feed: Feed) -> Any:
    """Returns a feed of the next few batches of another feed that have the shape of the first batch.

    Takes at most half an epoch: a pipeline that reads ahead must not start the next one, for which it may
    shuffle.
    """
    count = max(1, min(SAMPLE, (feed.steps_per_epoch or 2 * SAMPLE) // 2))
    batches = [batch_at(feed.take(1), 0) for _ in range(count)]
    shapes = [[part.shape for part in tree.flatten(batch)] for batch in batches]
    return SampleFeed([batch for batch, own in zip(batches, shapes, strict=True) if own == shapes[0]], feed)
