"""Ends a run that hangs, from a process beside it, even if a lock, a disk or Python itself blocks the run.

The run reports its progress at intervals. If there is none for too long, the watching process sends SIGUSR1.
Then the run writes what each of its threads does into `log.txt` and ends (through `faulthandler`, which does
not need the interpreter). A shell reports that as exit code 138, after which a scheduler may start the run
again.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from looplab.errors import ConfigurationError, Hung
from looplab.interval import Interval
from looplab.runs import crash_report
from looplab.runs.directory import write_abandoned

_OFTEN = 1.0  # the fewest seconds between two reports of progress
_PATIENCE = 10.0  # the seconds for writing the stacks
_LOG = "log.txt"


class Watchdog:
    """A context manager within which the run is watched. This is the side of the run."""

    def __init__(self, timeout: str, run_dir: Path | None) -> None:
        """Stores the settings and starts nothing.

        Args:
            timeout: The longest time without progress, such as `"60min"`.
            run_dir: The run directory, or None.

        Raises:
            ConfigurationError: If `timeout` is not wall-clock time.
        """
        interval = Interval.parse(timeout, what="hang_timeout")
        if not interval.wall_clock:
            raise ConfigurationError(f"hang_timeout: {timeout!r} is not a time; give one such as '60min'.")
        self._seconds, self._run_dir = interval.seconds, run_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._file: IO[Any] | None = None
        self._said = 0.0

    def __enter__(self) -> Watchdog:
        """Starts the watching process."""
        if not hasattr(signal, "SIGUSR1"):
            return self
        self._file = sys.__stderr__
        if self._run_dir is not None:
            self._file = (self._run_dir / _LOG).open("a", encoding="utf-8")
        faulthandler.register(signal.SIGUSR1, file=self._file or 2, all_threads=True, chain=True)
        words = [str(os.getpid()), str(self._seconds), str(self._run_dir or "")]
        command = [sys.executable, "-m", __name__, *words]
        # The same looplab, in whatever way this process has found it.
        places = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the watching process."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        faulthandler.unregister(signal.SIGUSR1)
        if self._file is not None and self._file is not sys.__stderr__:
            self._file.close()
        self._process = None

    def beat(self, step: int) -> None:
        """Reports progress at this step; costs nothing soon after another report."""
        now = time.monotonic()
        if self._process is None or now - self._said < _OFTEN:
            return
        self._said = now
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # the watching process was ended: the run continues
            os.write(self._process.stdin.fileno(), b"%d\n" % step)


def dump_stacks(run_dir: Path) -> None:
    """Appends the stacks of all threads of this process to the run's log."""
    with (run_dir / _LOG).open("a", encoding="utf-8") as file:
        faulthandler.dump_traceback(file=file, all_threads=True)


def _watch(pid: int, seconds: float, run_dir: Path | None) -> None:
    """Watches until the other end of standard input is closed, or reports no progress for too long."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # for the run, which then ends this process
        signal.signal(number, signal.SIG_IGN)
    step = ""
    while True:
        ready, _, _ = select.select([0], [], [], seconds)
        if ready:
            said = os.read(0, 4096).decode().splitlines()
            if not said:
                return
            step = said[-1]
            continue
        if os.getppid() != pid:
            return
        where = f"; its stacks are in {run_dir / _LOG}" if run_dir else ""
        since = f", since about step {step}," if step else ""
        reason = f"the run made no progress for {seconds:g} s{since} and was ended{where}"
        print(f"looplab: {reason}", file=sys.stderr, flush=True)
        for number, patience in ((signal.SIGUSR1, _PATIENCE), (signal.SIGKILL, _PATIENCE)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            limit = time.monotonic() + patience
            while os.getppid() == pid and time.monotonic() < limit:
                time.sleep(0.05)
        if run_dir is not None:
            print(
                crash_report.line(write_abandoned(run_dir, reason, Hung.exit_code)),
                file=sys.stderr,
                flush=True,
            )
        return


if __name__ == "__main__":
    _watch(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3] else None)
