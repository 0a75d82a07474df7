"""The loop: plan, execute, notify. One function for fit and one for evaluate.

    begin                                     on_train_begin
    while steps are left and nobody stops:
        begin     at the first step of an epoch   on_epoch_begin
        plan      k = distance to the nearest step at which anyone is due
        execute   k steps in one compiled call
        record    each step's own values      on_step, on_clock
        settle    at the step that was due:
                      evaluate                on_evaluate_begin, on_evaluate
                      end the epoch           on_epoch_end
                      save                    on_save
    save what is not saved                    on_train_end (which may ask to save again), or on_exception

A step is settled when all that belongs to it is done. A run that is interrupted between executing
and settling is saved as such, and settles that step first when it continues.
"""

from __future__ import annotations

import logging
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from looplab.callbacks import EpochEvent, EvaluateEvent, Event, SaveEvent, StepEvent
from looplab.data import explained
from looplab.errors import DivergedError
from looplab.execution import ChunkSize, CompiledLoop
from looplab.execution import explained as xla_explained
from looplab.execution.step_means import StepMeans
from looplab.protocols import Feed, Media, Record, StepRecords, Steps
from looplab.runs.wall_time import Block, Ledger
from looplab.training import nonfinite_policy
from looplab.training.run_state import Evaluation, Run

_log = logging.getLogger("looplab")

_WAITING = 0.2  # share of the time of steps that they may wait for batches, unless it is short
_LONG = 1.0  # seconds, likewise
_PATIENCE = 5.0  # seconds for which a save waits for the one before, which is rarely still written


def fit(run: Run) -> str | None:
    """Trains until the steps are done or someone stops it.

    Runs on the host, eagerly. The first Ctrl-C or SIGTERM stops the run at the end of the present
    execution, with everything saved; see `looplab.runs.signals`.

    Args:
        run: Restored to where training begins; its `progress` says how far it came.

    Returns:
        Why it stopped before its last step, or None if it did not.
    """
    progress = run.progress
    begun = -1  # the step at which an epoch has begun
    with run.ledger.time("start/first batch"):
        run.feed.seek(run.place(progress.step))
    request = run.controls.request
    request.is_awaited = True
    try:
        if nonfinite_policy.may_go_back(run) and progress.step == 0:
            _save(run)  # to have something to go back to
        _notify(run, "on_train_begin", run.event())
        run.ledger.rest("other")  # so far it was the start
        run.epoch_began = run.ledger.moment()
        while not run.asked_to_end():
            if progress.settled < progress.step:
                _settle(run)
                continue
            if progress.step >= run.total_steps or run.controls.reason or run.failed is not None:
                break
            if run.epochs.ends(progress.step) and begun != progress.step:
                begun = progress.step
                begins = replace(run.event(), epoch=run.epoch(begun + 1), epoch_step=0)
                _notify(run, "on_epoch_begin", begins)
                if run.controls.reason:
                    continue
            if run.saver is not None:
                run.saver.check()
            steps = _execute(run)
            _advise(run)
            if steps.done:
                _record(run, steps)
                _notify(run, "on_clock", run.event())
            if run.failed is not None:
                _meet_failure(run)
        if run.save is not None and run.saved_step != progress.step:
            _save(run)
        _finish_saving(run)
        if run.failed is not None:
            raise DivergedError(nonfinite_policy.message(run))
        if not request:
            with run.ledger.time("callbacks"):
                run.callbacks.end(run.event(), run.controls)
            logged = _write_asked(run)
            if run.save is not None and (logged or run.controls.save_asked):
                _save(run)
                _finish_saving(run)
    except BaseException as error:
        run.callbacks.fail(run.event(), error)
        raise
    if request:
        run.callbacks.fail(run.event(), request.error(f"{request.name} at step {progress.step}"))
    return request.name if request else run.controls.reason


