"""The choice of the fastest way to run a step, measured on the step itself.

Between the ways that TensorFlow has to run the very same step lies a factor of up to 25 in either
direction, and no rule foresees it. So the ways are tried, on real batches and from the present state,
which is put back; each must make the update that the loop in the graph makes. What was measured is
remembered, so that the same step on the same machine is measured once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from looplab import devices, look
from looplab.checkpoint import state
from looplab.errors import ConfigurationError
from looplab.execution import Execution
from looplab.execution import why_not as reason_of
from looplab.protocols import Feed
from looplab.runs import cause
from looplab.stacked import Stacked, batch_at
from looplab.strategy import tree

_log = logging.getLogger("looplab")

SAMPLE = 8  # batches
_SAMPLE_BYTES = 256 * 2**20
_COMPARED = 2  # steps
_TIMED = 0.2  # seconds of steps, twice
_ROUNDS = 3  # of as many again, in turn
_SLOW = 3.0  # times that in the graph: not worth to be timed more closely
_BUDGET = 10.0  # seconds, or 2 % of the steps that are left
_FEW = 100  # steps
_LEAST_SAVING = 1.0  # seconds of steps; of less nothing is worth finding out
_NOT_TRIED = "not tried"
_MARGIN = 0.97  # of the time in the graph; a way that saves less is not taken
_LARGEST_SAVING = 0.75  # of that time, before a way was tried
_CONVOLUTIONS = {"Conv2D", "Conv2DBackpropInput", "Conv3D", "Conv3DBackpropInputV2", "DepthwiseConv2dNative"}
# How far an update may be off, as a part of its length; an unstable step (Adam's first) amplifies rounding.
_TOLERANCES = {"float64": 1e-6, "float32": 1e-2}
_COARSE = 0.2  # in 16 bits

Make = Callable[[str], Execution]  # from a mode


@dataclass(frozen=True)
class Trial:
    """What became of one way to run a step.

    Attributes:
        mode: Of `looplab.execution.MODES`.
        microseconds: Of a step; None if it was not timed.
        seconds: Until its first steps were done: tracing and compiling.
        why_not: Why it cannot be taken, or was not tried; empty if it can.
    """

    mode: str
    microseconds: float | None = None
    seconds: float = 0.0
    why_not: str = ""

    def __str__(self) -> str:
        """Returns it in words."""
        if self.microseconds is None:
            return f"{self.mode} {self.why_not}"
        return f"{self.mode} {self.microseconds:.4g} us{self.why_not and f' ({self.why_not})'}"


@dataclass(frozen=True)
class Choice:
    """The way that was chosen, and what led to it.

    Attributes:
        mode: Of `looplab.execution.MODES`.
        trials: The first is of the loop in the graph; none where nothing was measured.
        why: Why nothing was measured, or from where the figures are.
        seconds: What the measurement took.
        key: Of the step; see `key_of`. None where nothing was to be measured.
    """

    mode: str
    trials: tuple[Trial, ...] = ()
    why: str = ""
    seconds: float = 0.0
    key: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns it in JSON's types, for `environment.json`."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Returns it in words: what was chosen, and what was measured."""
        if not self.trials:
            return [f"{self.mode}; {self.why}" if self.why else self.mode]
        return [f"{self.mode}, {self.why}", "; ".join(map(str, self.trials))]


def choose(
    make: Make,
    modes: Sequence[str],
    feed: Feed,
    variables: state.Variables,
    *,
    trained: Iterable[Any],
    left: int,
    precision: str,
    operations: int,
    draws: Sequence[str] = (),
    serial: Sequence[str] = (),
    key: str | None,
) -> Choice:
    """Returns the fastest of several ways to run the steps that are left; on the host.

    Args:
        make: Makes what runs steps in a mode.
        modes: The ways there are; the first is the reference, without XLA.
        feed: The training batches, at the next one; it must be sought again afterwards.
        variables: Everything a step changes; has its values again afterwards, to the bit.
        trained: Those among them whose update is compared.
        left: Steps.
        precision: See `looplab.strategy.precision`.
        operations: How many a step has, about; XLA's time to compile is estimated from it.
        draws: The operations among them whose random numbers are others in XLA.
        serial: Those that are slower in a loop which XLA compiles whole; see `on_one_core`.
        key: Of the step, the machine and the versions; None if nothing is to be remembered.
    """
    if left < _FEW:
        return Choice(modes[0], why=f"{left} steps are too few to measure")
    known = _remembered(key)
    if known is not None:
        whole = _whole(known.trials[0], left)
        missing = [mode for mode in modes if mode not in [trial.mode for trial in known.trials]]
        if whole < _LEAST_SAVING:
            return _too_short(modes[0], whole)
        if not missing or known.needed > _budget(whole):
            trials = [*known.trials, *(_not_tried(mode, known.needed, whole) for mode in missing)]
            return _best(trials, left, "as measured in an earlier run of this step", 0.0)
    began = time.perf_counter()
    before = state.read(variables)
    laboratory = _Laboratory(sample(feed), variables, before, list(trained), precision, draws)
    needed = 0.5 + 0.003 * operations + 2 * _TIMED  # to compile a step and to time it
    try:
        trials = [laboratory.reference(make(modes[0]), least=_LEAST_SAVING / left)]
        whole = _whole(trials[0], left)
        # The whole loop in XLA first, in case no other can be: where XLA is the fastest, it mostly is.
        others = modes[1:] if serial else modes[:0:-1]
        for mode in others if whole >= _LEAST_SAVING else ():
            if time.perf_counter() - began + needed > _budget(whole):
                trials.append(_not_tried(mode, needed, whole))
            elif serial and mode == "xla_loop" and _best(trials, left, "", 0.0, sunk=True).mode == modes[0]:
                why_not = f"left out: it runs {', '.join(serial)} on one core, and XLA is no faster on all"
                trials.append(Trial(mode, why_not=why_not))
            else:
                trials.append(laboratory.trial(mode, make))
                needed = trials[-1].seconds + 2 * _TIMED  # another way compiles the same step
        if len(trials) > 1:
            trials = laboratory.settled(trials)
    finally:
        state.assign(variables, before, "the state before ways to run the step were measured")
    _remember(key, [trial for trial in trials if not trial.why_not.startswith(_NOT_TRIED)], needed)
    if whole < _LEAST_SAVING:
        return _too_short(modes[0], whole)
    spent = time.perf_counter() - began
    why = f"the fastest of {len(modes)} ways, measured in {_seconds(spent)}"
    return _best(trials, left, why, spent, sunk=True)


