"""Files of a checkpoint that may be somebody else's: opened only where they are files of its own."""

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
    """Opens a file that stands in a checkpoint's folder, to be read.

    Never waits, as a pipe would, and follows no link: what stands outside of the folder is no part of it.
    The folder may be a link to one beside it.

    Raises:
        CheckpointError: If there is none, or it is anything but a file.
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
    except (OSError, ValueError) as error:  # a NUL in a path is a ValueError
        raise unreadable(path, error) from None


def damaged(path: Path, why: str) -> CheckpointError:
    """Returns the error that a file of a checkpoint is for a reason of ours."""
    return CheckpointError(f"{printable(str(path), 4096)} cannot be read: {why}")


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """Returns the error that a file of a checkpoint is for what a library or the system said of it."""
    return damaged(path, f"{type(error).__name__}: {printable(str(error))}")


def _refuse_elsewhere(directory: Path) -> None:
    if not directory.is_symlink():
        return
    target = os.path.realpath(directory)
    if os.path.dirname(target) != os.path.realpath(directory.parent):
        where = printable(target, 4096)
        raise damaged(directory, f"it is a link to {where}. Name that folder, or put the checkpoint here.")
