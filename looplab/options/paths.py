"""Checks paths from a user or a configuration before anything is created."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from looplab.errors import Problem, Refused, as_written

# `gs://bucket/x`; also `gs:/bucket/x`, the form of pathlib. A single letter is a drive of Windows.
_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]+):[/\\]|.*?([a-z][a-z0-9+.-]*)://", re.IGNORECASE | re.DOTALL)
_LONGEST = 255  # the most bytes of a name in the usual file systems
_LONGEST_PATH = 3800  # bytes: Linux allows 4,095, and the files of a run add up to about 200


def local(given: str | os.PathLike[str], key: str) -> Path:
    """Returns the path of a run, which must be in a mounted file system.

    Args:
        given: The path that the user wrote.
        key: The name of the setting, for the message.

    Raises:
        Refused: If the path has a scheme, such as that of an object store.
    """
    if why := not_local(given):
        raise Refused([Problem(key, why)])
    return Path(given)


def not_local(given: str | os.PathLike[str]) -> str | None:
    """Returns why looplab cannot read or write a run at a path, or None; reads nothing from a disk."""
    text = os.fspath(given)
    if why := _no_path(text):
        return f"{as_written(text)} {why} Give a local or mounted folder."
    match = _SCHEME.match(text)
    if match is None:
        return None
    scheme = match[1] or match[2]
    return (
        f"{as_written(text)} names the scheme {scheme}://, but looplab reads and writes runs, checkpoints "
        "and predictions only in local folders. Give a local folder, or a mounted one (/mnt/bucket/mine)."
    )


def _no_path(text: str) -> str | None:
    """Returns why a text is not a path of the usual file systems, or None."""
    if "\0" in text:
        return "has a NUL character, which a path cannot have."
    try:
        longest = max((len(os.fsencode(part)) for part in Path(text).parts), default=0)
        size = len(os.fsencode(text))
    except UnicodeEncodeError:
        return "has half of a character (a surrogate), which a path cannot have."
    if longest > _LONGEST:
        return f"has a name of {longest} bytes, but file systems allow {_LONGEST}."
    if size > _LONGEST_PATH:
        return f"has {size} bytes; at most {_LONGEST_PATH} leave space for the names of a run's files."
    if text.startswith("~"):
        try:
            Path(text).expanduser()
        except RuntimeError:
            return "begins with the home folder of an unknown user."
    return None


def leads_out(given: str, folder: Path | None = None, what: str = "the run directory") -> str | None:
    """Returns why a path from a configuration may lead out of a folder, or None.

    Args:
        given: A path relative to the folder.
        folder: The folder; None if it is not known yet, and then links are not checked.
        what: The folder, as words for the message.
    """
    if not given.strip() or not given.isprintable():
        return f"{given!r} is not the name of a file"
    for path in (PurePosixPath(given), PureWindowsPath(given)):
        if path.anchor or ".." in path.parts or not path.name or given.lstrip().startswith("~"):
            return f"{given!r} may lead out of {what}"
        if any(len(part.encode()) > _LONGEST for part in path.parts):
            return f"{given[:40]!r}... is too long for the name of a file"
    if folder is not None and not is_within(folder / given, folder):
        return f"{given!r} leads out of {what} by a symbolic link"
    return None


def is_within(path: Path, folder: Path) -> bool:
    """Returns whether a path is in a folder after all links are resolved."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a circle of links
        return False
