"""The loop: plan, execute, notify. One function for fit and one for evaluate.

    begin                                     on_train_begin
    while steps are left and nobody stops:
        plan      k = distance to the nearest step at which anyone is due
        execute   k steps in one compiled call
        record    each step's own values      on_step
        settle    at the step that was due:
                      evaluate                on_evaluate
                      end the epoch           on_epoch_end
                      save                    on_save
    save what is not saved                    on_train_end, or on_exception

A step is settled when all that belongs to it is done. A run that is interrupted between executing
and settling is saved as such, and settles that step first when it continues.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from looplab.callbacks import Callbacks, EpochEvent, EvaluateEvent, Event, SaveEvent, StepEvent
from looplab.checkpoint import Policy
from looplab.errors import Interrupted
from looplab.execution import Execution, Pace
from looplab.interval import Interval
from looplab.metrics import StepMeans
from looplab.protocols import Feed, Logger, Record, Steps

_log = logging.getLogger("looplab")


@dataclass
class Progress:
    """Where a run stands, beyond its variables; saved with every checkpoint.

    Attributes:
        step: Completed steps.
        settled: The last step whose evaluation, epoch end and checkpoint are done.
        means: Sums over the present epoch.
        best: Monitor, value, step and epoch of the best evaluation so far, or None.
    """

    step: int = 0
    settled: int = 0
    means: StepMeans = field(default_factory=StepMeans)
    best: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns it in JSON's types."""
        return {
            "step": self.step,
            "settled": self.settled,
            "sums": self.means.sums,
            "best": self.best,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Progress:
        """Reads what `to_json` gave."""
        means = StepMeans()
        means.sums = {name: list(pair) for name, pair in saved["sums"].items()}
        return cls(saved["step"], saved["settled"], means, saved["best"])


class Controls:
    """What callbacks and signals ask of the loop; see `looplab.protocols.Controls`."""

    def __init__(self, scale: Callable[[float, str | None], None]) -> None:
        """Starts with nothing asked.

        Args:
            scale: Multiplies the learning-rate factor of one optimizer, or of all.
        """
        self.reason: str | None = None
        self.interrupted = False
        self.save_asked = False
        self._scale = scale

    def stop(self, reason: str) -> None:
        """See `looplab.protocols.Controls`."""
        self.reason = self.reason or reason

    def save(self) -> None:
        """See `looplab.protocols.Controls`."""
        self.save_asked = True

    def scale_learning_rate(self, factor: float, optimizer: str | None = None) -> None:
        """See `looplab.protocols.Controls`."""
        self._scale(factor, optimizer)


@dataclass
class Run:
    """Everything one `fit` works with, put together by the trainer.

    Attributes:
        total_steps: Completed steps at which to end.
        steps_per_epoch: Steps of an epoch.
        progress: Where the run stands; changed in place.
        execution: Runs steps.
        feed: Gives their batches.
        pace: Says how many at once.
        callbacks: Who is notified.
        loggers: Where records go.
        controls: What was asked for meanwhile.
        policy: When to save and what is best.
        log_every: The interval of steps whose own values are recorded.
        evaluate: Evaluates on the validation data, given a function that says whether to give up;
            None where there is none. Returns None when it gave up.
        epoch_values: Gives the training metrics of the epoch so far and the learning rate.
        begin_epoch: Forgets the training metrics.
        save: Writes a checkpoint and returns its folder; None without a run directory.
        show: Shows progress: `(step, epoch, values)`.
        run_dir: Where the run is recorded, or None.
    """

    total_steps: int
    steps_per_epoch: int
    progress: Progress
    execution: Execution
    feed: Feed
    pace: Pace
    callbacks: Callbacks
    loggers: list[Logger]
    controls: Controls
    policy: Policy
    log_every: Interval
    evaluate: Callable[[Callable[[], bool]], dict[str, float] | None] | None
    epoch_values: Callable[[], dict[str, float]]
    begin_epoch: Callable[[], None]
    save: Callable[[], Path] | None
    show: Callable[[int, int, Callable[[], dict[str, float]]], None]
    run_dir: Path | None
    began: float = field(default_factory=time.monotonic)
    epoch_began: float = field(default_factory=time.monotonic)
    epoch_first_step: int = 0
    saved_at: float = field(default_factory=time.monotonic)
    saved_step: int = -1
    warned: bool = False

    def epoch(self, step: int) -> int:
        """Returns the epoch that a completed step belongs to, from 1."""
        return max(step - 1, 0) // self.steps_per_epoch + 1

    def event(self, kind: type[Event] = Event, **more: Any) -> Any:
        """Makes an event at the present step."""
        step = self.progress.step
        where = step, self.epoch(step), self.total_steps, self.steps_per_epoch, self.run_dir
        return kind(*where, **more)


def fit(run: Run) -> str | None:
    """Trains until the steps are done or someone stops it.

    Runs on the host, eagerly. In the main thread, the first SIGINT (Ctrl-C) stops the run at the
    end of the present execution, with everything saved; the second raises `KeyboardInterrupt` at
    once. The handler that was there is put back.

    Args:
        run: Restored to where training begins; its `progress` says how far it came.

    Returns:
        Why it stopped before its last step, or None if it did not.
    """
    progress = run.progress
    run.epoch_first_step = progress.step
    run.feed.seek(progress.step)
    with _interruptible(run.controls):
        try:
            run.callbacks.call("on_train_begin", run.event(), run.controls)
            while not run.controls.interrupted:
                if progress.settled < progress.step:
                    _settle(run)
                    continue
                if progress.step >= run.total_steps or run.controls.reason:
                    break
                steps = _execute(run)
                _record(run, steps)
            if run.save is not None and run.saved_step != progress.step:
                _save(run)
            if not run.controls.interrupted:
                run.callbacks.call("on_train_end", run.event(), run.controls)
        except BaseException as error:
            run.callbacks.call("on_exception", run.event(), error)
            raise
        if run.controls.interrupted:
            interrupted = Interrupted(f"interrupted at step {progress.step}")
            run.callbacks.call("on_exception", run.event(), interrupted)
    return "interrupted" if run.controls.interrupted else run.controls.reason


def evaluate(
    execution: Execution, feed: Feed, pace: Pace, give_up: Callable[[], bool] = lambda: False
) -> dict[str, float] | None:
    """Runs one whole pass over a feed and returns the weighted means of what its steps return.

    Args:
        execution: Of the test step.
        feed: Of known length; begins at its first batch.
        pace: How many steps at once.
        give_up: Asked between executions.

    Returns:
        Means by name, or None if it gave up.
    """
    means = StepMeans()
    left = feed.steps_per_epoch or 0
    feed.seek(0)
    while left:
        if give_up():
            return None
        steps = execution.run(feed, pace.plan(min(left, feed.max_take or left)))
        pace.learn(steps.done)
        means.add(steps.values, steps.weights)
        left -= steps.done
    return means.result()


def _execute(run: Run) -> Steps:
    """Runs up to the nearest step at which anyone is due."""
    step = run.progress.step
    room = min(_due(run, step), run.total_steps) - step
    steps = run.execution.run(run.feed, run.pace.plan(min(room, run.feed.max_take or room)))
    run.pace.learn(steps.done)
    run.progress.step += steps.done
    if steps.first_bad is not None and not run.warned:
        run.warned = True
        _log.warning("the loss is not finite at step %d", step + steps.first_bad + 1)
    return steps


def _due(run: Run, step: int) -> int:
    """Returns the first step after `step` at which something besides training happens."""
    epoch_end = (step // run.steps_per_epoch + 1) * run.steps_per_epoch
    due = [epoch_end]
    if not run.policy.interval.wall_clock and run.save is not None:
        interval = run.policy.interval
        due.append(interval.next_step(step, run.steps_per_epoch, run.feed.examples))
    callbacks = run.callbacks.next_step(step, run.steps_per_epoch, run.feed.examples)
    if callbacks is not None:
        due.append(callbacks)
    return min(due)


def _record(run: Run, steps: Steps) -> None:
    """Takes in what the steps returned: means, logs, callbacks that are due, the progress bar."""
    progress = run.progress
    first = progress.step - steps.done
    progress.means.add(steps.values, steps.weights)
    seconds = time.monotonic() - run.began
    due = _next(run, run.log_every, first)
    while due <= progress.step:
        values = {name: float(series[due - first - 1]) for name, series in steps.values.items()}
        _write(run, Record(due, run.epoch(due), "train", values, {"seconds": seconds}))
        due = _next(run, run.log_every, due)
    last = {name: float(series[-1]) for name, series in steps.values.items()}
    run.callbacks.step(run.event(StepEvent, values=last), run.controls, run.feed.examples)
    run.show(progress.step, run.epoch(progress.step), lambda: _epoch_values(run))


def _settle(run: Run) -> None:
    """Does what belongs to the present step, in the order: evaluate, end the epoch, save."""
    progress, values = run.progress, {}
    epoch_ends = progress.step % run.steps_per_epoch == 0
    if epoch_ends or progress.step == run.total_steps:
        evaluated = _evaluate(run)
        if evaluated is None:
            return  # interrupted: settled when the run continues
        values = _epoch_values(run) | {f"val_{name}": v for name, v in evaluated.items()}
        _end_epoch(run, values)
        if epoch_ends:
            progress.means = StepMeans()
            run.begin_epoch()
    improved = _note_best(run, values)
    progress.settled = progress.step
    if run.save is not None and (improved or run.controls.save_asked or _save_due(run)):
        _save(run)


def _evaluate(run: Run) -> dict[str, float] | None:
    if run.evaluate is None:
        return {}
    began = time.monotonic()
    values = run.evaluate(lambda: run.controls.interrupted)
    if values is None:
        return None
    step = run.progress.step
    tags = {f"epoch_{name}": value for name, value in values.items()}
    timing = {
        "seconds": time.monotonic() - run.began,
        "evaluation_seconds": time.monotonic() - began,
    }
    _write(run, Record(step, run.epoch(step), "validation", tags, timing))
    event = run.event(EvaluateEvent, split="validation", values=values)
    run.callbacks.call("on_evaluate", event, run.controls)
    return values


def _end_epoch(run: Run, values: dict[str, float]) -> None:
    now, step = time.monotonic(), run.progress.step
    seconds = now - run.epoch_began
    rate = (step - run.epoch_first_step) / seconds if seconds else 0.0
    timing = {"seconds": now - run.began, "epoch_seconds": seconds, "steps_per_second": rate}
    own = {name: v for name, v in values.items() if not name.startswith("val_")}
    rates = {name for name in own if name.endswith("learning_rate")} - set(run.progress.means.sums)
    tags = {name if name in rates else f"epoch_{name}": value for name, value in own.items()}
    _write(run, Record(step, run.epoch(step), "train", tags, timing))
    run.callbacks.call("on_epoch_end", run.event(EpochEvent, values=values), run.controls)
    run.epoch_began, run.epoch_first_step = time.monotonic(), step


def _epoch_values(run: Run) -> dict[str, float]:
    means = run.progress.means.result()
    return means | {name: value for name, value in run.epoch_values().items() if name not in means}


def _note_best(run: Run, values: dict[str, float]) -> bool:
    found = run.policy.value(values)
    best = run.progress.best
    if found is None or not run.policy.better(found[1], best["value"] if best else None):
        return False
    step = run.progress.step
    monitor, value = found
    run.progress.best = {
        "monitor": monitor,
        "value": value,
        "step": step,
        "epoch": run.epoch(step),
        "values": values,
    }
    return True


def _save_due(run: Run) -> bool:
    interval = run.policy.interval
    if interval.wall_clock:
        return time.monotonic() - run.saved_at >= interval.seconds
    return _next(run, interval, run.progress.step - 1) == run.progress.step


def _save(run: Run) -> None:
    assert run.save is not None
    path = run.save()
    run.controls.save_asked = False
    run.saved_at, run.saved_step = time.monotonic(), run.progress.step
    run.callbacks.call("on_save", run.event(SaveEvent, path=path), run.controls)


def _next(run: Run, interval: Interval, step: int) -> int:
    return interval.next_step(step, run.steps_per_epoch, run.feed.examples)


def _write(run: Run, record: Record) -> None:
    for logger in run.loggers:
        logger.write(record)


@contextmanager
def _interruptible(controls: Controls) -> Iterator[None]:
    """Makes Ctrl-C a request; only the main thread may set handlers, elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request(number: int, frame: Any) -> None:
        if controls.interrupted:
            raise KeyboardInterrupt
        controls.interrupted = True
        _log.warning("stopping after the present execution; Ctrl-C again aborts at once")

    before = signal.signal(signal.SIGINT, request)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
