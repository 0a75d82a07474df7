"""Files that looplab reads again: each holds a digest of itself, checked before anything of it is used.

Of JSON the digest is the last entry, of other text the first line, so that a file that was cut off has lost
either its end or what its digest is of. The digest covers every byte, not what they mean.

Earlier versions wrote no digest. A file without one is taken for theirs, unless something at its place looks
like one: no single mistake of a disk makes a new file pass as an old one.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from looplab.errors import DamagedFile
from looplab.runs.shapes import Shape
from looplab.runs.terminal import printable

_LAST = re.compile(rb',\n {1,2}"sha256": "([0-9a-f]{64})"\n}\n\Z')
_FIRST = re.compile(rb"\A# sha256 of what follows: ([0-9a-f]{64})\n")
_NEAR = 100  # bytes: more than a digest has, with what is around it
# A digest that a mistake has spoilt: its name is left, or half of its digits at least.
_NAME, _DIGITS = b"sha256", re.compile(rb"[0-9a-f]{24}")
_END = "\n}\n"


def json_text(content: dict[str, Any], indent: int = 2) -> str:
    """Returns JSON that ends with a digest of itself.

    Args:
        content: At least one entry, in JSON's types; none is called `sha256`.
        indent: Spaces per level, 1 or 2.
    """
    return seal(json.dumps(content, indent=indent), indent)


def seal(text: str, indent: int = 2) -> str:
    """Returns the text of a JSON object with a digest of itself as its last entry."""
    body = text.rstrip().removesuffix("}").rstrip()
    return f'{body},\n{" " * indent}"sha256": "{_digest((body + _END).encode())}"{_END}'


def commented(text: str) -> str:
    """Returns text whose first line, a comment, is a digest of the rest."""
    return f"# sha256 of what follows: {_digest(text.encode())}\n{text}"


def body_of_json(content: bytes) -> tuple[bytes, bool]:
    """Returns JSON without its digest, and whether it had one.

    Raises:
        ValueError: If it is not what the digest is of.
    """
    found = _LAST.search(content, max(0, len(content) - _NEAR))
    if found is None:
        return content, False
    body = content[: found.start()] + _END.encode()
    if _digest(body) != found[1].decode():
        raise ValueError("its content does not match its digest")
    return body, True


def parse_json(content: bytes, shape: Shape) -> dict[str, Any]:
    """Returns what `json_text` was given, once every byte is what it wrote.

    Args:
        content: Of the file.
        shape: What it must look like besides; a file of an earlier version has nothing else.

    Raises:
        ValueError: If it is anything else.
    """
    body, sealed = body_of_json(content)
    if not sealed and (_NAME in content[-_NEAR:] or _DIGITS.search(content[-72:])):  # before it are others
        raise ValueError("its digest is incomplete")
    try:
        found = json.loads(body.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    shape(found, "")
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def read_json(path: Path, shape: Shape) -> dict[str, Any] | None:
    """Returns the object that a JSON file holds, or None where there is no file.

    Args:
        path: Of a file that `json_text` has written, perhaps in an earlier version.
        shape: What its content must look like besides.

    Raises:
        DamagedFile: If it is not what was written.
    """
    try:
        return parse_json(path.read_bytes(), shape)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise damaged(path, error) from None


def read_commented(path: Path) -> str:
    """Returns the text of a file that `commented` has written, perhaps in an earlier version.

    Raises:
        DamagedFile: If it is not what was written.
        OSError: If it cannot be read.
    """
    content = path.read_bytes()
    found = _FIRST.match(content)
    try:
        begin = content[:_NEAR]
        if found is None and (_NAME in begin or _DIGITS.search(begin)):
            raise ValueError("its first line, the digest of the rest, is incomplete")
        if found is not None and _digest(content[found.end() :]) != found[1].decode():
            raise ValueError("it does not match the digest in its first line")
        return content.decode("utf-8")
    except ValueError as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> DamagedFile:
    """Returns the error that a file is for what is wrong with it."""
    why = printable((str(error).splitlines() or [type(error).__name__])[0])
    return DamagedFile(f"{printable(str(path), 4096)} is damaged: {why}.")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