def evaluate(
    execution: CompiledLoop,
    feed: Feed,
    pace: ChunkSize,
    give_up: Callable[[], bool] = lambda: False,
    ledger: Ledger | None = None,
) -> dict[str, float] | None:
    """Runs one whole pass over a feed and returns the weighted means of what its steps return.

    Args:
        execution: Of the test step.
        feed: Of known length; begins at its first batch.
        pace: How many steps at once.
        give_up: Asked between executions.
        ledger: Where the time is counted, if anywhere.

    Returns:
        Means by name, or None if it gave up.
    """
    means, ledger = StepMeans(), ledger or Ledger()
    total, done = feed.steps_per_epoch or 0, 0
    feed.seek(0)
    while left := total - done:
        if give_up():
            return None
        count = pace.plan(min(left, feed.max_take or left))
        with explained(feed, done, count), _timed(execution, ledger, "evaluation"):
            steps = execution.run(feed, count)
        pace.learn(steps.done)
        means.add(steps.values, steps.weights, steps.parts)
        done += steps.done
    return means.result()


def _meet_failure(run: Run) -> None:
    """Goes on after a step that failed, if it may."""
    if run.progress.settled < run.progress.step:  # first what belongs to the steps before
        _settle(run)
    passed = nonfinite_policy.met(run)
    if passed is not None:
        _record(run, passed)
        _notify(run, "on_clock", run.event())
    elif run.controls.save_asked:  # back at a checkpoint: how often is to be remembered
        _save(run)


def _execute(run: Run) -> Steps:
    """Runs up to the nearest step at which anyone is due."""
    step = run.progress.step
    room = min(_due(run, step), run.total_steps) - step
    execution, ledger = run.execution(), run.ledger
    count = run.pace.plan(min(room, run.feed.max_take or room))
    waited = run.feed.waited
    with (
        xla_explained(execution.mode),
        explained(run.feed, step, count),
        _timed(execution, ledger, "step") as block,
    ):
        steps = execution.run(run.feed, count)
        first = ledger.start_up is None
        ledger.move(run.feed.waited - waited, block, "start/first batch" if first else "input")
    run.pace.learn(steps.done)
    ledger.first_execution_ended()
    if block.part == "step":
        before, after = (run.examples(at) for at in (step, step + steps.done))
        ledger.count(steps.done, None if before is None or after is None else after - before, run.of_example)
    run.progress.step += steps.done
    run.progress.seen = run.examples(run.progress.step)
    if steps.first_bad is not None and not run.warned:
        run.warned = True
        _log.warning("the loss is not finite at step %d", step + steps.first_bad + 1)
    run.failed, run.bad_batch = steps.failed, steps.batch
    return steps


@contextmanager
def _timed(execution: CompiledLoop, ledger: Ledger, part: str) -> Iterator[Block]:
    """Counts an execution as a part, or as tracing and compilation if it has done such."""
    traces, tracing, retraces = execution.traces(), execution.tracing, execution.retraces.count
    compiled = len(execution.compiled)
    with ledger.time(part) as block:
        yield block
        new = list(execution.compiled.values())[compiled:]
        if new or execution.traces() != traces:
            ledger.compilations += new
            ledger.move(execution.tracing - tracing, block, "trace and compile/trace")
            block.part = "trace and compile/compile"
            ledger.retraces += execution.retraces.count - retraces


def _due(run: Run, step: int) -> int:
    """Returns the first step after `step` at which something besides training happens."""
    intervals = [*(each.every for each in run.evaluations), *(each.interval for each in run.shows.values())]
    due = [run.epochs.end(step), *(run.next_step(interval, step) for interval in intervals)]
    if run.save is not None:
        intervals = [each for each in (run.policy.interval, run.policy.kept_interval) if each is not None]
        due += [run.next_step(each, step) for each in intervals if not each.wall_clock]
    callbacks = run.callbacks.next_step(step, run.epochs, run.examples)
    if callbacks is not None:
        due.append(callbacks)
    return min(due)


def _record(run: Run, steps: Steps) -> None:
    """Takes in what the steps returned: means, logs, callbacks that are due, the progress bar."""
    progress = run.progress
    first = progress.step - steps.done
    progress.means.add(steps.values, steps.weights, steps.parts)
    seconds = time.monotonic() - run.began
    due = run.epochs.steps(run.log_every, first, progress.step, run.examples)
    if due:
        places = np.asarray(due) - first - 1
        values = {name: series[places] for name, series in steps.values.items()}
        records = StepRecords(due, run.epoch(progress.step), values, {"seconds": seconds})
        with run.ledger.time("logging"):
            for logger in run.loggers:
                logger.write_steps(records)
    _show_due(run, steps.shown)
    last = {name: float(series[-1]) for name, series in steps.values.items()}
    event = run.event(StepEvent, values=last, epoch_values=lambda: _epoch_values(run))
    with run.ledger.time("callbacks"):
        run.callbacks.step(event, run.controls, run.epochs, run.examples)
    _write_asked(run)
    with run.ledger.time("logging"):
        run.tell(progress.step, run.epoch(progress.step), lambda: _epoch_values(run))


