"""Opens files of a checkpoint that may be untrusted, only if they are regular files of the checkpoint."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from looplab.errors import CheckpointError
from looplab.runs.terminal import printable

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_own(directory: Path, name: str) -> BinaryIO:
    """Opens a file in a checkpoint's folder for reading.

    It never waits, as it would at a pipe, and follows no link, since a file outside of the folder does not
    belong to the checkpoint. The folder itself may be a link to a folder beside it.

    Raises:
        CheckpointError: If the file is missing, or is not a regular file.
    """
    path = directory / name
    try:
        _refuse_elsewhere(directory)
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            raise damaged(path, f"it is a link to {printable(os.readlink(path))}. Put the file in its place.")
        if not stat.S_ISREG(mode):
            raise damaged(path, f"it is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file.")
        return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    except (OSError, ValueError) as error:  # a path with a NUL raises a ValueError
        raise unreadable(path, error) from None


def damaged(path: Path, why: str) -> CheckpointError:
    """Returns the error for a file of a checkpoint that looplab refuses."""
    return CheckpointError(f"{printable(str(path), 4096)} cannot be read: {why}")


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """Returns the error for a file of a checkpoint at which a library or the system has failed."""
    return damaged(path, f"{type(error).__name__}: {printable(str(error))}")


def _refuse_elsewhere(directory: Path) -> None:
    if not directory.is_symlink():
        return
    target = os.path.realpath(directory)
    if os.path.dirname(target) != os.path.realpath(directory.parent):
        where = printable(target, 4096)
        raise damaged(directory, f"it is a link to {where}. Name that folder, or put the checkpoint here.")
