"""The records of a run: the values of steps, evaluations and epochs, each passed to the loggers once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from looplab.execution import Shown
from looplab.loggers import METRICS, Console, History, read_records
from looplab.protocols import Logger, Media, Record, StepRecords, Steps
from looplab.runs.wall_time import WallTime
from looplab.training.controls import RunControls
from looplab.training.fit_plan import FitPlan
from looplab.training.progress import Progress


class Recorder:
    """Passes the values of the present step to the loggers; its time counts as logging."""

    def __init__(
        self,
        plan: FitPlan,
        progress: Progress,
        loggers: Sequence[Logger],
        console: Console,
        wall_time: WallTime,
    ) -> None:
        """Writes nothing yet.

        Args:
            plan: The plan of the fit, with its epochs and the interval of steps that are logged.
            progress: The progress of the run.
            loggers: The loggers.
            console: The console that shows the progress of every execution.
            wall_time: The object that counts the time.
        """
        self._plan, self._progress = plan, progress
        self._loggers, self._console, self._wall_time = list(loggers), console, wall_time
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """The seconds since the run began to record, in this process."""
        return time.monotonic() - self._began

    def steps(self, steps: Steps) -> None:
        """Logs the values of the completed steps that are due; the last of `steps` is the present step."""
        plan, last = self._plan, self._progress.step
        first = last - steps.done
        due = plan.epochs.steps(plan.log_every, first, last, plan.examples)
        if due:
            places = np.asarray(due) - first - 1
            values = {name: series[places] for name, series in steps.values.items()}
            records = StepRecords(due, plan.epochs.epoch(last), values, {"seconds": self.seconds})
            with self._wall_time.time("logging"):
                for logger in self._loggers:
                    logger.write_steps(records)
        self._show_due(steps.shown)

    def _show_due(self, shown: Mapping[str, Any]) -> None:
        """Logs the summaries of the last step that are due."""
        due = {
            tag: what
            for tag, what in self._plan.engine.values.shows.items()
            if self._plan.is_due(what.interval, self._progress.step)
            and (what.text is not None or tag in shown)  # not for a skipped step
        }
        rich = {}
        for tag, what in due.items():
            if what.kind == "scalar" and what.text is None:
                self.write("train", {tag: float(shown[tag])})
            else:
                rich[tag] = _media(what, shown.get(tag))
        self.show("train", rich)

    def write(
        self,
        split: str,
        values: Mapping[str, float],
        timing: Mapping[str, float] | None = None,
        *,
        from_callbacks: bool = False,
    ) -> None:
        """Logs numbers of the present step by tag.

        Args:
            split: `"train"`, or the name of a validation set.
            values: The numbers by tag.
            timing: Seconds and shares by tag, which differ from run to run.
            from_callbacks: Whether callbacks have logged them.
        """
        step = self._progress.step
        epoch = self._plan.epochs.epoch(step)
        record = Record(step, epoch, split, dict(values), dict(timing or {}), from_callbacks)
        with self._wall_time.time("logging"):
            for logger in self._loggers:
                logger.write(record)

    def show(self, split: str, found: Mapping[str, tuple[str, Any]]) -> None:
        """Logs images, histograms and texts of the present step, kind and data by tag."""
        if not found:
            return
        step = self._progress.step
        with self._wall_time.time("logging"):
            for tag, (kind, data) in found.items():
                for logger in self._loggers:
                    logger.show(Media(step, self._plan.epochs.epoch(step), split, tag, kind, data))

    def requested(self, controls: RunControls) -> dict[str, float]:
        """Logs the requests of callbacks since the last call, and returns their numbers."""
        logged, shown = controls.take_logged()
        if logged:
            self.write("train", logged, {"seconds": self.seconds}, from_callbacks=True)
        self.show("train", shown)
        return logged

    def end_epoch(self) -> None:
        """Shows an epoch on the console, after callbacks have logged what they log at its end."""
        with self._wall_time.time("logging"):
            self._console.end_epoch()

    def progress(self, values: Any) -> None:
        """Shows the progress of the run on the console.

        Args:
            values: A function that returns the values of the epoch so far, called if the console shows them
                now.
        """
        step = self._progress.step
        with self._wall_time.time("logging"):
            self._console.progress(step, self._plan.epochs.epoch(step), values)


def history_of(run_dir: Path | None, earlier: History | None) -> History:
    """Returns the earlier epochs of a run, as a logger that continues with the next ones.

    Args:
        run_dir: The run directory, or None.
        earlier: The history of an earlier fit of the same trainer, which continues; None for the first fit.
    """
    history = History(earlier if run_dir is None else None)
    if run_dir is not None:
        for record in read_records(run_dir / METRICS):
            history.write(record)
    return history


def _media(what: Shown, value: Any) -> tuple[str, Any]:
    return ("text", what.text) if what.text is not None else (what.kind, value.numpy())
