"""Makes sure that only one process uses a run directory."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from looplab.errors import RunInUse, StorageError
from looplab.runs.fsync import make_folder


@contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Keeps other processes out of a run directory; creates it if it does not exist.

    Blocks may be nested in one process. The lock ends with the process, in whatever way it ends. A directory
    that was created and is empty at the end is removed.

    Args:
        run_dir: The run directory.

    Raises:
        RunInUse: If another process holds the directory.
        StorageError: If it is not writable.
    """
    missing = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    path = run_dir / ".lock"
    lock = FileLock(path, is_singleton=True, thread_local=False)
    try:
        make_folder(run_dir)
        lock.acquire(timeout=0)
    except Timeout:
        raise RunInUse(
            f"run directory in use: {_owner(path)} writes to {run_dir}. Wait for it, end it, or choose "
            "another run_dir."
        ) from None
    except OSError as error:
        raise StorageError(f"cannot write to the run directory {run_dir}: {error.strerror}.") from None
    try:
        if lock.lock_counter == 1:
            _sign(path)
        yield
    finally:
        if lock.lock_counter == 1:
            with suppress(OSError):  # it is gone, perhaps with the directory
                path.unlink()
        lock.release()
        for folder in missing:
            with suppress(OSError):  # the directory is not empty
                folder.rmdir()


def renew(run_dir: Path) -> None:
    """Takes the lock of this process again, if it was removed together with its directory.

    Raises:
        RunInUse: If another process has taken it in the meantime.
        StorageError: If it is not writable.
    """
    path = run_dir / ".lock"
    lock = FileLock(path, is_singleton=True, thread_local=False)
    if path.exists() or not lock.is_locked:
        return
    depth = lock.lock_counter
    lock.release(force=True)
    try:
        make_folder(run_dir)
        for _ in range(depth):
            lock.acquire(timeout=0)
        _sign(path)
    except Timeout:
        raise RunInUse(f"{run_dir} was removed during the run, and now belongs to another run.") from None
    except OSError as error:
        raise StorageError(f"cannot write to the run directory {run_dir}: {error.strerror}.") from None


def is_held(run_dir: Path) -> bool:
    """Returns whether another process holds a run directory."""
    lock = FileLock(run_dir / ".lock", is_singleton=True, thread_local=False)
    if not (run_dir / ".lock").exists():  # a process that was killed leaves the file behind
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _sign(path: Path) -> None:
    since = datetime.now().isoformat(" ", "seconds")
    owner = {"pid": os.getpid(), "host": platform.node(), "boot": _boot(), "since": since}
    path.write_text(json.dumps(owner))


def _boot() -> str | None:
    """Returns the id of this start of the machine, if the system has one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text())
        said = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
        starts = owner["boot"], _boot()
        here = owner["host"] == platform.node() and None not in starts
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    if here and starts[0] != starts[1]:  # the present holder has not written its name yet
        return f"another process ({said}, which ended when this machine was restarted)"
    return said
