"""Ctrl-C and SIGTERM while a run goes on: a request at first, served at the end of the unit of work at hand.

Python's handlers run in the main thread, between two of its instructions. So a request is heard within one
execution, one compilation or one save; and where the main thread is stuck within one call for longer (a
pipeline that gives no batch, a disk that does not answer) a thread of its own, which the system's handler
wakes, ends the process when its time is over: a scheduler would end it then anyhow, without a word.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from looplab.errors import EndRequested, Interrupted, Terminated
from looplab.runs.interrupt_noise import dropped
from looplab.runs.terminal import in_kernel

_log = logging.getLogger("looplab")

GRACE = 25.0  # seconds from a SIGTERM to the end at the latest; schedulers give 30
_HEARING = 3.0  # seconds within which a run hears what its whole process group was told
_ABORT = 6.0  # seconds from a second Ctrl-C, likewise
_STUCK = 3.0  # seconds after which a person is told that a first one has to wait
_HEARD = (
    "received %s, but the run has waited %g s for one call to end (data that does not come, a long "
    "compilation): it stops and saves after that call. %s; the last checkpoint is kept."
)
_ELSEWHERE = f"Press Ctrl-C again to end it within {_ABORT:g} s"
_IN_KERNEL = "If it never ends, restart the kernel"
_NUMBERS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Request:
    """What was asked from outside.

    Attributes:
        number: The first signal that came, or None. One that came before training began ends the run as it
            begins, should what was raised for it be lost within a library.
        is_awaited: Whether training has begun, so that somebody looks at this. Before, there is nothing to
            save, and a signal ends what goes on at once.
    """

    def __init__(self) -> None:
        """Begins without one."""
        self.number: int | None = None
        self.is_awaited = False

    def __bool__(self) -> bool:
        """Whether the run is to end."""
        return self.number is not None

    @property
    def name(self) -> str:
        """What became of the run by it, in a word."""
        return "interrupted" if self.number == signal.SIGINT else "terminated"

    def error(self, message: str) -> EndRequested:
        """Returns how a run that was asked to end does so."""
        return Interrupted(message) if self.number == signal.SIGINT else Terminated(message)

    def meant(self, error: BaseException | None) -> BaseException | None:
        """Returns what ended a run: an exception, or the early signal that a library made it of."""
        if not self or self.is_awaited or not isinstance(error, Exception):
            return error
        return KeyboardInterrupt() if self.number == signal.SIGINT else _before_training()


@contextmanager
def heard(request: Request, abandon: Callable[[str, int], None]) -> Iterator[None]:
    """Makes signals a request within the block; in the main thread only, elsewhere nothing changes.

    The first SIGINT, SIGTERM or SIGHUP is a request, once that is awaited; a handler that was there is
    called too, unless it is Python's own. The second SIGINT raises `KeyboardInterrupt`. Handlers are put
    back afterwards. What the process was told to ignore (`nohup`) it goes on to ignore.

    Args:
        request: Told of the first.
        abandon: Called with the reason and the exit code, in another thread, just before the process ends
            itself since the block did not end in time.

    Raises:
        Terminated: In the main thread, for a SIGTERM or SIGHUP that comes before the request is awaited.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    heeded = [number for number in _NUMBERS if before[number] not in (signal.SIG_IGN, None)]

    def handle(number: int, frame: FrameType | None) -> None:
        chained = before[signal.Signals(number)]
        if callable(chained) and chained is not signal.default_int_handler:
            chained(number, frame)
        if number == signal.SIGINT and request and request.is_awaited:
            raise KeyboardInterrupt
        if not request.is_awaited:
            request.number = request.number or number
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            _log.warning("ending now, before training has begun")
            raise _before_training()
        if not request:
            request.number, _told[0] = number, _ASKED
            again = "the interrupt button" if in_kernel() else "Ctrl-C"
            how = f"{again} again aborts at once" if number == signal.SIGINT else "the run will be saved"
            _log.warning("stopping after the current execution; %s", how)

    with (
        dropped(lambda: bool(request)),
        _last_resort(request, abandon),
        _shared_with_forks(heeded),
    ):
        for number in heeded:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number in heeded:
                signal.signal(number, before[number])


def _before_training() -> Terminated:
    return Terminated("terminated before training began; nothing has changed")


_RUNS, _ASKED, _ENDED = range(3)
_told = mmap.mmap(-1, 1)  # how the run stands, for processes that are forked from it
_inherited: list[int] = []  # signals whose handlers these must not keep
_masks = threading.local()  # of a thread that forks, what it had blocked before


@contextmanager
def _shared_with_forks(numbers: Sequence[int]) -> Iterator[None]:
    """Says within the block which handlers a fork of this process must do without."""
    _inherited[:], _told[0] = numbers, _RUNS
    try:
        yield
    finally:
        _inherited.clear()
        _told[0] = _ENDED


def _before_fork() -> None:
    """Has signals wait until the forked process has its own handlers."""
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _inherited)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _forked() -> None:
    """Gives a forked process, such as a worker that reads data, handlers of its own."""
    if _inherited:
        signal.set_wakeup_fd(-1)  # it is the run's, whose end that of a worker is not
        for number in _inherited:
            signal.signal(number, _end_unless_asked)
    _after_fork()


def _end_unless_asked(number: int, frame: FrameType | None) -> None:
    """Ends a forked process; not where the whole group was told: the run needs it until it has saved."""
    limit = time.monotonic() + _HEARING
    while time.monotonic() < limit and _told[0] != _ENDED:
        if _told[0] == _ASKED:
            return
        time.sleep(0.01)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forked)


@contextmanager
def _last_resort(request: Request, abandon: Callable[[str, int], None]) -> Iterator[None]:
    """Ends the process where a signal has come and the block has not ended in time."""
    here, there = socket.socketpair()
    for end in (here, there):
        end.setblocking(False)
    ended = threading.Event()
    before = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(
        target=_listen, args=(here, ended, request, abandon), name="looplab-signals", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        ended.set()
        with suppress(OSError):
            there.send(b"\0")
        thread.join()
        here.close()
        there.close()


def _listen(
    here: socket.socket, ended: threading.Event, request: Request, abandon: Callable[[str, int], None]
) -> None:
    here.setblocking(True)
    limit = tell = math.inf  # when the process ends; when a person is told that the run is stuck
    code, interrupts, kernel = 0, 0, in_kernel()
    while not ended.is_set():
        now = time.monotonic()
        if now >= limit:
            abandon(f"the run did not stop within {GRACE:g} s of the request", code)
            os._exit(code)
        if now >= tell:
            tell = math.inf
            if not request:
                _log.warning(
                    _HEARD,
                    "The interrupt" if kernel else "Ctrl-C",
                    _STUCK,
                    _IN_KERNEL if kernel else _ELSEWHERE,
                )
        first = min(limit, tell)
        here.settimeout(None if math.isinf(first) else first - now)
        try:
            numbers = here.recv(64)
        except TimeoutError:
            continue
        now = time.monotonic()
        for number in numbers:
            interrupts += number == signal.SIGINT
            if number in (signal.SIGTERM, getattr(signal, "SIGHUP", -1)) and math.isinf(limit):
                code, limit = Terminated.exit_code, now + GRACE
            elif interrupts == 1 and number == signal.SIGINT:  # may take as long as it does: a person waits
                tell = now + _STUCK
            elif kernel:  # the user's variables are in it: only a restart, which they choose, ends it
                continue
            elif interrupts == 2:
                code, limit = Interrupted.exit_code, now + _ABORT
            elif interrupts > 2:
                os._exit(Interrupted.exit_code)
