"""A run's memory: what is restored when it begins, saved on the way, and written when it ends."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from looplab import state
from looplab.checkpoint import Store
from looplab.errors import ConfigurationError, Interrupted, LooplabError
from looplab.loggers import Console, History, JsonLines, TensorBoard, read_records
from looplab.protocols import Logger, Summary
from looplab.run_directory import read_outcome, write_environment, write_outcome

_log = logging.getLogger("looplab")


class Session:
    """One `fit` in one run directory, or in none (`run_dir=None` writes nothing).

    A context manager: however the block ends, logs are closed and `outcome.json` says how.

    Attributes:
        run_dir: The run directory, or None.
        console: What the person sees.
        loggers: Where records go, the console among them.
        outcome: What `outcome.json` will say beyond status, exit code and reason.
    """

    def __init__(self, run_dir: Path | None, *, verbose: str | int, resume: str) -> None:
        """Looks at the directory; writes nothing yet.

        Args:
            run_dir: The run directory, or None.
            verbose: See `Console`.
            resume: `"auto"` continues what is there; `"never"` refuses a directory with a run.

        Raises:
            ConfigurationError: If `resume` is neither, or `"never"` and the directory holds a run.
        """
        if resume not in ("auto", "never"):
            raise ConfigurationError(f"resume: {resume!r} is not one of 'auto', 'never'.")
        self.run_dir = run_dir
        self._store = Store(run_dir / "checkpoints") if run_dir else None
        if resume == "never" and run_dir and (run_dir / "metrics.jsonl").exists():
            raise ConfigurationError(
                f"resume=never, but {run_dir} holds a run. Choose another run_dir, or resume=auto to "
                "continue it."
            )
        self.console = Console(verbose, run_dir / "log.txt" if run_dir else None)
        self.loggers: list[Logger] = [self.console]
        if run_dir is not None:
            self.loggers += [JsonLines(run_dir / "metrics.jsonl")]
            self.loggers += [TensorBoard(run_dir / "tensorboard")]
        self.outcome: dict[str, Any] = {}
        self.reason: str | None = None
        self._began = time.monotonic()
        self._untouched = False

    def __enter__(self) -> Session:
        """Begins to listen to what is said."""
        self.console.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the loggers and writes the outcome; an exception goes on."""
        for logger in self.loggers:
            logger.close()
        if self.run_dir is not None and not self._untouched and self.run_dir.exists():
            write_outcome(self.run_dir, {**self._ending(error), **self.outcome})
        self.console.__exit__()

    def restore(self, variables: state.Variables) -> dict[str, Any] | None:
        """Restores the newest good checkpoint into `variables`, and cuts the logs back to it.

        Returns:
            The values that were saved with it, or None for a fresh start.

        Raises:
            CheckpointError: If there are checkpoints but none is good, or it does not fit.
        """
        found = self._store.newest() if self._store else None
        if self._store is not None and self.run_dir is not None and self.run_dir.exists():
            offsets = found[2]["logs"] if found else {}
            if found is not None:
                state.assign(variables, found[1], str(found[0]))
            elif (self.run_dir / "metrics.jsonl").exists():
                _log.warning("%s has no checkpoint yet: starting at step 0 again", self.run_dir)
            for logger in self.loggers:
                logger.rewind(offsets)
        return found[2]["values"] if found else None

    def history(self) -> History:
        """Returns the epochs that the restored run has behind it; a logger of those to come."""
        history = History()
        if self.run_dir is not None:
            for record in read_records(self.run_dir / "metrics.jsonl"):
                history.write(record)
        return history

    def begin(self, summary: Summary, **facts: Any) -> None:
        """Says what will run, and writes `environment.json` (see `write_environment`)."""
        if self.run_dir is not None:
            write_environment(self.run_dir, **facts)
        for logger in self.loggers:
            logger.begin(summary)

    def nothing_to_do(self, step: int, total: int) -> None:
        """Says that the run has all its steps already; its outcome stays as it is."""
        self._untouched = True
        self.console.say(
            f"nothing is left to do: the run has {step} of {total} steps. Ask for more epochs to continue it."
        )
        self._say_where(self._earlier_best())

    def end(self, step: int, epoch: int, best: dict[str, Any] | None, reason: str | None) -> None:
        """Says how it ended and where everything is.

        Args:
            step: Completed steps.
            epoch: The epoch of that step.
            best: The best evaluation, see `looplab.loop.Progress`.
            reason: Why it ended early, or None.

        Raises:
            Interrupted: If the reason is that the person interrupted it.
        """
        self.console.close()
        self.reason = reason
        self.outcome |= {"step": step, "epoch": epoch, "best": best}
        self.outcome.setdefault("last_checkpoint", None)
        if reason:
            self.console.say(f"stopped at step {step}: {reason}")
        self._say_where(best)
        if reason == "interrupted":
            again = "; the same command continues" if self.run_dir else ""
            raise Interrupted(f"interrupted at step {step}, everything is saved{again}")

    def _say_where(self, best: dict[str, Any] | None) -> None:
        if best is not None:
            others = "  ".join(
                f"{name} {value:.4f}"
                for name, value in best["values"].items()
                if name.startswith("val_") and name != best["monitor"]
            )
            where = f"epoch {best['epoch']}, step {best['step']}"
            self.console.say(f"best     {best['monitor']} {best['value']:.4f}  {others}  ({where})")
        if self.run_dir is not None:
            self.console.say(f"run      {self.run_dir}")
            self.console.say(f"watch    tensorboard --logdir {shlex.quote(str(self.run_dir))}")

    def _earlier_best(self) -> dict[str, Any] | None:
        outcome = read_outcome(self.run_dir) if self.run_dir else None
        return outcome.get("best") if outcome else None

    def save(
        self,
        step: int,
        variables: state.Variables,
        values: Mapping[str, Any],
        keep_last: int,
        keep: Collection[int],
    ) -> Path:
        """Writes a checkpoint, then drops those that nothing keeps.

        Args:
            step: Completed steps.
            variables: The live state.
            values: What else a restart needs, in JSON's types.
            keep_last: How many of the newest to keep.
            keep: Steps to keep besides.
        """
        assert self._store is not None
        offsets = {name: size for logger in self.loggers for name, size in logger.offsets().items()}
        path = self._store.save(step, state.read(variables), {"values": values, "logs": offsets})
        self._store.prune({*self._store.steps()[-keep_last:], *keep})
        self.outcome["last_checkpoint"] = path.name
        return path

    def _ending(self, error: BaseException | None) -> dict[str, Any]:
        if error is None:
            status = "stopped" if self.reason else "finished"
            code, reason = 0, self.reason
        elif isinstance(error, LooplabError):
            status, code, reason = error.status, error.exit_code, str(error)
        elif isinstance(error, KeyboardInterrupt):
            status, code, reason = "interrupted", 130, "aborted by a second Ctrl-C"
        else:
            status, code = "failed", 1
            reason = f"{type(error).__name__}: {error}"
        seconds = round(time.monotonic() - self._began, 3)
        return {"status": status, "exit_code": code, "reason": reason, "seconds": seconds}
