"""The choice of the fastest way to run a step, measured on the step itself.

Execution modes can differ 25-fold in speed, and the fastest cannot be predicted. So looplab tries the modes
on real batches and from the present state, which it restores; each mode must make the same update as the loop
in the graph. looplab remembers the measurement, so the same step on the same machine is measured once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import tensorflow as tf

from looplab.checkpoint import state
from looplab.errors import ConfigurationError
from looplab.execution.autotune_cache import remember, remembered
from looplab.execution.autotune_trials import TIMED, Make, Trial, Trials, sample
from looplab.protocols import Feed
from looplab.runs import cause

_log = logging.getLogger("looplab")

_BUDGET = 10.0  # seconds, or 2 % of the steps that are left
_FEW = 100  # steps
_LEAST_SAVING = 1.0  # seconds of steps; for less, measuring does not pay
_NOT_TRIED = "not tried"
_MARGIN = 0.97  # of the time in the graph; a mode that saves less is not chosen
_LARGEST_SAVING = 0.75  # of that time, before a mode was tried
_CONVOLUTIONS = {"Conv2D", "Conv2DBackpropInput", "Conv3D", "Conv3DBackpropInputV2", "DepthwiseConv2dNative"}


@dataclass(frozen=True)
class Choice:
    """The chosen mode, and the reasons.

    Attributes:
        mode: One of `looplab.options.execution.MODES`.
        trials: The first trial is of the loop in the graph; empty if nothing was measured.
        why: Why nothing was measured, or the source of the figures.
        seconds: The duration of the measurement.
        key: The key of the step; see `key_of`. None if there was nothing to measure.
    """

    mode: str
    trials: tuple[Trial, ...] = ()
    why: str = ""
    seconds: float = 0.0
    key: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the choice in JSON's types, for `environment.json`."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Returns lines of text: the choice, and the measurements."""
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
    """Returns the fastest of several modes for the remaining steps; on the host.

    Args:
        make: Creates the object that runs steps in a mode.
        modes: The possible modes; the first is the reference, without XLA.
        feed: The training batches, at the next one; the caller must seek it again afterwards.
        variables: Everything that a step changes; restored afterwards, bit by bit.
        trained: The variables among them whose update is compared.
        left: The number of remaining steps.
        precision: The precision of steps, which determines by how much updates may differ.
        operations: The approximate number of operations in a step, from which XLA's compile time is
            estimated.
        draws: The operations among them whose random numbers differ in XLA.
        serial: The operations that are slower in a loop which XLA compiles as a whole; see `on_one_core`.
        key: The key of the step, the machine and the versions; None to remember nothing.
    """
    if (choice := without_measuring(modes, left, key)) is not None:
        return choice
    began = time.perf_counter()
    before = state.read(variables)
    laboratory = Trials(sample(feed), variables, before, list(trained), precision, draws)
    needed = 0.5 + 0.003 * operations + 2 * TIMED  # to compile a step and to time it
    try:
        trials = [laboratory.reference(make(modes[0]), least=_LEAST_SAVING / left)]
        whole = _whole(trials[0], left)
        needed = max(needed, trials[0].seconds + 2 * TIMED)  # each mode is traced as the first was
        # The whole loop in XLA comes first, in case time allows no other: it is mostly the fastest XLA mode.
        others = modes[1:] if serial else modes[:0:-1]
        for mode in others if whole >= _LEAST_SAVING else ():
            if (spent := time.perf_counter() - began) + needed > _budget(whole):
                trials.append(_not_tried(mode, needed, whole, spent))
            elif serial and mode == "xla_loop" and _best(trials, left, "", 0.0, sunk=True).mode == modes[0]:
                why_not = (
                    f"left out: it runs {', '.join(serial)} on one core, and XLA is no faster on all cores"
                )
                trials.append(Trial(mode, why_not=why_not))
            else:
                trials.append(laboratory.trial(mode, make))
                needed = trials[-1].seconds + 2 * TIMED  # another mode compiles the same step
        if len(trials) > 1:
            trials = laboratory.settled(trials, until=began + _budget(whole))
    finally:
        state.assign(variables, before, "the state before ways to run the step were measured")
    remember(key, [trial for trial in trials if not trial.why_not.startswith(_NOT_TRIED)], needed)
    if whole < _LEAST_SAVING:
        return _too_short(modes[0], whole)
    spent = time.perf_counter() - began
    return _best(trials, left, _how_found(trials, len(modes), spent), spent, sunk=True)


