"""Saves checkpoints while training continues: one at a time, on a thread, from arrays that do not change."""

from __future__ import annotations

import errno
import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from looplab.checkpoint.store import Store
from looplab.errors import StorageError

_log = logging.getLogger("looplab")

_RETRIES = 3  # further saves after a save that found the disk full


class Saver:
    """Writes the checkpoints of a run, and drops those that are no longer kept when the new one is safe.

    The next call of any method raises the error of an earlier save. A full disk becomes an error only after
    several saves, since space may become free again.

    Attributes:
        writes: The seconds that each save has taken so far.
    """

    def __init__(self, store: Store, *, asynchronous: bool = True, durable: bool = True) -> None:
        """Takes the store; the first save starts the thread.

        Args:
            store: The checkpoints of the run.
            asynchronous: Whether `save` returns before the data is on the disk.
            durable: Whether a checkpoint counts only when it is on the disk, safe from a power failure.
        """
        self._store, self._asynchronous, self._durable = store, asynchronous, durable
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._named: set[tuple[Path, int]] = set()  # files whose names are on the disk, with their inodes
        self._full: list[str] = []  # the messages of consecutive saves that found the disk full
        self.writes: list[float] = []

    def save(
        self,
        step: int,
        arrays: Mapping[str, np.ndarray],
        facts: Mapping[str, Any],
        *,
        before: Iterable[Path] = (),
        keep_last: int,
        keep: Collection[int] = (),
        proof: Callable[[Path], None] | None = None,
    ) -> Path:
        """Saves, after an earlier save has finished.

        Args:
            step: Completed steps.
            arrays: Values by path, which must not change afterwards.
            facts: Further entries of the manifest, which must not change afterwards.
            before: Files that must be on the disk first, with their names if these are new.
            keep_last: The number of newest checkpoints to keep.
            keep: Further steps to keep.
            proof: Checks what was written before older checkpoints are dropped; `save` then waits for it.

        Returns:
            The folder that the checkpoint has, or will have.

        Raises:
            StorageError: If the disk was full for several saves.
            LooplabError: The error of an earlier save.
        """
        self.wait()
        files = list(before)

        def write() -> None:
            began = time.monotonic()
            try:
                self._write(step, arrays, facts, files, keep_last, keep, proof)
            except BaseException as error:
                self._error = error
            self.writes.append(time.monotonic() - began)

        if self._asynchronous and proof is None:
            self._thread = threading.Thread(target=write, name="looplab-saver", daemon=True)
            self._thread.start()
        else:
            write()
            self.check()
        return self._store.path(step)

    def check_room(self, size: int, kept: int) -> None:
        """Refuses to start a run if the disk has no space for the checkpoints to keep.

        Args:
            size: The approximate bytes of one checkpoint.
            kept: The number of checkpoints to keep; during a save there is one more.

        Raises:
            StorageError: The message has the numbers.
        """
        folder = next(f for f in (self._store.directory, *self._store.directory.parents) if f.exists())
        there, free = len(self._store.steps()), shutil.disk_usage(folder).free
        count = max(1, kept + 1 - there)
        if count * size > free:
            raise StorageError(
                f"no space for the checkpoints in {self._store.directory}: the run keeps {kept}, and one "
                f"more during a save; it has {there}, and {count} of {size / 1e6:.1f} MB need "
                f"{count * size / 1e6:.1f} MB, of which {free / 1e6:.1f} MB are free. Free space, choose "
                "another run_dir, or keep fewer (checkpoint.keep_last, checkpoint.keep_best)."
            )

    def is_busy(self, patience: float = 0.0) -> bool:
        """Returns whether an earlier save is still running, after at most `patience` seconds."""
        if self._thread is not None:
            self._thread.join(patience)
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Waits until the last save is safe.

        Raises:
            LooplabError: If it failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def finish(self) -> None:
        """Waits, and also raises the error of a save that found the disk full.

        Raises:
            LooplabError: If the last save is not safe.
        """
        self.wait()
        if self._full:
            raise StorageError(self._full[-1])

    def check(self) -> None:
        """Raises the error of a finished save, once."""
        if self._thread is not None and self._thread.is_alive():
            return
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(
        self,
        step: int,
        arrays: Mapping[str, np.ndarray],
        facts: Mapping[str, Any],
        before: list[Path],
        keep_last: int,
        keep: Collection[int],
        proof: Callable[[Path], None] | None,
    ) -> None:
        named = set(_inodes(before))
        folders = self._folders(file for file, _ in named - self._named)
        save = partial(
            self._store.save, step, arrays, facts, before=[*before, *folders], durable=self._durable
        )
        try:
            try:
                path = save()
            except OSError as error:
                if isinstance(error, FileNotFoundError):
                    _log.warning(
                        "%s was removed during the run; looplab writes it again", self._store.directory
                    )
                elif not _is_full(error):
                    raise
                # Drops only surplus checkpoints. A best one that this save would replace stays until the end.
                self._store.prune({*self._store.steps()[-keep_last:], *self._store.best(), *keep})
                path = save()
        except OSError as error:
            needed = sum(array.nbytes for array in arrays.values())
            why = _why(error, self._store.directory, step, needed)
            if not _is_full(error):
                raise StorageError(why) from None
            self._full.append(why)
            if len(self._full) > _RETRIES:
                raise StorageError(why) from None
            _log.warning("%s Training continues; the next save tries again.", why)
            return
        self._full.clear()
        self._named = named
        if proof is not None:
            proof(path)
        self._store.prune({*self._store.steps()[-keep_last:], *keep})

    def _folders(self, files: Iterable[Path]) -> list[Path]:
        """Returns the folders that contain files of the run, and the parents of these folders."""
        run = self._store.directory.parent
        return sorted({folder for file in files for folder in file.parents if folder.is_relative_to(run)})


def _inodes(files: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """Yields each existing file with its inode, which tells it from a file that replaces it."""
    for file in files:
        with suppress(OSError):
            yield file, file.stat().st_ino


def _is_full(error: OSError) -> bool:
    """Returns whether there was no space or no free descriptor, which may change soon."""
    words = ("No space left", "Disk quota exceeded", "Too many open files")
    passing = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
    return error.errno in passing or any(word in str(error) for word in words)


def _why(error: OSError, folder: Path, step: int, needed: int) -> str:
    try:
        free = f"{shutil.disk_usage(folder).free / 1e6:.0f} MB"
    except OSError:
        free = "an unknown amount"
    return (
        f"the checkpoint of step {step} could not be saved in {folder}: {error.strerror or error} "
        f"({needed / 1e6:.0f} MB are needed, {free} free). The previous checkpoint is unchanged."
    )
