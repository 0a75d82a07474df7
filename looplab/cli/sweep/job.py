"""Runs one job of a sweep as a process, and records its result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from looplab.cli.sweep import lifeline
from looplab.cli.sweep.begin import Sweep, composition, digest, quoted, without_options
from looplab.cli.sweep.files import job_facts, sweep_facts
from looplab.config.hydra_values import OF_A_JOB
from looplab.errors import DamagedFile, Interrupted, Terminated
from looplab.runs.directory import holds_run, read_outcome, write_sealed
from looplab.runs.lock import is_held

# Options that say how jobs are found and started; a job does not get them.
_OF_THE_SWEEP = (
    "hydra.mode",
    "hydra.sweep.",
    "hydra.sweeper",
    "hydra/sweeper",
    "hydra.launcher",
    "hydra/launcher",
    "hydra.callbacks.sweep",
)
_ASKED_TO_END = (Interrupted.exit_code, Terminated.exit_code)
_LINES = 100  # the lines of a job's standard error that are kept


class Task:
    """The function that Hydra calls: for the one run of a command, or for each job of a sweep."""

    def __init__(self, run: Callable[[DictConfig], None], whole: bool) -> None:
        """Stores the arguments.

        Args:
            run: Trains, in this process.
            whole: Whether the user wants full tracebacks.
        """
        self._run: Callable[[DictConfig], None] | None = run
        self._whole = whole

    def __call__(self, composed: DictConfig) -> float | None:
        """Trains, or runs a job and returns its objective; None if it has none."""
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return Job(composed, self._whole).run()
        assert self._run is not None
        self._run(composed)
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what only the command's own process can do."""
        return {"_run": None, "_whole": self._whole}


