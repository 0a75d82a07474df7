"""The training loop: plan, execute, notify.

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

A step is settled when everything that belongs to it is done. A run that is interrupted between executing
and settling is saved in that state, and settles the step first when it continues.
"""

from __future__ import annotations

import logging
from collections import ChainMap
from dataclasses import replace
from types import MappingProxyType

from looplab.callbacks import EpochEvent, SaveEvent, StepEvent
from looplab.data import explained
from looplab.errors import DivergedError
from looplab.execution import StepMeans
from looplab.execution import explained as xla_explained
from looplab.protocols import Steps
from looplab.runs.tags import EPOCH
from looplab.training import nonfinite_policy
from looplab.training.due_evaluations import evaluate_due
from looplab.training.evaluation import timed
from looplab.training.run_state import Run

_log = logging.getLogger("looplab")

_WAITING = 0.2  # share of the time of steps that may be waiting for batches, unless it is short
_LONG = 1.0  # seconds, the shortest such time


def train(run: Run) -> str | None:
    """Trains until the steps are done or a stop is requested.

    Runs on the host, eagerly. The first Ctrl-C or SIGTERM stops the run at the end of the present execution,
    with everything saved; see `looplab.runs.signals`.

    Args:
        run: A run that is restored to the start of this training; its `progress` is up to date.

    Returns:
        Why it stopped before its last step, or None if it did not.
    """
    plan, progress, request = run.plan, run.progress, run.controls.request
    with run.wall_time.time("start/first batch"):
        plan.feed.seek(plan.place(progress.step))
    request.is_awaited = True
    if plan.engine.keras_steps is not None:
        plan.engine.keras_steps.stop_training = False
    try:
        if nonfinite_policy.may_go_back(plan) and progress.step == 0:
            _save(run)  # a state to go back to
        run.notify("on_train_begin", run.event())
        run.wall_time.rest("other")  # until now it was the start
        run.epoch_began = run.wall_time.moment()
        _train_steps(run)
        if not run.checkpoints.is_saved:
            _save(run)
        run.checkpoints.finish()
        if run.failed is not None:
            raise DivergedError(nonfinite_policy.message(run))
        if not request:
            with run.wall_time.time("callbacks"):
                plan.callbacks.end(run.event(), run.controls)
            if run.recorder.requested(run.controls) or run.controls.save_asked:
                _save(run)
                run.checkpoints.finish()
    except BaseException as error:
        plan.callbacks.fail(run.event(), error)
        raise
    if request:
        plan.callbacks.fail(run.event(), request.error(f"{request.name} at step {progress.step}"))
    return request.name if request else run.controls.reason


def _train_steps(run: Run) -> None:
    """Executes and settles steps, until there is a reason to end."""
    plan, progress = run.plan, run.progress
    begun = -1  # the step at which an epoch has begun
    warn_of_bad_loss, warn_of_waiting = _BadLossWarning(), _WaitingWarning()
    while not run.asked_to_end():
        if progress.settled < progress.step:
            _settle(run)
            continue
        if progress.step >= plan.total_steps or run.controls.reason or run.failed is not None:
            return
        if plan.epochs.ends(progress.step) and begun != progress.step:
            begun = progress.step
            run.notify(
                "on_epoch_begin", replace(run.event(), epoch=plan.epochs.epoch(begun + 1), epoch_step=0)
            )
            if run.controls.reason:
                continue
        run.checkpoints.before_steps()
        steps = _execute(run)
        warn_of_bad_loss(run, steps)
        warn_of_waiting(run)
        if steps.done:
            _record(run, steps)
            run.notify("on_clock", run.event())
        if plan.engine.keras_steps is not None and plan.engine.keras_steps.stop_training:
            run.controls.stop("the model's own train_step set stop_training")
        if run.failed is not None:
            _meet_failure(run)


def _meet_failure(run: Run) -> None:
    """Continues after a step that failed, if the policy permits."""
    if run.progress.settled < run.progress.step:  # first the steps before it
        _settle(run)
    passed = nonfinite_policy.met(run)
    if passed is not None:
        _record(run, passed)
        run.notify("on_clock", run.event())
    elif run.failed is not None:
        run.plan.callbacks.diverged(run.event(), run.controls, run.failed)
        if run.controls.reason:  # ends as in Keras, without an error
            run.failed = None
    elif run.controls.save_asked:  # back at a checkpoint: saves the number of such returns
        _save(run)


def _execute(run: Run) -> Steps:
    """Runs up to the nearest step at which an event is due."""
    plan, engine, wall_time, step = run.plan, run.plan.engine, run.wall_time, run.progress.step
    if not run.span[0] < step < run.span[1]:  # callbacks may have run
        with wall_time.time("trace and compile/trace"):
            wall_time.retraces += engine.notice_changes(plan.owner, trains=True)
        run.span = step, min(_due(run, step), plan.total_steps)
    feed, left = plan.feed, run.span[1] - step
    loop = engine.loops.of("train")
    count = engine.chunk_size.plan(min(left, feed.max_take or left))
    waited = feed.waited
    with xla_explained(loop.mode), explained(feed, step, count), timed(loop, wall_time, "step") as block:
        steps = loop.run(feed, count)
        first = wall_time.start_up is None
        wall_time.move(feed.waited - waited, block, "start/first batch" if first else "input")
    engine.chunk_size.learn(steps.done)
    wall_time.first_execution_ended()
    if block.part == "step":
        before, after = (plan.examples(at) for at in (step, step + steps.done))
        seen = None if before is None or after is None else after - before
        wall_time.count(steps.done, seen, run.of_example)
    run.progress.step += steps.done
    run.progress.seen = plan.examples(run.progress.step)
    run.failed, run.bad_batch = steps.failed, steps.batch
    return steps