def without_measuring(modes: Sequence[str], left: int, key: str | None) -> Choice | None:
    """Returns the choice for the steps that are left if it needs no measurement, or else None.

    Args:
        modes: As of `choose`.
        left: Steps.
        key: As of `choose`.
    """
    if left < _FEW:
        return Choice(modes[0], why=f"{left} steps are too few to measure")
    known = remembered(key)
    if known is None:
        return None
    whole = _whole(known.trials[0], left)
    if whole < _LEAST_SAVING:
        return _too_short(modes[0], whole)
    missing = [mode for mode in modes if mode not in [trial.mode for trial in known.trials]]
    if missing and known.needed <= _budget(whole):
        return None
    trials = [*known.trials, *(_not_tried(mode, known.needed, whole) for mode in missing)]
    return _best(trials, left, "as measured in an earlier run of this step", 0.0)


def _how_found(trials: Sequence[Trial], count: int, spent: float) -> str:
    """Says how many of the ways were measured, and for how long."""
    measured = sum(trial.microseconds is not None for trial in trials)
    if measured == 1:
        return f"the only one of {count} ways that was measured, in {_seconds(spent)}"
    if measured < count:
        return f"the fastest of {measured} ways that were measured, of {count}, in {_seconds(spent)}"
    return f"the fastest of {count} ways, measured in {_seconds(spent)}"


def on_one_core(kinds: Iterable[str]) -> list[str]:
    """Returns the operations that a loop compiled by XLA computes on one core: a CPU's convolutions.

    Measured on two cores: 10 to 30 times slower than in the graph, except for the smallest. If a single step
    gains nothing from XLA, compiling such a loop does not pay.

    Args:
        kinds: The types of a step's operations.
    """
    return [] if tf.config.list_logical_devices("GPU") else sorted(_CONVOLUTIONS.intersection(kinds))


def _whole(reference: Trial, left: int) -> float:
    """Returns the seconds that the remaining steps take in the graph."""
    return (reference.microseconds or 0.0) * left / 1e6


def _budget(whole: float) -> float:
    """Returns the seconds that measuring may take in a run of so many seconds."""
    return min(max(_BUDGET, 0.02 * whole), _LARGEST_SAVING * whole)


def _too_short(mode: str, whole: float) -> Choice:
    return Choice(mode, why=f"{_seconds(whole)} of steps are too few to measure")


def _not_tried(mode: str, needed: float, whole: float, spent: float = 0.0) -> Trial:
    budget = _seconds(_budget(whole))
    may = f"it may take {_seconds(needed)}, and "
    may += f"{_seconds(spent)} of at most {budget} are spent" if spent else f"{budget} may be spent"
    return Trial(mode, why_not=f"{_NOT_TRIED}: {may}")


def _best(trials: Sequence[Trial], left: int, why: str, seconds: float, sunk: bool = False) -> Choice:
    """Returns the mode that ends soonest; with `sunk`, compilation is already paid for."""

    def cost(trial: Trial) -> float:
        return (trial.microseconds or 0.0) * left / 1e6 + (0.0 if sunk else trial.seconds)

    reference, *others = trials
    offered = [trial for trial in others if trial.microseconds is not None and not trial.why_not]
    best = min([reference, *offered], key=cost)
    if best is not reference and cost(best) > _MARGIN * cost(reference):
        best = reference
    return Choice(best.mode, tuple(trials), why, seconds)


def fewest(run: Callable[[int], None], most: int) -> int:
    """Returns the smallest number of micro-batches with which a step fits in memory.

    Doubles the number until the step fits, then bisects between the last number that did not fit and this
    one.

    Args:
        run: Runs a step in a given number of micro-batches.
        most: The largest possible number.

    Raises:
        ConfigurationError: If the step does not fit even with that number.
    """
    too_few, count = 0, 1
    while (error := _shortage(run, count)) is not None:
        if count >= most:
            raise ConfigurationError(
                f"micro_batches: a step does not fit in memory even in {count} micro-batches: "
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


def _seconds(value: float) -> str:
    return f"{value:.2g} s"
