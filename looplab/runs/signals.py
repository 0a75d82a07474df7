"""Handles Ctrl-C and SIGTERM during a run: the first one is a request to stop after the current work.

Python calls its handlers in the main thread, between two of its instructions. So a request takes effect after
one execution, one compilation or one save. If the main thread is stuck in one call for longer (a pipeline
that gives no batch, a disk that does not answer), a separate thread, which the system's handler wakes, ends
the process when its time is over. A scheduler would end it then anyway, without a message.
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

GRACE = 25.0  # the most seconds from a SIGTERM to the end; schedulers give 30
_HEARING = 3.0  # the seconds within which a run notices a signal to its whole process group
_ABORT = 6.0  # the most seconds from a second Ctrl-C to the end
_STUCK = 3.0  # the seconds after which a message tells that the first Ctrl-C has to wait
_HEARD = (
    "received %s, but the run has waited %g s for one call to end (data that does not come, a long "
    "compilation): it stops and saves after that call. %s; the last checkpoint is kept."
)
_ELSEWHERE = f"Press Ctrl-C again to end it within {_ABORT:g} s"
_IN_KERNEL = "If it never ends, restart the kernel"
_NUMBERS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Request:
    """A request from outside to end the run.

    Attributes:
        number: The first signal that came, or None. If a signal comes before training starts and a library
            loses the exception for it, the run ends when training starts.
        is_awaited: Whether training has started and checks for requests. Before that there is nothing to
            save, and a signal ends the process at once.
    """

    def __init__(self) -> None:
        """Starts without a signal."""
        self.number: int | None = None
        self.is_awaited = False

    def __bool__(self) -> bool:
        """Returns whether the run should end."""
        return self.number is not None

    @property
    def name(self) -> str:
        """The status of a run that the signal ends, in one word."""
        return "interrupted" if self.number == signal.SIGINT else "terminated"

    def error(self, message: str) -> EndRequested:
        """Returns the exception for a run that a request ends."""
        return Interrupted(message) if self.number == signal.SIGINT else Terminated(message)

    def meant(self, error: BaseException | None) -> BaseException | None:
        """Returns what ended a run: an exception, or the early signal that a library converted to it."""
        if not self or self.is_awaited or not isinstance(error, Exception):
            return error
        return KeyboardInterrupt() if self.number == signal.SIGINT else _before_training()


@contextmanager
def heard(request: Request, abandon: Callable[[str, int], None]) -> Iterator[None]:
    """Converts signals to a request within the block; only in the main thread, elsewhere it does nothing.

    The first SIGINT, SIGTERM or SIGHUP is a request, if training awaits one. An earlier handler is also
    called, unless it is Python's own. The second SIGINT raises `KeyboardInterrupt`. The handlers are restored
    afterwards. A signal that the process ignores (`nohup`) stays ignored.

    Args:
        request: Stores the first signal.
        abandon: Called with the reason and the exit code, in another thread, just before the process ends
            itself because the block did not end in time.

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
_told = mmap.mmap(-1, 1)  # the state of the run, for processes forked from it
_inherited: list[int] = []  # signals whose handlers a forked process must not keep
_masks = threading.local()  # the signals that a forking thread had blocked before


@contextmanager
def _shared_with_forks(numbers: Sequence[int]) -> Iterator[None]:
    """Lists, within the block, the signals whose handlers a fork of this process must replace."""
    _inherited[:], _told[0] = numbers, _RUNS
    try:
        yield
    finally:
        _inherited.clear()
        _told[0] = _ENDED


def _before_fork() -> None:
    """Blocks signals until the forked process has its own handlers."""
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _inherited)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _forked() -> None:
    """Gives a forked process, such as a worker that reads data, its own handlers."""
    if _inherited:
        signal.set_wakeup_fd(-1)  # it belongs to the run, which must not end with a worker
        for number in _inherited:
            signal.signal(number, _end_unless_asked)
    _after_fork()


def _end_unless_asked(number: int, frame: FrameType | None) -> None:
    """Ends a forked process. If the whole group got the signal, the run needs it until the run has saved."""
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
    """Ends the process if a signal has come and the block does not end in time."""
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
    limit = tell = math.inf  # the time to end the process; the time to warn that the run is stuck
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
            elif interrupts == 1 and number == signal.SIGINT:  # no limit, since a user is waiting
                tell = now + _STUCK
            elif kernel:  # it holds the user's variables, so only a restart by the user ends it
                continue
            elif interrupts == 2:
                code, limit = Interrupted.exit_code, now + _ABORT
            elif interrupts > 2:
                os._exit(Interrupted.exit_code)