def _show_due(run: Run, shown: Mapping[str, Any]) -> None:
    """Gives the loggers what the last step shows, where that is due."""
    due = {
        tag: what
        for tag, what in run.shows.items()
        if run.is_due(what.interval) and (what.text is not None or tag in shown)  # no step that was skipped
    }
    rich = {}
    for tag, what in due.items():
        if what.text is not None:
            rich[tag] = "text", what.text
        elif what.kind == "scalar":
            step = run.progress.step
            _write(run, Record(step, run.epoch(step), "train", {tag: float(shown[tag])}))
        else:
            rich[tag] = what.kind, shown[tag].numpy()
    _show(run, "train", rich)


def _show(run: Run, split: str, found: Mapping[str, tuple[str, Any]]) -> None:
    """Gives the loggers something of the present step, kind and data by tag."""
    if not found:
        return
    step = run.progress.step
    with run.ledger.time("logging"):
        for tag, (kind, data) in found.items():
            for logger in run.loggers:
                logger.show(Media(step, run.epoch(step), split, tag, kind, data))


def _settle(run: Run) -> None:
    """Does what belongs to the present step, in the order: evaluate, end the epoch, save."""
    progress = run.progress
    epoch_ends = run.epochs.ends(progress.step)
    ends = progress.step == run.total_steps
    evaluated = _evaluate(run, [e for e in run.evaluations if ends or run.is_due(e.every)])
    if evaluated is None:
        return  # interrupted: settled when the run continues
    values = evaluated
    if epoch_ends or ends:
        values = _end_epoch(run, _epoch_values(run), evaluated)
    if epoch_ends:
        progress.means = StepMeans()
        run.begin_epoch()
    improved = _note_best(run, values)
    progress.settled = progress.step
    if run.save is None:
        return
    kept = run.policy.kept_interval
    if improved or run.controls.save_asked or (kept is not None and run.is_due(kept)):
        _save(run)
    elif _save_due(run):
        _save_unless_busy(run)


def _evaluate(run: Run, due: list[Evaluation]) -> dict[str, float] | None:
    """Evaluates on the sets that are due, and tells everyone; None if it was interrupted.

    Returns the values by the names of monitors, with what callbacks logged.

    Nobody is told before all are done, so an interruption leaves nothing half told.
    """
    found = []
    for evaluation in due:
        _notify(run, "on_evaluate_begin", run.event())
        began = time.monotonic()
        with run.ledger.time("evaluation"):
            values = evaluation.values(run.asked_to_end, run.ledger)
            if values is None:
                return None
            pictures = evaluation.pictures()
        found.append((evaluation.split, values, pictures, time.monotonic() - began))
    step = run.progress.step
    monitors: dict[str, float] = {}
    for split, values, pictures, took in found:
        tags = {f"epoch_{name}": value for name, value in values.items()}
        timing = {"seconds": time.monotonic() - run.began, "evaluation_seconds": took}
        _write(run, Record(step, run.epoch(step), split, tags, timing))
        _show(run, split, pictures)
        logged = MappingProxyType(run.controls.logged)
        event = run.event(EvaluateEvent, split=split, values=values, logged=logged)
        monitors |= event.monitors
        monitors |= _notify(run, "on_evaluate", event)
    return monitors


