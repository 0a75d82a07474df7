"""A rehearsal of a fit: its plan in numbers, and one real step, with nothing written.

Everything is prepared as for `fit`. Then one step runs on the first training batch and one evaluation step on
the first validation batch, as the loop would run them. So labels out of range, shapes that do not fit and
losses that are not finite are found at once, not after a wait in a cluster's queue.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from rich.filesize import decimal

from looplab import schedule
from looplab.callbacks import Occasion
from looplab.checkpoint import state
from looplab.data import explained
from looplab.errors import LossError
from looplab.execution import explained as xla_explained
from looplab.execution import flops, memory
from looplab.interval import Interval
from looplab.loggers import as_text, summary_text
from looplab.protocols import Feed, Summary
from looplab.strategy import tree
from looplab.training import plan_text
from looplab.training.engine import models
from looplab.training.engine.engine import Engine
from looplab.training.evaluation import Evaluation
from looplab.training.fit_plan import FitPlan, check, monitored

Line = tuple[str, str]


class Rehearsal(Summary):
    """The plan of a fit, and the values of its first step; printed, it is the text that the console shows."""

    def __repr__(self) -> str:
        """Returns the text."""
        return summary_text(self)


def rehearse(plan: FitPlan, *, is_recorded: bool) -> Rehearsal:
    """Runs one step and one evaluation batch, and describes what the fit would do; on the host.

    Args:
        plan: A fit that has not begun. Its variables are restored afterwards.
        is_recorded: Whether the fit would have a run directory, and so save checkpoints.

    Returns:
        The plan: the lines that `fit` shows before its first step, and also the shapes of a batch, the steps
        of each event, the size of checkpoints, memory, and the values of that one step.

    Raises:
        LossError: If a loss is not finite.
        ConfigurationError: If an interval cannot be counted on this data, if nothing produces a monitor, or
            if a callback refuses (for example a pattern that matches nothing).
    """
    check(plan)
    engine = plan.engine
    if plan.initialize is not None:
        plan.initialize()
    before = state.read(engine.variables)
    events = _events(
        plan, is_recorded
    )  # refuses intervals that this data does not have, before anything runs
    try:
        ran = [_step(engine, plan.feed)]
        ran += [_evaluation(engine, evaluation) for evaluation in plan.evaluations]
        used = "memory", memory_of(engine, plan.feed)
    finally:
        state.assign(engine.variables, before, "the state before the rehearsal")
    data, *rest = plan.describe()
    saved = sum(array.nbytes for array in before.values())
    if is_recorded:
        events.append(_checkpoints(plan, saved))
    lines = [data, ("batch", _shapes(plan.feed.element_spec)), *rest, *_rates(plan), *events]
    return Rehearsal(
        lines=(*lines, used, *ran),
        layers=models.layer_rows(engine.models, engine.trained),
        first_step=0,
        total_steps=plan.total_steps,
        steps_per_epoch=plan.epochs.length,
    )


def _step(engine: Engine, feed: Feed) -> Line:
    began = time.perf_counter()
    values = _run(engine, "train", feed)
    return "step 1", f"{as_text(values)}; {time.perf_counter() - began:.1f} s with tracing and compiling"


def _evaluation(engine: Engine, evaluation: Evaluation) -> Line:
    with engine.metrics.apart("test"):
        values = _run(engine, "test", evaluation.feed) | engine.metrics.values("test")
    label = "evaluation" if evaluation.split == "validation" else evaluation.split
    return label, f"{as_text(values)}, on its first batch, after that step"


def _run(engine: Engine, purpose: str, feed: Feed) -> dict[str, float]:
    """Runs the first step of a purpose, as the loop does, and returns its values."""
    feed.seek(0)
    loop = engine.loops.of(purpose)
    with xla_explained(loop.mode), explained(feed, 0, 1):
        steps = loop.run(feed, 1)
    values = steps.failed or {name: float(series[0]) for name, series in steps.values.items()}
    if steps.failed or steps.first_bad is not None:
        what = "training step" if purpose == "train" else "evaluation"
        raise LossError(
            f"the loss of the first {what} is not finite: {as_text(values)}. Look for values that are not "
            "finite in the data, labels out of range, logarithms or divisions of zero, and the precision."
        )
    return values


def _shapes(spec: Any) -> str:
    """Returns dtype and shape of each part of a batch; `?` is a length that may change."""
    parts = []
    for path, part in tree.flatten_with_path(spec):
        shape = ", ".join("?" if length is None else str(length) for length in part.shape)
        name = "/".join(map(str, path))
        parts.append(f"{name}{': ' if name else ''}{part.dtype.name} [{shape}]")
    return ", ".join(parts)


def _rates(plan: FitPlan) -> list[Line]:
    """Draws the schedules up to the end of the fit."""
    return [
        (label, schedule.plot(rate, plan.total_steps))
        for label, rate in plan_text.schedules(plan.engine).items()
    ]


def _events(plan: FitPlan, is_recorded: bool) -> list[Line]:
    """Lists the steps of the events other than training, and their number."""
    lines = [("logged", f"every {plan.log_every}: {_steps(_due(plan, plan.log_every))}")]
    for evaluation in plan.evaluations:
        name = "" if evaluation.split == "validation" else f"{evaluation.split}, "
        lines.append(("evaluated", f"{name}{evaluation.schedule}: {_steps(_evaluated(plan, evaluation))}"))
    if not plan.evaluations:
        lines.append(("evaluated", "never"))
    if not is_recorded:
        saved = "nothing, because there is no run_dir"
    elif plan.policy.interval.wall_clock:
        saved = f"every {plan.policy.interval} by the clock"
    else:
        saved = f"every {plan.policy.interval}: {_steps(_due(plan, plan.policy.interval))}"
    if is_recorded:
        among, monitor = "" if plan.policy.keep_best == 1 else "among ", monitored(plan)
        best = "" if monitor is None else f"; when {monitor} is {among}{_best(plan)} so far"
        saved += f"{best}; at the end"
    lines.append(("saved", saved))
    lines += [("callback", _occasion(plan, occasion)) for occasion in plan.callbacks.occasions()]
    return lines


def _occasion(plan: FitPlan, occasion: Occasion) -> str:
    """Says when a callback acts."""
    name, interval, times, text = occasion
    if interval is None:
        return f"{name}, {text}"
    if times is None:
        return f"{name}, every {interval}: {_steps(_due(plan, interval))}{text}"
    due = [*islice(_due(plan, interval), times)]
    often = {1: "once", 2: "twice"}.get(len(due), f"{len(due)} times")
    where = f"{often}, at step{'s' * (len(due) > 1)} {', '.join(map(str, due))}" if due else "never"
    return f"{name}, {where}{text}"


def _evaluated(plan: FitPlan, evaluation: Evaluation) -> Iterator[int]:
    step: int | None = 0
    while step is not None:
        if (step := evaluation.schedule.next_step(step, plan)) is not None:
            yield step


def _due(plan: FitPlan, interval: Interval) -> Iterator[int]:
    step = 0
    while (step := plan.epochs.next_step(interval, step, plan.feed.examples)) <= plan.total_steps:
        yield step


def _steps(due: Any) -> str:
    """Returns the first steps of a series as text, with their total number."""
    due = iter(due)
    first = list(islice(due, 4))
    count = len(first) + sum(1 for _ in due)
    if not first:
        return "never"
    shown = ", ".join(map(str, first[:3])) + (", ..." if count > 3 else "")
    return f"step{'s' * (count > 1)} {shown} ({count} time{'s' * (count > 1)})"


def _best(plan: FitPlan) -> str:
    count = plan.policy.keep_best
    return "the best" if count == 1 else f"the {count} best"


def _checkpoints(plan: FitPlan, size: int) -> Line:
    keep = plan.policy.keep_last
    newest = "the newest" if keep == 1 else f"the {keep} newest"
    best = 0 if monitored(plan) is None else plan.policy.keep_best
    which = f"{newest} and {_best(plan)}" if best else newest
    kept = f"{which} {'is' if keep + best == 1 else 'are'} kept: {decimal(size * (keep + best))}"
    return "checkpoint", f"{decimal(size)}; {kept}, and one more while it is written"


def memory_of(engine: Engine, feed: Feed) -> str:
    """Describes the memory that a training step needs; engine and feed are prepared for training."""
    held = memory.of_state(engine.models, engine.optimizers, engine.trained)
    text = ", ".join(f"{name} {decimal(size)}" for name, size in held.items())
    if engine.strategy.num_replicas_in_sync > 1:
        text += " on each replica"
    peaks = memory.peaks()
    if peaks:
        return f"{text}; peak of all " + ", ".join(f"{k} {decimal(v)}" for k, v in peaks.items())
    if engine.run_eagerly:
        return f"{text}; activations of eager steps are not known"
    graph = engine.loops.of("train").graph(feed.batch(0))
    found, notes = memory.of_step(graph), list[str]()
    if (chosen := engine.modes.recompute.chosen) is not None:
        replicas = engine.strategy.num_replicas_in_sync
        found.size -= replicas * (chosen.freed + chosen.less)  # what both passes have counted
        whole = flops.of_operations(graph, graph.get_operations())
        again = chosen.again(None if whole is None else whole / replicas)
        notes.append(f"recompute keeps {decimal(chosen.less)} less{again}")
    text += f"; activations at most {decimal(found.size)}"
    if found.loops:
        notes.append("loops counted once")
    if found.unknown:
        notes.append(f"without {found.unknown} tensors of unknown size")
    return text + (f" ({', '.join(notes)})" if notes else "")
