"""A process beside the run that ends it when it hangs, whatever holds it: a lock, a disk, Python itself.

The run says every now and then that it moves. If it has not for too long, the watching process sends
SIGUSR1, at which the run writes what each of its threads does into `log.txt` and ends (`faulthandler`, which
needs nothing of the interpreter); a shell reports that as 138, which a scheduler may start again.
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

_OFTEN = 1.0  # seconds between two signs of life, at least
_PATIENCE = 10.0  # seconds for the stacks to be written
_LOG = "log.txt"


class Watchdog:
    """The run's end: a context manager, within which the run is watched."""

    def __init__(self, timeout: str, run_dir: Path | None) -> None:
        """Starts nothing yet.

        Args:
            timeout: For how long the run may not move, such as `"60min"`.
            run_dir: Where the run is recorded, or None.

        Raises:
            ConfigurationError: If that is no time by the clock.
        """
        interval = Interval.parse(timeout, what="hang_timeout")
        if not interval.wall_clock:
            raise ConfigurationError(f"hang_timeout: {timeout!r} is not a time; give one such as '60min'.")
        self._seconds, self._run_dir = interval.seconds, run_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._file: IO[Any] | None = None
        self._said = 0.0

    def __enter__(self) -> Watchdog:
        """Starts to be watched."""
        if not hasattr(signal, "SIGUSR1"):
            return self
        self._file = sys.__stderr__
        if self._run_dir is not None:
            self._file = (self._run_dir / _LOG).open("a", encoding="utf-8")
        faulthandler.register(signal.SIGUSR1, file=self._file or 2, all_threads=True, chain=True)
        words = [str(os.getpid()), str(self._seconds), str(self._run_dir or "")]
        command = [sys.executable, "-m", __name__, *words]
        # The same looplab, however this process has found it.
        places = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Is watched no more."""
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
        """Says that the run moves, at this step; costs nothing if it has been said just now."""
        now = time.monotonic()
        if self._process is None or now - self._said < _OFTEN:
            return
        self._said = now
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # somebody has ended the watching process: the run goes on
            os.write(self._process.stdin.fileno(), b"%d\n" % step)


def dump_stacks(run_dir: Path) -> None:
    """Adds to the run's log what each thread of this process does."""
    with (run_dir / _LOG).open("a", encoding="utf-8") as file:
        faulthandler.dump_traceback(file=file, all_threads=True)


def _watch(pid: int, seconds: float, run_dir: Path | None) -> None:
    """Watches until the other end of standard input is closed, or says nothing for too long."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they are for the run, which ends this
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