def _end_epoch(run: Run, own: dict[str, float], evaluated: dict[str, float]) -> dict[str, float]:
    """Logs the epoch's own values, tells everyone, and returns all values, with what callbacks logged."""
    now, step = run.ledger.moment(), run.progress.step
    timing = {
        "seconds": time.monotonic() - run.began,
        "epoch_seconds": sum(now.parts.values()) - sum(run.epoch_began.parts.values()),
        **now.timing(since=run.epoch_began),
    }
    run.epoch_began = now  # what comes after this record is told by the next epoch's
    rates = {name for name in own if name.endswith("learning_rate")} - set(run.progress.means.sums)
    tags = {name if name in rates else f"epoch_{name}": value for name, value in own.items()}
    _write(run, Record(step, run.epoch(step), "train", tags, timing))
    _show(run, "train", run.epoch_pictures())
    values = own | evaluated
    seen = MappingProxyType(ChainMap(run.controls.logged, values))  # with what those before have logged
    logged = _notify(run, "on_epoch_end", run.event(EpochEvent, values=seen))
    return values | logged


def _advise(run: Run) -> None:
    """Says once in a run that steps wait for batches, if they do for long, and what would help."""
    if run.advised or run.feed.waited < run.waited + _LONG:
        return
    run.waited = run.feed.waited
    timing = run.ledger.moment().timing(since=run.epoch_began)
    share, seconds = timing.get("input_share", 0.0), timing["time/input"]
    if share < _WAITING:
        return
    run.advised = True
    _log.warning(
        "steps waited %.1f s for batches, %.0f %% of their time in this epoch: %s.",
        seconds,
        100 * share,
        run.feed.faster,
    )


def _epoch_values(run: Run) -> dict[str, float]:
    means = run.progress.means.result()
    return means | {name: value for name, value in run.epoch_values().items() if name not in means}


def _note_best(run: Run, values: dict[str, float]) -> bool:
    """Ranks the evaluation of this step, and says whether it is among the best, which are kept."""
    monitored = run.policy.value(values, evaluated=bool(run.evaluations))
    if monitored is None:
        return False
    step = run.progress.step
    monitor, value = monitored
    found = {"monitor": monitor, "value": value, "step": step, "epoch": run.epoch(step), "values": values}
    run.progress.top = run.policy.ranked(run.progress.top, found)
    return any(one is found for one in run.progress.top)


def _save_due(run: Run) -> bool:
    interval = run.policy.interval
    if interval.wall_clock:
        return time.monotonic() - run.saved_at >= interval.seconds
    return run.is_due(interval)


def _save_unless_busy(run: Run) -> None:
    """Saves, or leaves it out where the disk is slower than the interval: nothing may pile up."""
    with run.ledger.time("checkpoint"):
        busy = run.saver is not None and run.saver.is_busy(_PATIENCE)
    if not busy:
        _save(run)
        return
    run.skipped_saves += 1
    _log.warning(
        "the checkpoint of step %d is left out (%d so far): an earlier one is still being written",
        run.progress.step,
        run.skipped_saves,
    )


def _finish_saving(run: Run) -> None:
    """Waits until what was saved is safe."""
    if run.saver is not None:
        with run.ledger.time("checkpoint"):
            run.saver.finish()


def _save(run: Run) -> None:
    assert run.save is not None
    with run.ledger.time("checkpoint") as block:
        path = run.save()
    run.ledger.stalls.append(block.seconds)
    run.controls.save_asked = False
    run.saved_at, run.saved_step = time.monotonic(), run.progress.step
    if run.saver is not None and run.callbacks.hears("on_save"):  # they may read it
        with run.ledger.time("checkpoint"):
            run.saver.wait()
    _notify(run, "on_save", run.event(SaveEvent, path=path))


def _notify(run: Run, hook: str, event: Event) -> dict[str, float]:
    """Tells everyone, and returns what callbacks asked to log."""
    with run.ledger.time("callbacks"):
        run.callbacks.call(hook, event, run.controls)
    return _write_asked(run)


def _write_asked(run: Run) -> dict[str, float]:
    """Hands the loggers what callbacks asked to log, and returns the numbers."""
    controls, step = run.controls, run.progress.step
    logged, controls.logged = controls.logged, {}
    if logged:
        timing = {"seconds": time.monotonic() - run.began}
        _write(run, Record(step, run.epoch(step), "train", logged, timing))
    _show(run, "train", controls.shown)
    controls.shown = {}
    return logged


def _write(run: Run, record: Record) -> None:
    with run.ledger.time("logging"):
        for logger in run.loggers:
            logger.write(record)
