"""A log file that looplab writes again if another process removes, moves or replaces it."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path

from looplab.errors import StorageError

_log = logging.getLogger("looplab")

_SECONDS = 0.5  # between two checks of the path: a check for every line would be slow
_CHUNK = 2**20  # bytes


class GrowingFile:
    """A file that grows at its end.

    The open descriptor can read the content even if its name is gone. So if the file is removed, moved or
    replaced, looplab writes it again under its name, with a warning. Changes inside the file are lost.

    Attributes:
        path: The path of the file.
        size: Bytes written so far, including those that were in the file at the start.
    """

    def __init__(self, path: Path, *, new: bool = False, alone: bool = True) -> None:
        """Opens the file at its end; its content counts as written.

        Args:
            path: The file; missing folders are created.
            new: Whether the file must not exist yet.
            alone: Whether no other process writes the file, so that its content can be compared with what was
                written.
        """
        self.path, self.size, self._alone = path, 0, alone
        self._hash = hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _opened(path, os.O_EXCL if new else 0)
        self._is_file = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)  # a device cannot be read back
        while self._is_file and (chunk := self._file.read(_CHUNK)):
            self._count(chunk)
        self._looked = time.monotonic()

    @property
    def digest(self) -> str:
        """The SHA-256 of everything written, in hexadecimal digits."""
        return self._hash.hexdigest()

    def write(self, content: bytes) -> None:
        """Appends content; a reader sees it at once.

        Raises:
            StorageError: See `look`.
            OSError: If it cannot be written.
        """
        if time.monotonic() - self._looked >= _SECONDS:
            self.look()
        try:
            _write(self._file, content)
        except OSError:
            with suppress(OSError):  # remove a record that was written in part
                if self._alone:
                    os.ftruncate(self._file.fileno(), self.size)
            raise
        self._count(content)

    def look(self) -> bool:
        """Writes the file again if it is no longer at its path; returns whether it did.

        Raises:
            StorageError: If the file cannot be written again, or has lost what was written.
        """
        self._looked = time.monotonic()
        if not self._is_file:
            return False
        try:
            there: os.stat_result | None = os.stat(self.path)
        except OSError:
            there = None
        own = os.fstat(self._file.fileno())
        if there is not None and os.path.samestat(there, own):
            if not self._alone or own.st_size == self.size:
                return False
            what = "was written to by another process"
        else:
            what = "was removed or moved" if there is None else "was replaced"
        try:
            aside = self._make_again()
        except OSError as error:
            raise StorageError(
                f"{self.path} {what} during the run, and cannot be written again: "
                f"{error.strerror or error}. Put it back, or free some space; the same command then "
                "continues the run."
            ) from None
        kept = f" (its present content is kept as {aside.name})" if aside else ""
        _log.warning("%s %s during the run; looplab writes it again%s", self.path, what, kept)
        return True

    def close(self) -> None:
        """Checks the path once more, and closes the file."""
        try:
            self.look()
        except StorageError as error:
            _log.warning("%s", error)
        self._file.close()

    def _count(self, content: bytes) -> None:
        self._hash.update(content)
        self.size += len(content)

    def _make_again(self) -> Path | None:
        """Writes the content of the descriptor under the name; returns the new path of what had the name."""
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        part.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        file, again = _opened(part, os.O_EXCL), hashlib.sha256()
        try:
            size = self.size if self._alone else os.fstat(self._file.fileno()).st_size
            for start in range(0, size, _CHUNK):
                chunk = os.pread(self._file.fileno(), min(_CHUNK, size - start), start)
                again.update(chunk)
                _write(file, chunk)
            if self._alone and again.digest() != self._hash.digest():
                raise OSError("it no longer has what was written")
            aside = None
            if os.path.lexists(self.path):
                aside = self.path.with_name(f"{self.path.name}.other-{time.time_ns()}")
                self.path.rename(aside)
            part.rename(self.path)
        except BaseException:
            file.close()
            part.unlink(missing_ok=True)
            raise
        self._file.close()
        self._file = file
        return aside


def _opened(path: Path, flag: int) -> FileIO:
    return FileIO(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | flag, 0o666), "r+")


def _write(file: FileIO, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
