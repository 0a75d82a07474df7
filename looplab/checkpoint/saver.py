"""Saves that training does not wait for: one at a time, on a thread, from arrays that do not change."""

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

_RETRIES = 3  # saves after one for which the disk was full


class Saver:
    """Writes checkpoints of a run, and drops those that nothing keeps once the newer one is safe.

    Errors come at the next call of any of its methods. A full disk is one after several saves only: there
    may be room again.

    Attributes:
        writes: Seconds that each save so far has taken.
    """

    def __init__(self, store: Store, *, asynchronous: bool = True, durable: bool = True) -> None:
        """Starts no thread before something is saved.

        Args:
            store: Where they are.
            asynchronous: Whether `save` returns before the disk has it.
            durable: Whether a checkpoint counts only once the disk has it, in spite of a power failure.
        """
        self._store, self._asynchronous, self._durable = store, asynchronous, durable
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._named: set[tuple[Path, int]] = set()  # files whose names the disk has, with their inodes
        self._full: list[str] = []  # why saves failed, in a row, for which there was no room
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
        """Saves, once an earlier save is done.

        Args:
            step: Completed steps.
            arrays: Values by path, which nothing may change afterwards.
            facts: Further entries of the manifest, likewise.
            before: Files that must be on the disk first, with their names where these are new.
            keep_last: How many of the newest to keep.
            keep: Steps to keep besides.
            proof: Looks at what was written, before anything is dropped; it is waited for then.

        Returns:
            The folder that the checkpoint has, or will have.

        Raises:
            StorageError: If there has been no room for several saves.
            LooplabError: Of an earlier save.
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
        """Refuses to begin where there will be no room for what is to be kept.

        Args:
            size: Bytes of one checkpoint, about.
            kept: How many are to be kept; while one is written there is one more.

        Raises:
            StorageError: With the arithmetic.
        """
        folder = next(f for f in (self._store.directory, *self._store.directory.parents) if f.exists())
        there, free = len(self._store.steps()), shutil.disk_usage(folder).free
        count = max(1, kept + 1 - there)
        if count * size > free:
            raise StorageError(
                f"no room for the checkpoints in {self._store.directory}: {kept} are to be kept, and "
                f"one more while it is written; {there} are there, and {count} of {size / 1e6:.1f} MB need "
                f"{count * size / 1e6:.1f} MB, of which {free / 1e6:.1f} MB are free. Make room, choose "
                "another run_dir, or keep fewer (checkpoint.keep_last, checkpoint.keep_best)."
            )

    def is_busy(self, patience: float = 0.0) -> bool:
        """Whether an earlier save goes on, still after so many seconds."""
        if self._thread is not None:
            self._thread.join(patience)
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Waits until what was saved is safe.

        Raises:
            LooplabError: If it is not.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def finish(self) -> None:
        """Waits, and raises also what a full disk has kept from being saved.

        Raises:
            LooplabError: If the last save is not safe.
        """
        self.wait()
        if self._full:
            raise StorageError(self._full[-1])

    def check(self) -> None:
        """Raises what a save that is over has raised, once."""
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
                        "%s was removed while the run goes on; it is made again", self._store.directory
                    )
                elif not _is_full(error):
                    raise
                # What is surplus anyhow: a best that this save would replace is not, until it is done.
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
            _log.warning("%s Training goes on; the next save tries again.", why)
            return
        self._full.clear()
        self._named = named
        if proof is not None:
            proof(path)
        self._store.prune({*self._store.steps()[-keep_last:], *keep})

    def _folders(self, files: Iterable[Path]) -> list[Path]:
        """Returns the folders that have the names of files of the run, and of each other."""
        run = self._store.directory.parent
        return sorted({folder for file in files for folder in file.parents if folder.is_relative_to(run)})


def _inodes(files: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """Gives the files that are there, with what tells one from another that takes its place."""
    for file in files:
        with suppress(OSError):
            yield file, file.stat().st_ino


def _is_full(error: OSError) -> bool:
    """Whether there was no room, also of descriptors: what may be different soon."""
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
        f"({needed / 1e6:.0f} MB are needed, {free} free). The one before is as it was."
    )
