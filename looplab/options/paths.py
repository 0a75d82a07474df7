"""Paths that a person or a configuration gives: what they must not be, said before anything is made."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from looplab.errors import Problem, Refused, as_written

# `gs://bucket/x`; and `gs:/bucket/x`, as pathlib writes it. A letter alone is a drive of Windows.
_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]+):[/\\]|.*?([a-z][a-z0-9+.-]*)://", re.IGNORECASE | re.DOTALL)
_LONGEST = 255  # bytes of a name, for the usual file systems
_LONGEST_PATH = 3800  # bytes of a path: Linux takes 4,095, and what a run writes in it has up to about 200


def local(given: str | os.PathLike[str], key: str) -> Path:
    """Returns a path of a run, which must be one of a file system that is mounted.

    Args:
        given: As the person wrote it.
        key: What it was given as, for the message.

    Raises:
        Refused: If it names a scheme, such as that of an object store.
    """
    if why := not_local(given):
        raise Refused([Problem(key, why)])
    return Path(given)


def not_local(given: str | os.PathLike[str]) -> str | None:
    """Says why looplab cannot read or write a run at a path, or nothing; looks at no disk."""
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
    """Says why a text is no path of the usual file systems, or nothing."""
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
    """Says why a path that a configuration gives may not stay in a folder, or nothing.

    Args:
        given: Relative to the folder.
        folder: Where it is taken; None where that is not known yet, so that links cannot be looked at.
        what: The folder, in words.
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
    """Whether a path is in a folder once links are followed."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return False