def on_one_core(kinds: Iterable[str]) -> list[str]:
    """Returns which operations a loop that XLA compiles whole computes on one core: a CPU's convolutions.

    Measured on two cores: 10 to 30 times slower than in the graph, but for the smallest. Where a step by
    itself gains nothing from XLA, such a loop is not worth its compilation.

    Args:
        kinds: The types of a step's operations.
    """
    return [] if tf.config.list_logical_devices("GPU") else sorted(_CONVOLUTIONS.intersection(kinds))


def _whole(reference: Trial, left: int) -> float:
    """Returns the seconds of the steps that are left, in the graph."""
    return (reference.microseconds or 0.0) * left / 1e6


def _budget(whole: float) -> float:
    """Returns the seconds that may be spent on measuring for a run of so many."""
    return min(max(_BUDGET, 0.02 * whole), _LARGEST_SAVING * whole)


def _too_short(mode: str, whole: float) -> Choice:
    return Choice(mode, why=f"{_seconds(whole)} of steps are too few to measure")


def _not_tried(mode: str, needed: float, whole: float) -> Trial:
    may = f"it may take {_seconds(needed)}, and {_seconds(_budget(whole))} may be spent"
    return Trial(mode, why_not=f"{_NOT_TRIED}: {may}")


def _best(trials: Sequence[Trial], left: int, why: str, seconds: float, sunk: bool = False) -> Choice:
    """Returns the way that ends soonest; what is compiled already (`sunk`) costs no more."""

    def cost(trial: Trial) -> float:
        return (trial.microseconds or 0.0) * left / 1e6 + (0.0 if sunk else trial.seconds)

    reference, *others = trials
    offered = [trial for trial in others if trial.microseconds is not None and not trial.why_not]
    best = min([reference, *offered], key=cost)
    if best is not reference and cost(best) > _MARGIN * cost(reference):
        best = reference
    return Choice(best.mode, tuple(trials), why, seconds)


class _Laboratory:
    """Runs a step in several ways, each from the same state on the same batches."""

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
        self._timed: dict[str, tuple[Execution, int]] = {}  # by mode, and in how many steps at once

    def reference(self, execution: Execution, least: float) -> Trial:
        """Times the loop in the graph, whose update the others must make; roughly, below `least` seconds."""
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
        """Times another way, if it makes the same update."""
        state.assign(self._variables, dict(self._before), "the state before")
        began = time.perf_counter()
        try:
            execution = make(mode)
            execution.run(self._sample, min(_COMPARED, self._sample.most))
        except Exception as error:  # of whatever kind: the step itself ran in the graph
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

    def settled(self, trials: Sequence[Trial]) -> list[Trial]:
        """Times those that may be taken a few times more, in turn.

        What else a machine does lasts longer than one measurement: two cores may be one for half a second.
        """
        offered = [trial for trial in trials if trial.mode in self._timed and not trial.why_not]
        least = {trial.mode: trial.microseconds or 0.0 for trial in offered}
        for _, mode in itertools.product(range(_ROUNDS), least):
            execution, count = self._timed[mode]
            least[mode] = min(least[mode], self._run(execution, count) * 1e6)
        return [replace(trial, microseconds=least.get(trial.mode, trial.microseconds)) for trial in trials]

    def _run(self, execution: Execution, count: int) -> float:
        """Returns the seconds of a step, of so many."""
        began = time.perf_counter()
        execution.run(self._sample, count)
        return (time.perf_counter() - began) / count

    def _time(self, execution: Execution) -> float:
        """Returns microseconds of a step: the least of two times, as others disturb the machine.

        After one long one of a way that is hopeless, which a whole loop in XLA may be by a factor of 30.
        """
        times: list[float] = []
        count, each = 1, float("inf")
        while len(times) < 2:
            last = self._run(execution, count)
            each, took = min(each, last), last * count
            if took >= _TIMED / 2 or count == self._sample.most:
                times.append(last)
                if last > _SLOW * self._in_graph:
                    break
                self._timed[execution.mode] = execution, count
            count = min(self._sample.most, max(count * 2 if took < _TIMED / 8 else 1, int(_TIMED / each)))
        return 1e6 * min(times)

    def _read(self) -> np.ndarray:
        return np.concatenate([np.asarray(v, np.float64).ravel() for v in self._trained])