def _due(run: Run, step: int) -> int:
    """Returns the first step after `step` at which an event other than training is due."""
    plan = run.plan
    evaluations = (each.schedule.next_step(step, plan) for each in plan.evaluations)
    intervals = [
        *(each.interval for each in plan.engine.values.shows.values()),
        *run.checkpoints.intervals,
    ]
    due = [plan.epochs.end(step), *(plan.next_step(interval, step) for interval in intervals)]
    if plan.engine.keras_steps is not None and plan.engine.run_eagerly:
        return step + 1  # it may set stop_training
    callbacks = plan.callbacks.next_step(step, plan.epochs, plan.examples)
    return min(each for each in (*due, *evaluations, callbacks) if each is not None)


def _record(run: Run, steps: Steps) -> None:
    """Processes the results of steps: means, logs, callbacks that are due, the progress bar."""
    run.progress.means.add(steps.values, steps.weights, steps.parts)
    run.recorder.steps(steps)
    last = {name: float(series[-1]) for name, series in steps.values.items()}
    event = run.event(StepEvent, values=last, epoch_values=run.epoch_values)
    with run.wall_time.time("callbacks"):
        run.plan.callbacks.step(event, run.controls, run.plan.epochs, run.plan.examples)
    logged = run.progress.logged = run.recorder.requested(run.controls)
    if logged:
        with run.wall_time.time("callbacks"):
            run.plan.callbacks.logged(event, run.controls, logged)
    run.recorder.progress(run.epoch_values)


def _settle(run: Run) -> None:
    """Completes the present step, in the order: evaluate, end the epoch, save."""
    plan, progress = run.plan, run.progress
    stopped = run.controls.is_last
    epoch_ends, ends = plan.epochs.ends(progress.step), stopped or progress.step == plan.total_steps
    schedules = {each.split: each.schedule.next_step(progress.step - 1, plan) for each in plan.evaluations}
    due = [each for each in plan.evaluations if stopped or schedules[each.split] == progress.step]
    evaluated = evaluate_due(run, due)
    if evaluated is None:
        return  # interrupted: settled when the run continues
    values = progress.logged | evaluated
    if epoch_ends or ends:
        values = _end_epoch(run, run.epoch_values(), values)
    if epoch_ends:
        progress.means = StepMeans()
        plan.engine.values.begin_epoch()
    improved = _note_best(run, values)
    progress.settled, progress.logged = progress.step, {}
    must_save = improved or run.controls.save_asked or run.checkpoints.must_keep()
    if must_save or (run.checkpoints.is_due() and not run.checkpoints.is_busy()):
        _save(run)


def _end_epoch(run: Run, own: dict[str, float], others: dict[str, float]) -> dict[str, float]:
    """Logs the epoch's own values, notifies callbacks, and returns all values, including theirs.

    The others are the values of evaluations, and of callbacks, at this step.
    """
    now = run.wall_time.moment()
    timing = {
        "seconds": run.recorder.seconds,
        "epoch_seconds": sum(now.parts.values()) - sum(run.epoch_began.parts.values()),
        **now.timing(since=run.epoch_began),
    }
    run.epoch_began = now  # time after this record counts in the next epoch
    rates = {name for name in own if name.endswith("learning_rate")} - set(run.progress.means.sums)
    tags = {name if name in rates else f"{EPOCH}{name}": value for name, value in own.items()}
    run.recorder.write("train", tags, timing)
    run.recorder.show("train", run.plan.engine.values.pictures_of_epoch())
    values = own | others
    seen = MappingProxyType(ChainMap(run.controls.logged, values))  # with the values of earlier callbacks
    logged = run.notify("on_epoch_end", run.event(EpochEvent, values=seen))
    run.recorder.end_epoch()
    return values | logged


def _note_best(run: Run, values: dict[str, float]) -> bool:
    """Ranks the evaluation of this step; returns whether it is among the best, which are kept."""
    policy, progress = run.plan.policy, run.progress
    monitored = policy.value(values, evaluated=bool(run.plan.evaluations))
    if monitored is None:
        return False
    monitor, value = monitored
    epoch = run.plan.epochs.epoch(progress.step)
    found = {"monitor": monitor, "value": value, "step": progress.step, "epoch": epoch, "values": values}
    progress.top = policy.ranked(progress.top, found)
    return any(one is found for one in progress.top)


def _save(run: Run) -> None:
    path = run.checkpoints.save()
    if path is None:
        return
    run.controls.save_asked = False
    if run.plan.callbacks.hears("on_save"):  # they may read it
        run.checkpoints.wait()
    run.notify("on_save", run.event(SaveEvent, path=path))


class _BadLossWarning:
    """Warns once in a run that the loss is not finite."""

    def __init__(self) -> None:
        self._said = False

    def __call__(self, run: Run, steps: Steps) -> None:
        if steps.first_bad is not None and not self._said:
            self._said = True
            step = run.progress.step - steps.done + steps.first_bad + 1
            _log.warning("the loss is not finite at step %d", step)


class _WaitingWarning:
    """Warns once in a run if steps wait for batches for long, and suggests a remedy."""

    def __init__(self) -> None:
        self._said, self._waited = False, 0.0  # seconds, at the last check

    def __call__(self, run: Run) -> None:
        feed = run.plan.feed
        if self._said or feed.waited < self._waited + _LONG:
            return
        self._waited = feed.waited
        timing = run.wall_time.moment().timing(since=run.epoch_began)
        share, seconds = timing.get("input_share", 0.0), timing["time/input"]
        if share < _WAITING:
            return
        self._said = True
        _log.warning(
            "steps waited %.1f s for batches, %.0f %% of their time in this epoch: %s.",
            seconds,
            100 * share,
            feed.faster,
        )
