"""Writes and reads files with a digest of themselves, which is checked before their content is used.

In JSON the digest is the last entry, in other text the first line. So a file that was cut off has lost either
the digest or a part of what the digest covers. The digest covers every byte, not their meaning.

Earlier versions wrote no digest. A file without one counts as theirs, unless its place holds something
similar to a digest: no single error of a disk makes a new file look like an old one.
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
_NEAR = 100  # bytes: more than the digest and the text around it
# A damaged digest: its name is left, or at least half of its digits.
_NAME, _DIGITS = b"sha256", re.compile(rb"[0-9a-f]{24}")
_END = "\n}\n"


def json_text(content: dict[str, Any], indent: int = 2) -> str:
    """Returns JSON that ends with a digest of itself.

    Args:
        content: At least one entry, in JSON's types; no entry has the name `sha256`.
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
        ValueError: If the digest does not match.
    """
    found = _LAST.search(content, max(0, len(content) - _NEAR))
    if found is None:
        return content, False
    body = content[: found.start()] + _END.encode()
    if _digest(body) != found[1].decode():
        raise ValueError("its content does not match its digest")
    return body, True


def parse_json(content: bytes, shape: Shape) -> dict[str, Any]:
    """Returns the argument of `json_text`, after it has checked every byte.

    Args:
        content: The content of the file.
        shape: The shape that the object must have, which is the only check for a file of an earlier version.

    Raises:
        ValueError: If the content is anything else.
    """
    body, sealed = body_of_json(content)
    if not sealed and (_NAME in content[-_NEAR:] or _DIGITS.search(content[-72:])):  # other digests are above
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
    """Returns the object in a JSON file, or None if there is no file.

    Args:
        path: A file that `json_text` has written, perhaps in an earlier version.
        shape: The shape that its content must have.

    Raises:
        DamagedFile: If its content is not what was written.
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
        DamagedFile: If its content is not what was written.
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
    """Returns the error for a damaged file, with the cause."""
    why = printable((str(error).splitlines() or [type(error).__name__])[0])
    return DamagedFile(f"{printable(str(path), 4096)} is damaged: {why}.")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
