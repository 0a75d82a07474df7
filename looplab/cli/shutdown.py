"""Ends a command's process with its exit code, even if threads still run in it."""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

PATIENCE = 20.0  # the most seconds to wait

_code = 0  # the exit code of the finished command


def leave(code: int) -> NoReturn:
    """Ends the process like `sys.exit`, but waits for other threads only for a limited time.

    Python ends pools, waits for threads and calls the functions registered with `atexit`, in its usual order.
    A pipeline that waits for data that never comes, or a thread of the user, could then keep the process
    running forever. After `PATIENCE` seconds the process ends anyway, and prints what every thread does.

    The interpreter is not torn down, since TensorFlow would wait for its threads then.

    Args:
        code: The exit code.

    Raises:
        SystemExit: Always. If it is caught, the process continues for at most `PATIENCE` seconds.
    """
    global _code
    _code = code
    # After the callbacks of `atexit`, CPython collects garbage before it destroys modules: the process ends
    # there. Without that collection it would end later, with the same code.
    gc.enable()
    if _end_instead not in gc.callbacks:
        gc.callbacks.append(_end_instead)
    threading.Thread(target=_end_in_time, args=(code,), name="looplab-leaving", daemon=True).start()
    sys.exit(code)


def _end_instead(phase: str, info: dict[str, Any]) -> None:
    if sys.is_finalizing():
        _end(_code)


def _end_in_time(code: int) -> None:
    time.sleep(PATIENCE)
    print(f"looplab: a thread is still running {PATIENCE:g} s after the end; its stack:", file=sys.stderr)
    with suppress(OSError, ValueError):
        faulthandler.dump_traceback(all_threads=True)
    _end(code)


def _end(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
