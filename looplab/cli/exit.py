"""The end of a command's process: it comes, with its exit code, whatever still runs in it."""

from __future__ import annotations

import atexit
import faulthandler
import os
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

PATIENCE = 20.0  # seconds


def leave(code: int) -> NoReturn:
    """Ends the process as `sys.exit` does, but waits for others for some time only.

    A pipeline that reads from what gives nothing, or somebody's thread, would keep the process for ever
    otherwise. What everyone does is printed then.

    Args:
        code: The exit code.
    """
    threading.Thread(target=_end_in_time, args=(code,), name="looplab-leaving", daemon=True).start()
    # As the interpreter does: pools are told to end, and threads are waited for.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    _end(code)


def _end_in_time(code: int) -> None:
    time.sleep(PATIENCE)
    print(f"looplab: something still runs {PATIENCE:g} s after the end; what it does:", file=sys.stderr)
    with suppress(OSError, ValueError):
        faulthandler.dump_traceback(all_threads=True)
    _end(code)


def _end(code: int) -> NoReturn:
    # Not by way of the interpreter's own end, in which TensorFlow waits for its threads.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)
