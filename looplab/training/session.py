"""One fit in a run directory: its lock, signals, watchdog, loggers, and the files written at its end."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

from looplab.checkpoint import Store
from looplab.errors import ConfigurationError, EndRequested, StorageError, is_abort, shown
from looplab.loggers import (
    METRICS,
    Background,
    Console,
    Guarded,
    JsonLines,
    TensorBoard,
    as_text,
)
from looplab.options.recording import Recording
from looplab.protocols import Agreement, Logger, Summary
from looplab.runs import crash_report, wall_time
from looplab.runs.directory import (
    attempted,
    ending,
    read_outcome,
    refuse_run,
    write_abandoned,
    write_environment,
    write_outcome,
)
from looplab.runs.lock import held
from looplab.runs.signals import Request, heard
from looplab.runs.terminal import in_kernel
from looplab.runs.watchdog import Watchdog, dump_stacks
from looplab.secret import redacted

_log = logging.getLogger("looplab")


class Session:
    """One `fit` in one run directory, or in none (`run_dir=None` writes nothing).

    It is a context manager: however the block ends, the logs are closed and `outcome.json` records the end. A
    start that is refused, or has nothing to do, leaves the directory unchanged.

    Attributes:
        agreement: Makes decisions together with other processes of the run.
        role: `"chief"`, or `"worker"` for a process that writes nothing.
        run_dir: The run directory that this process writes, or None.
        console: The output for the user.
        loggers: The loggers, including the console.
        outcome: The content of `outcome.json` in addition to status, exit code and reason.
        wall_time: Counts the time, from the start of the process if a command has started it.
        request: The request from outside.
        is_untouched: Whether the run directory is unchanged except for its log.
    """

    def __init__(
        self,
        recording: Recording,
        agreement: Agreement,
        *,
        verbose: str | int,
        begins: bool = True,
        hang_timeout: str | None = None,
    ) -> None:
        """Reads the directory; writes nothing yet.

        Args:
            recording: The settings for recording the run.
            agreement: Determines whether this process is the chief, which writes the run directory and logs;
                other processes write nothing.
            verbose: 0 shows nothing, 1 a progress bar, 2 a line per epoch; `"auto"` chooses.
            begins: Whether `resume="never"` refuses a directory with a run; False if a trainer continues.
            hang_timeout: The longest time without progress, such as `"60min"`; None sets no limit.

        Raises:
            ConfigurationError: If `resume` has another value, or refuses, if `hang_timeout` is not a time, or
                if a logger refuses the directory.
        """
        self.agreement = agreement
        self.role = "chief" if agreement.is_chief else "worker"
        run_dir, loggers = (recording.run_dir, recording.loggers) if agreement.is_chief else (None, ())
        if recording.resume not in ("auto", "never") and begins:
            raise ConfigurationError(f"resume: {recording.resume!r} is not one of 'auto', 'never'.")
        self.run_dir, self.wall_time = run_dir, wall_time.taken()
        if begins and recording.resume == "never" and run_dir is not None:
            refuse_run(run_dir)
        for logger in loggers:
            logger.check(run_dir)
        self._log_file = log = run_dir / "log.txt" if run_dir else None
        self._log_size = log.stat().st_size if log and log.exists() else None
        self.console = Console(verbose if agreement.is_chief else 0, log)
        recorded: list[Logger] = []
        if run_dir is not None:
            records = Guarded(JsonLines(run_dir / METRICS), fatal=(StorageError,))  # the record of truth
            recorded = [Background([records, Guarded(TensorBoard(run_dir / "tensorboard"))])]
        self.loggers: list[Logger] = [self.console, *recorded, *map(Guarded, loggers)]
        self._hyperparameters = redacted(dict(recording.hyperparameters))
        self.outcome: dict[str, Any] = {"step": None, "epoch": None, "best": None}
        self.reason: str | None = None
        self._began, self.is_untouched = False, True
        self.request = Request()
        self._held = ExitStack()
        self._watchdog = None if hang_timeout is None else Watchdog(hang_timeout, run_dir)

    def __enter__(self) -> Session:
        """Takes the lock, starts to listen to signals, and opens the loggers.

        Raises:
            RunInUse: If another process writes the run directory.
        """
        if self.run_dir is not None:
            self._held.enter_context(held(self.run_dir))
        self._held.enter_context(heard(self.request, self._abandon))
        if self._watchdog is not None:
            self._held.enter_context(self._watchdog)
        self.console.__enter__()
        for logger in self.loggers:
            logger.open(self.run_dir)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the loggers and writes the outcome; an exception propagates.

        Raises:
            KeyboardInterrupt: If a library has replaced one by another error; in the same way `Terminated`.
        """
        meant = self.request.meant(error)
        with self._held:
            self._close(meant)
        if meant is not None and meant is not error:
            raise meant from None

    def _close(self, error: BaseException | None) -> None:
        outcome = {
            **ending(error, self.reason),
            **self.outcome,
            "last_checkpoint": self._last_checkpoint(),
            **self.wall_time.facts(),
        }
        with self.wall_time.time("logging"):
            for logger in self.loggers:
                if self._began:
                    logger.end(outcome)
                logger.close()
        try:
            self._record(error, outcome | self.wall_time.facts())
        finally:
            self.console.__exit__()
        # A failure that changed nothing is in its report; a log that it created itself stays.
        takes_back = not _failed(error) or (self.is_untouched and self._log_size is not None)
        if self.run_dir is not None and not self._began and takes_back:
            self._leave_as_found()

    def _record(self, error: BaseException | None, outcome: dict[str, Any]) -> None:
        """Writes the end of the run; a failure to write does not hide the run's own error."""
        if self.run_dir is None or not (self._began or _failed(error)):
            return
        if error is not None and not isinstance(error, EndRequested | KeyboardInterrupt):
            crash_report.write(self.run_dir, error, outcome)
        if not self._began and read_outcome(self.run_dir) is not None:
            return  # it records the run's progress
        if error is not None:
            with attempted(self.run_dir / "outcome.json"):
                write_outcome(self.run_dir, outcome)
            return
        try:
            write_outcome(self.run_dir, outcome)
        except OSError as full:
            raise StorageError(
                f"the run has ended, but {self.run_dir / 'outcome.json'} could not be written: "
                f"{full.strerror or full}. Make room; the same command then completes it."
            ) from None

    def beat(self, step: int) -> None:
        """Tells the watchdog that the run moves, and its step."""
        if self._watchdog is not None:
            self._watchdog.beat(step)

    def _abandon(self, reason: str, code: int) -> None:
        """Records that the process ends itself, from any thread: nothing more is saved."""
        if self.run_dir is None:
            return
        print(crash_report.line(write_abandoned(self.run_dir, reason, code)), file=sys.stderr, flush=True)
        with attempted(self.run_dir / "log.txt"):
            dump_stacks(self.run_dir)

    def begin(self, summary: Summary, **facts: Any) -> None:
        """Passes the plan to the loggers, and writes `environment.json` (see `write_environment`)."""
        self._began = True
        if self.run_dir is not None:
            for name in ("outcome.json", crash_report.REPORT):  # from an earlier start
                (self.run_dir / name).unlink(missing_ok=True)
            write_environment(self.run_dir, **facts)
        summary = replace(summary, hyperparameters=self._hyperparameters)
        for logger in self.loggers:
            logger.begin(summary)

    @property
    def has_ended(self) -> bool:
        """Whether the run in the directory is complete, callbacks included; True without a directory."""
        outcome = {"status": "finished"} if self.run_dir is None else read_outcome(self.run_dir)
        return outcome is not None and outcome.get("status") in ("finished", "stopped")

    def nothing_to_do(self, step: int, total: int) -> None:
        """Prints that the run has all its steps already."""
        self.console.say(
            f"nothing is left to do: the run has {step} of {total} steps. Set more epochs to continue it."
        )
        self._say_where(self._earlier_best())

    def stands(self, step: int, epoch: int, best: dict[str, Any] | None) -> None:
        """Stores the progress of the run for its outcome; for the arguments see `end`."""
        self.outcome |= {"step": step, "epoch": epoch, "best": best}

    def state_result(self, stated: dict[str, Any] | None) -> None:
        """Stores the result that a callback has stated for the outcome; None if none has."""
        if stated is not None:
            self.outcome["result"] = stated

    def end(self, step: int, epoch: int, best: dict[str, Any] | None, reason: str | None) -> None:
        """Prints how the run ended and where its files are.

        Args:
            step: The number of completed steps.
            epoch: The epoch of that step.
            best: The best evaluation, see `looplab.training.progress.Progress`.
            reason: Why it ended early, or None.

        Raises:
            EndRequested: If a signal requested it.
        """
        self.console.close()
        self.reason = reason
        self.stands(step, epoch, best)
        if reason:
            self.console.say(f"stopped at step {step}: {reason}")
        self._say_where(best, self.wall_time.lines())
        if self.request:
            words = shlex.quote(f"run_dir={self.run_dir}")
            saved = f", everything is saved: {words} continues it" if self.run_dir else ""
            saved = saved or ("; another fit of this trainer continues" if in_kernel() else "")
            error = self.request.error(f"{self.request.name} at step {step}{saved}")
            if isinstance(error, SystemExit) and not self.console.verbose:
                print(f"looplab: {shown(str(error))}", file=sys.stderr)  # Python ends with it silently
            raise error

    def _say_where(self, best: dict[str, Any] | None, lines: Sequence[tuple[str, str]] = ()) -> None:
        self.console.say("")
        if best is not None:
            shown = {best["monitor"]: best["value"]}
            shown |= {name: value for name, value in best["values"].items() if name.startswith("val_")}
            where = f"epoch {best['epoch']}, step {best['step']}"
            self.console.say(f"best     {as_text(shown)}  ({where})")
        if (stated := self.outcome.get("result")) is not None:
            self.console.say(f"result   {_as_words(stated)}")
        for label, text in lines:
            self.console.say(f"{label:<9}{text}")
        if self.run_dir is not None:
            self.console.say(f"run      {self.run_dir}")
            self.console.say(f"watch    tensorboard --logdir {shlex.quote(str(self.run_dir))}")

    def _earlier_best(self) -> dict[str, Any] | None:
        outcome = read_outcome(self.run_dir) if self.run_dir else None
        return outcome.get("best") if outcome else None

    def _last_checkpoint(self) -> str | None:
        store = None if self.run_dir is None else Store(self.run_dir / "checkpoints")
        steps = [] if store is None else store.steps()
        return store.path(steps[-1]).name if store and steps else None

    def _leave_as_found(self) -> None:
        """Removes the log lines of a start that did nothing."""
        assert self._log_file is not None
        if self._log_size is not None:
            os.truncate(self._log_file, self._log_size)
            return
        self._log_file.unlink(missing_ok=True)


def shorten(end: EndRequested) -> None:
    """Takes looplab's frames from the traceback, if a session has raised it: all is said and saved."""
    *_, (frame, _) = traceback.walk_tb(end.__traceback__)
    if frame.f_globals.get("__name__") == __name__:
        end.with_traceback(None)


def _failed(error: BaseException | None) -> bool:
    """Whether a start that did not reach training has something to record."""
    return error is not None and not isinstance(error, ConfigurationError) and not is_abort(error)


def _as_words(stated: dict[str, Any]) -> str:
    """Describes a result and its baseline: `AUC 0.98 (above the baseline 0.91)`."""
    side = "above" if stated["mode"] == "max" else "below"
    value = "not finite" if stated["value"] is None else f"{stated['value']:.6g}"
    met = "" if stated["met"] else "not "
    return f"{stated['name']} {value} ({met}{side} the baseline {stated['baseline']:.6g})"