class _Sample:
    """A few batches in memory, over and over: a feed that costs nothing."""

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
        if count not in self._taken:
            own = [self._batches[index % len(self._batches)] for index in range(count)]
            rows = tree.map_structure(lambda *parts: tf.concat(parts, axis=0), *own)
            self._taken = {count: Stacked(rows, tf.constant(self._rows))}
        return self._taken[count]

    def examples(self, step: int) -> int | None:
        return self._feed.examples(step)

    def describe(self) -> str:
        return self._feed.describe()


def sample(feed: Feed) -> Any:
    """Returns a feed of the next few batches of another that have the shapes of the first one.

    At most half an epoch: what a pipeline reads ahead must not begin the next one, for which it may shuffle.
    """
    count = max(1, min(SAMPLE, (feed.steps_per_epoch or 2 * SAMPLE) // 2))
    batches = [batch_at(feed.take(1), 0) for _ in range(count)]
    shapes = [[part.shape for part in tree.flatten(batch)] for batch in batches]
    return _Sample([batch for batch, own in zip(batches, shapes, strict=True) if own == shapes[0]], feed)


def fewest(run: Callable[[int], None], most: int) -> int:
    """Returns the smallest number of micro-batches with which a step fits in memory.

    Twice as many until they fit, then by halves between the last that did not and these.

    Args:
        run: Runs a step in so many.
        most: How many there can be.

    Raises:
        ConfigurationError: If not even these many are enough.
    """
    too_few, count = 0, 1
    while (error := _shortage(run, count)) is not None:
        if count >= most:
            raise ConfigurationError(
                f"micro_batches: a step does not fit in memory in {count} micro-batches either: "
                f"{cause.of(error).sentence}"
            )
        too_few, count = count, min(2 * count, most)
    while count - too_few > 1:
        middle = (too_few + count) // 2
        if _shortage(run, middle) is None:
            count = middle
        else:
            too_few = middle
    return count


def _shortage(run: Callable[[int], None], count: int) -> Exception | None:
    try:
        run(count)
    except tf.errors.ResourceExhaustedError as error:
        return error
    return None


# --- what is remembered -------------------------------------------------------------------------------


def key_of(graph: tf.Graph, *facts: Any) -> str:
    """Returns what identifies a step on this machine: its operations without their names, versions, devices.

    Args:
        graph: A trace of it.
        *facts: What else decides how fast it is; anything whose `str` is the same in every process.
    """
    accelerators = [device for device in tf.config.list_physical_devices() if device.device_type != "CPU"]
    machine = [
        (platform.machine(), _processor(), os.cpu_count(), tf.config.list_physical_devices()),
        [sorted(tf.config.experimental.get_device_details(device).items()) for device in accelerators],
        [os.environ.get(name, "") for name in ("XLA_FLAGS", "TF_XLA_FLAGS")],
        devices.facts(),
    ]
    whole = look.digest(graph), tf.__version__, keras.__version__, *machine, *map(str, facts)
    return hashlib.sha256(repr(whole).encode()).hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())


class _Known(NamedTuple):
    """What was measured of a step.

    Attributes:
        trials: The first is of the loop in the graph; none of ways that were not tried.
        needed: The seconds that one of those may take.
    """

    trials: list[Trial]
    needed: float


def _remembered(key: str | None) -> _Known | None:
    if key is None:
        return None
    try:
        content = json.loads(_file(key).read_text(encoding="utf-8"))
        first, *others = (Trial(**trial) for trial in content["trials"])
        return _Known([first, *others], float(content["needed"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _remember(key: str | None, trials: Sequence[Trial], needed: float) -> None:
    """Writes what was measured; a cache that cannot be written costs time and nothing else."""
    if key is None:
        return
    path = _file(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        content = {"trials": [asdict(trial) for trial in trials], "needed": needed}
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        _log.debug("what was measured is not remembered: %s", error)


def _file(key: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "looplab" / "execution" / f"{key}.json"


def _seconds(value: float) -> str:
    return f"{value:.2g} s"
