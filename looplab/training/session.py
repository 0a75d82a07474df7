"""A run's memory: what is restored when it begins, saved on the way, and written when it ends."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tensorflow as tf

from looplab.checkpoint import Policy, Saver, Store, bundle, nested_arrays, state
from looplab.checkpoint.verification import read_back
from looplab.errors import ConfigurationError, EndRequested, StorageError, is_abort
from looplab.loggers import (
    Background,
    Console,
    Guarded,
    History,
    JsonLines,
    TensorBoard,
    as_text,
    read_records,
)
from looplab.protocols import Logger, Summary
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
from looplab.runs.watchdog import Watchdog, dump_stacks
from looplab.secret import redacted
from looplab.strategy import tree

_log = logging.getLogger("looplab")

BAD_STEPS = "bad_steps"  # in the run directory
_ABORT = 2.0  # seconds


class Session:
    """One `fit` in one run directory, or in none (`run_dir=None` writes nothing).

    A context manager: however the block ends, logs are closed and `outcome.json` says how. A start
    that is refused, or has nothing to do, leaves the directory as it was.

    Attributes:
        run_dir: The run directory, or None.
        console: What the person sees.
        loggers: Where records go, the console among them.
        outcome: What `outcome.json` will say beyond status, exit code and reason.
        ledger: Where the time goes, from the start of the process if a command has started it.
        request: What is asked from outside.
        saver: Who writes checkpoints, once training begins.
    """

    def __init__(
        self,
        run_dir: Path | None,
        *,
        verbose: str | int,
        resume: str,
        loggers: Sequence[Logger] = (),
        hyperparameters: Mapping[str, Any] | None = None,
        hang_timeout: str | None = None,
    ) -> None:
        """Looks at the directory; writes nothing yet.

        Args:
            run_dir: The run directory, or None.
            verbose: See `Console`.
            resume: `"auto"` continues what is there; `"never"` refuses a directory with a run.
            loggers: Where records go besides.
            hyperparameters: What loggers compare the run with others by; secrets are left out.
            hang_timeout: For how long a run may not move, such as `"60min"`; None for ever.

        Raises:
            ConfigurationError: If `resume` is neither, or `"never"` and the directory holds a run, or
                `hang_timeout` is no time, or a logger refuses the directory.
        """
        if resume not in ("auto", "never"):
            raise ConfigurationError(f"resume: {resume!r} is not one of 'auto', 'never'.")
        self.run_dir, self.ledger = run_dir, wall_time.taken()
        self._store = Store(run_dir / "checkpoints") if run_dir else None
        self.saver: Saver | None = None
        if resume == "never" and run_dir is not None:
            refuse_run(run_dir)
        for logger in loggers:
            logger.check(run_dir)
        self._log_file = log = run_dir / "log.txt" if run_dir else None
        self._log_size = log.stat().st_size if log and log.exists() else None
        self.console = Console(verbose, log)
        recorded: list[Logger] = []
        if run_dir is not None:
            own = [JsonLines(run_dir / "metrics.jsonl"), TensorBoard(run_dir / "tensorboard")]
            recorded = [Background([*map(Guarded, own)])]
        self.loggers: list[Logger] = [self.console, *recorded, *map(Guarded, loggers)]
        self._hyperparameters = redacted(dict(hyperparameters or {}))
        self.outcome: dict[str, Any] = {"step": None, "epoch": None, "best": None}
        self.reason: str | None = None
        self._began, self._is_untouched = False, True
        self.request = Request()
        self._held = ExitStack()
        self._watchdog = None if hang_timeout is None else Watchdog(hang_timeout, run_dir)

    def __enter__(self) -> Session:
        """Begins to listen to what is said.

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
        """Closes the loggers and writes the outcome; an exception goes on."""
        with self._held:
            self._close(error)

    def _close(self, error: BaseException | None) -> None:
        if self.saver is not None and is_abort(error):
            self.saver.is_busy(_ABORT)  # it aborts at once, but what is half written is done in a moment
        elif self.saver is not None:
            try:
                self.saver.wait()
            except Exception as late:  # the run has ended for another reason
                _log.warning("a save failed besides: %s", late)
        steps = self.saved_steps
        outcome = {
            **ending(error, self.reason),
            **self.outcome,
            "last_checkpoint": self._store.path(steps[-1]).name if self._store and steps else None,
            **self.ledger.facts(),
        }
        with self.ledger.time("logging"):
            for logger in self.loggers:
                if self._began:
                    logger.end(outcome)
                logger.close()
        try:
            self._record(error, outcome | self.ledger.facts())
        finally:
            self.console.__exit__()
        # What a failure said that changed nothing is in its report; a log of its own it keeps.
        takes_back = not _failed(error) or (self._is_untouched and self._log_size is not None)
        if self.run_dir is not None and not self._began and takes_back:
            self._leave_as_found()

    def _record(self, error: BaseException | None, outcome: dict[str, Any]) -> None:
        """Writes how it ended; what cannot be written takes the place of no error."""
        if self.run_dir is None or not (self._began or _failed(error)):
            return
        if error is not None and not isinstance(error, EndRequested | KeyboardInterrupt):
            crash_report.write(self.run_dir, error, outcome)
        if not self._began and read_outcome(self.run_dir) is not None:
            return  # it says how far the run came
        if error is not None:
            with attempted(self.run_dir / "outcome.json"):
                write_outcome(self.run_dir, outcome)
            return
        try:
            write_outcome(self.run_dir, outcome)
        except OSError as full:
            raise StorageError(
                f"the run has ended, but {self.run_dir / 'outcome.json'} could not be written: "
                f"{full.strerror or full}. Make room; the same command then ends it once more."
            ) from None

    def beat(self, step: int) -> None:
        """Says that the run moves, and at which step, to whoever watches."""
        if self._watchdog is not None:
            self._watchdog.beat(step)

    def _abandon(self, reason: str, code: int) -> None:
        """Records the end of a process that ends itself, from any thread: nothing more is saved."""
        if self.run_dir is None:
            return
        print(crash_report.line(write_abandoned(self.run_dir, reason, code)), file=sys.stderr, flush=True)
        with attempted(self.run_dir / "log.txt"):
            dump_stacks(self.run_dir)

    def restore(
        self, variables: state.Variables, accept: Callable[..., dict[str, np.ndarray]] | None = None
    ) -> dict[str, Any] | None:
        """Restores the newest good checkpoint into `variables`, and cuts the logs back to it.

        Nothing changes, in the variables or in the directory, before everything is accepted.

        Args:
            variables: The live state.
            accept: From the values that were saved with it and its arrays to those that are assigned; may
                refuse. None takes them as they are.

        Returns:
            The values that were saved with it, or None for a fresh start.

        Raises:
            CheckpointError: If there are checkpoints but none is good, or it does not fit.
        """
        if self._store is None or self.run_dir is None:
            return None
        found = self._store.to_continue()
        if found is None:
            if (self.run_dir / "metrics.jsonl").exists():
                _log.warning("%s has no checkpoint yet: starting at step 0 again", self.run_dir)
            self._cut_back({})
            return None
        path, arrays, manifest = found
        own, among_values = nested_arrays.split(arrays)
        values = nested_arrays.lower(manifest["values"], among_values)
        if accept is not None:
            own = accept(values, own)
        state.assign(variables, own, str(path))
        self._is_untouched = False
        self._store.recover()
        self._store.set_aside(manifest["step"])
        self._cut_back(manifest["logs"])
        return dict(values)

    def _cut_back(self, offsets: Mapping[str, int]) -> None:
        """Takes away what the run directory has besides what is restored."""
        assert self._store is not None
        self._is_untouched = False
        for logger in self.loggers:
            logger.rewind(offsets)
        self._store.sweep()

    def history(self, earlier: History | None) -> History:
        """Returns the epochs that the run has behind it; a logger of those to come.

        Args:
            earlier: That of an earlier fit of the same trainer, which goes on; None for the first.
        """
        history = History(earlier if self.run_dir is None else None)
        if self.run_dir is not None:
            for record in read_records(self.run_dir / "metrics.jsonl"):
                history.write(record)
        return history

    def begin(self, summary: Summary, **facts: Any) -> None:
        """Says what will run, and writes `environment.json` (see `write_environment`)."""
        self._began = True
        if self.run_dir is not None:
            for name in ("outcome.json", crash_report.REPORT):  # of an earlier start
                (self.run_dir / name).unlink(missing_ok=True)
            write_environment(self.run_dir, **facts)
        summary = replace(summary, hyperparameters=self._hyperparameters)
        for logger in self.loggers:
            logger.begin(summary)

    @property
    def has_ended(self) -> bool:
        """Whether the run in the directory came to its end, all callbacks told; without one it did."""
        outcome = {"status": "finished"} if self.run_dir is None else read_outcome(self.run_dir)
        return outcome is not None and outcome.get("status") in ("finished", "stopped")

    def nothing_to_do(self, step: int, total: int) -> None:
        """Says that the run has all its steps already."""
        self.console.say(
            f"nothing is left to do: the run has {step} of {total} steps. Ask for more epochs to continue it."
        )
        self._say_where(self._earlier_best())

    def stands(self, step: int, epoch: int, best: dict[str, Any] | None) -> None:
        """Notes how far the run came, for its outcome; arguments as of `end`."""
        self.outcome |= {"step": step, "epoch": epoch, "best": best}

    def end(self, step: int, epoch: int, best: dict[str, Any] | None, reason: str | None) -> None:
        """Says how it ended and where everything is.

        Args:
            step: Completed steps.
            epoch: The epoch of that step.
            best: The best evaluation, see `looplab.training.run_state.Progress`.
            reason: Why it ended early, or None.

        Raises:
            EndRequested: If a signal asked for it.
        """
        self.console.close()
        self.reason = reason
        self.stands(step, epoch, best)
        if reason:
            self.console.say(f"stopped at step {step}: {reason}")
        self._say_where(best, self.ledger.lines())
        if self.request:
            words = shlex.quote(f"run_dir={self.run_dir}")
            saved = f", everything is saved: {words} continues it" if self.run_dir else ""
            error = self.request.error(f"{self.request.name} at step {step}{saved}")
            if isinstance(error, SystemExit) and not self.console.verbose:
                print(f"looplab: {error}", file=sys.stderr)  # Python ends by it without a word
            raise error

    def _say_where(self, best: dict[str, Any] | None, lines: Sequence[tuple[str, str]] = ()) -> None:
        self.console.say("")
        if best is not None:
            shown = {best["monitor"]: best["value"]}
            shown |= {name: value for name, value in best["values"].items() if name.startswith("val_")}
            where = f"epoch {best['epoch']}, step {best['step']}"
            self.console.say(f"best     {as_text(shown)}  ({where})")
        for label, text in lines:
            self.console.say(f"{label:<9}{text}")
        if self.run_dir is not None:
            self.console.say(f"run      {self.run_dir}")
            self.console.say(f"watch    tensorboard --logdir {shlex.quote(str(self.run_dir))}")

    def _earlier_best(self) -> dict[str, Any] | None:
        outcome = read_outcome(self.run_dir) if self.run_dir else None
        return outcome.get("best") if outcome else None

    @property
    def saved_steps(self) -> list[int]:
        """The steps that have a checkpoint, rising."""
        return [] if self._store is None else self._store.steps()

    def save_by(self, policy: Policy) -> None:
        """Says how checkpoints are written, before the first is."""
        assert self._store is not None
        self.saver = Saver(self._store, asynchronous=policy.asynchronous, durable=policy.durable)

    def check_room(self, variables: state.Variables, kept: int) -> None:
        """Looks whether there is room for checkpoints.

        Args:
            variables: The live state.
            kept: How many are kept when the run ends.

        Raises:
            StorageError: If there is not.
        """
        assert self.saver is not None
        size = sum(
            part.shape.num_elements() * part.dtype.size for v in variables.values() for part in [_of(v)]
        )
        self.saver.check_room(size, kept)

    def save(
        self,
        step: int,
        variables: state.Variables,
        values: Mapping[str, Any],
        keep_last: int,
        keep: Collection[int],
        verify: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
    ) -> Path:
        """Writes a checkpoint, then drops those that nothing keeps; see `Saver`.

        Args:
            step: Completed steps.
            variables: The live state.
            values: What else a restart needs, in JSON's types and NumPy arrays.
            keep_last: How many of the newest to keep.
            keep: Steps to keep besides.
            verify: Restores what a checkpoint's values stand for and returns them anew: the checkpoint
                is then read back, and must change nothing. None to trust it.

        Raises:
            CheckpointError: If what is read back is not what was saved; no other was dropped then.
            StorageError: If there is no room, and was none for several saves.
        """
        assert self.saver is not None and self.run_dir is not None
        with self.ledger.time("logging"):
            offsets = {name: size for logger in self.loggers for name, size in logger.offsets().items()}
        arrays = state.read(variables)
        plain, among_values = nested_arrays.lift(values)
        copies = {path: array.copy() for path, array in among_values.items()}
        # As it is now: who gave it goes on to change it.
        facts = json.loads(json.dumps({"values": plain, "logs": offsets}))

        def proof(path: Path) -> None:
            assert verify is not None
            read_back(path, variables, arrays, values, verify)

        return self.saver.save(
            step,
            arrays | copies,
            facts,
            before=[self.run_dir / name for name in offsets],
            keep_last=keep_last,
            keep=keep,
            proof=None if verify is None else proof,
        )

    def keep_bad_step(
        self, step: int, variables: state.Variables, batch: Any, facts: Mapping[str, Any]
    ) -> Path:
        """Writes down a step that was not finite: the state before it, and its batch; returns the folder.

        Args:
            step: Its number, from 1.
            variables: The live state, which is that before it.
            batch: Its batch.
            facts: What else there is to know, in JSON's types.
        """
        assert self.run_dir is not None
        path = self.run_dir / BAD_STEPS / f"step-{step:08d}"
        parts = {f"batch/{i}": np.asarray(part) for i, part in enumerate(tree.flatten(batch))}
        bundle.write(path, state.read(variables) | parts, {"step": step, **facts})
        return path

    def _leave_as_found(self) -> None:
        """Takes back the log of a start that came to nothing."""
        assert self._log_file is not None
        if self._log_size is not None:
            os.truncate(self._log_file, self._log_size)
            return
        self._log_file.unlink(missing_ok=True)


def _of(variable: Any) -> tf.Variable:
    """Returns what one replica holds of a variable."""
    return state.parts(variable)[0]


def _failed(error: BaseException | None) -> bool:
    """Whether a start that did not come to training has something to record."""
    return error is not None and not isinstance(error, ConfigurationError) and not is_abort(error)