class Job:
    """A job, as the process that starts it sees it."""

    def __init__(self, composed: DictConfig, whole: bool) -> None:
        """Reads from Hydra which job it is."""
        hydra = HydraConfig.get()
        sweep_dir = Path(hydra.sweep.dir)
        facts = sweep_facts(sweep_dir)
        task = [word for word in hydra.overrides.task if word.lstrip("+").partition("=")[0] != "run_dir"]
        of_hydra = [word for word in hydra.overrides.hydra if not word.lstrip("+~").startswith(_OF_THE_SWEEP)]
        self._folder = sweep_dir / str(hydra.job.num)
        self._words = without_options(task)
        self._is_known = True
        self._configuration = digest(composition(composed))
        self._command = [
            sys.executable,
            *(["-P"] if sys.flags.safe_path else []),
            *("-m", "looplab.train"),
            *_places(hydra),
            *(*task, *of_hydra, f"run_dir={quoted(self._folder)}", "hydra.mode=RUN"),
        ]
        self._environment = {k: v for k, v in os.environ.items() if whole or k != "HYDRA_FULL_ERROR"}
        self._environment[lifeline.JOB] = "1"
        own = [word for word in self._words if word.lstrip("+~").partition("=")[0] not in facts["fixed"]]
        which = f" ({hydra.job.num + 1} of {facts['jobs']})" if facts["jobs"] else ""
        self._title = "  ".join([f"job {hydra.job.num}{which}", *own])
        # A launcher with its own processes runs several jobs at once, whose output would be mixed.
        self._alone = Sweep.present is not None

    def run(self) -> float | None:
        """Runs the job, unless it is already done; returns its objective, or None if there is none."""
        if not self._alone:
            signal.signal(signal.SIGINT, lambda *_: None)  # the sweeping process handles Ctrl-C
        pipe = lifeline.grasp()
        objective = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._wait(pipe)
            if not lifeline.is_cut(pipe) and self._is_mine():
                if not self._is_done():
                    self._run(pipe)
                objective = self._objective()
            if lifeline.is_cut(pipe) and self._alone:
                raise KeyboardInterrupt
        finally:
            if pipe is not None:
                os.close(pipe)
        return objective

    def _wait(self, pipe: int | None) -> None:
        """Waits while another process writes the folder, such as a job of a sweep that was just killed."""
        waited = False
        while is_held(self._folder) and not lifeline.is_cut(pipe):
            if not waited:
                self._say("waits for another process that runs it ...")
            waited = True
            time.sleep(0.1)

    def _is_mine(self) -> bool:
        """Returns whether the folder belongs to this job or to none; reports it if not."""
        try:
            recorded = job_facts(self._folder) or {"words": ["a run of another sweep"]}
        except DamagedFile as error:
            self._is_known = False  # so the run compares its own configuration
            self._say(f"{error} looplab writes it again.")
            return True
        own = {"words": self._words, "configuration": self._configuration}
        if not holds_run(self._folder) or recorded | own == recorded:
            return True
        otherwise = ", with another configuration" if recorded["words"] == self._words else ""
        reason = (
            f"{self._folder} holds another job: {' '.join(recorded['words'])}{otherwise}. Choose another "
            "run_dir, or remove the folder."
        )
        write_sealed(self._folder / OF_A_JOB, recorded | {"exit_code": 2, "reason": reason})
        self._say("refused")
        print(f"looplab: {reason}", file=sys.stderr, flush=True)
        return False

    def _is_done(self) -> bool:
        outcome = read_outcome(self._folder)
        if outcome is None or outcome["status"] not in ("finished", "stopped") or not self._is_known:
            return False
        recorded = job_facts(self._folder)
        if recorded is None or recorded["exit_code"] != 0:  # the sweep was killed at that moment
            self._note(0, None)
        self._say("is already done")
        return True

    def _run(self, pipe: int | None) -> None:
        if self._alone:
            self._say(f"-> {self._folder}")
        self._note(None, None)
        code, said = self._train(pipe)
        reason = self._reason(code, said) if code else None
        self._note(code, reason)
        if code in _ASKED_TO_END:
            lifeline.end_the_sweep(pipe, code - 128)
        if not self._alone:
            self._say("done" if code == 0 else f"exit code {code}: {reason}")
            if code not in (0, *_ASKED_TO_END):
                print(*said, sep="\n", file=sys.stderr, flush=True)

    def _objective(self) -> float | None:
        outcome = read_outcome(self._folder) or {}
        best = outcome.get("best") if outcome.get("exit_code") == 0 else None
        return float(best["value"]) if best else None

    def _note(self, code: int | None, reason: str | None) -> None:
        content = {"words": self._words, "configuration": self._configuration}
        write_sealed(self._folder / OF_A_JOB, content | {"exit_code": code, "reason": reason})

    def _say(self, text: str) -> None:
        print(f"{self._title}  {text}", flush=True)

    def _train(self, pipe: int | None) -> tuple[int, list[str]]:
        """Runs the job's process; returns its exit code and its last lines on standard error.

        It runs in its own session, so that it gets a Ctrl-C in a terminal only through the sweep.
        """
        process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL if pipe is None else pipe,
            stdout=None if self._alone else subprocess.DEVNULL,  # the run's log.txt has the output
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
        )
        said: deque[str] = deque(maxlen=_LINES)

        def listen() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                said.append(line.rstrip("\n"))
                if self._alone:
                    print(line, end="", file=sys.stderr, flush=True)

        listener = Thread(target=listen, daemon=True)
        listener.start()
        try:
            code = process.wait()
        except KeyboardInterrupt:  # from the second Ctrl-C
            process.send_signal(signal.SIGINT)
            code = process.wait()
        listener.join(5)  # with a limit: a process that the job has started may still run
        return (code if code >= 0 else 128 - code), list(said)

    def _reason(self, code: int, said: list[str]) -> str:
        """Returns the reason of a failure in one line: that of its outcome, or its last line."""
        outcome = read_outcome(self._folder)
        if outcome and outcome["exit_code"] == code and outcome["reason"]:
            said = outcome["reason"].splitlines()
        elif code > 128 and code != 130:
            said = [f"killed by {signal.Signals(code - 128).name}"]
        own = [line for line in said if line.startswith("looplab: ")]  # the line below has the place
        # The very last line may be JSON about the end of the run, for programs.
        last = [line.strip() for line in said if line.strip() and not line.startswith('{"looplab"')][-1:]
        return next(iter(own + last), "").removeprefix("looplab: ")


def _places(hydra: HydraConf) -> list[str]:
    """Returns the options of the command that name folders of configurations."""
    given = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    name = ["--config-name", str(hydra.job.config_name)]
    return name + [word for path in given for word in ("--config-dir", path)]
