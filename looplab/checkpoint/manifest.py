"""Reads a manifest that may be untrusted: within limits, and with checks before anything relies on it.

Since version 2 a manifest ends with a digest of itself, which is compared before anything else is read. A
manifest without a digest must be of version 1 and have only entries of version 1. So the rest of a damaged
digest is refused.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from looplab.checkpoint import limits
from looplab.checkpoint.safe_open import damaged, open_own, unreadable
from looplab.errors import CheckpointError
from looplab.runs import sealed
from looplab.runs.terminal import printable

VERSION = 2  # the version that looplab writes

OF_STEP = re.compile(r"step-(\d{8,})", re.ASCII)  # the name of a folder that holds the checkpoint of a step


_FIRST = {"format_version", "step", "values", "logs", "arrays"}  # the entries of version 1,
_FIRST |= {"limit", "examples", "execution"}  # and those of a bad step


def written(facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> str:
    """Returns the text of a manifest.

    Args:
        facts: Its entries, in JSON's types.
        arrays: Shape, dtype and digest of each array by its path.
    """
    return sealed.json_text({"format_version": VERSION, **facts, "arrays": dict(arrays)}, indent=1)


def load(directory: Path, name: str) -> dict[str, Any]:
    """Reads and checks the manifest of a checkpoint.

    Args:
        directory: The checkpoint's folder.
        name: The name of the file in it.

    Returns:
        `"format_version"`, `"step"`, `"arrays"` (shape, dtype and digest by path), and the other entries of
        the run: `"values"` in JSON's types, `"logs"` with the bytes of each file, `"log_digests"` with the
        digest of these bytes.

    Raises:
        CheckpointError: If there is none, looplab did not write it, or its format is newer.
    """
    path = directory / name
    try:
        with open_own(directory, name) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limits.MANIFEST:
                raise ValueError(f"it has {size} bytes; at most {limits.MANIFEST} are read.")
            content = file.read(size)
        body, is_sealed = sealed.body_of_json(content)
        manifest = _parsed(body)
        _check_version(path, manifest, is_sealed)
        _check(manifest)
        _check_place(directory, manifest["step"])
    except (OSError, RecursionError, MemoryError) as error:
        raise unreadable(path, error) from None
    except KeyError as error:
        raise damaged(path, f"it has no {error}.") from None
    except ValueError as error:
        raise damaged(path, printable(str(error))) from None
    return manifest


def top(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the best evaluations at the time of the save, best first; empty without a monitor."""
    found = manifest.get("values", {}).get("progress", {}).get("top", [])
    return list(found)


def _parsed(content: bytes) -> dict[str, Any]:
    if sum(map(content.count, (b",", b"[", b"{"))) > limits.VALUES:  # at least the number of values
        raise ValueError(f"it has more than {limits.VALUES} values.")
    try:
        manifest = json.loads(content.decode("utf-8"), object_pairs_hook=_once)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(manifest, dict):
        raise ValueError("it is not a JSON object.")
    level: list[Any] = [manifest]
    for _ in range(limits.DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
    if level:
        raise ValueError(f"it is nested more than {limits.DEPTH} deep.")
    return manifest


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"an object has {twice!r} twice.")
    return found


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _check_version(path: Path, manifest: Mapping[str, Any], is_sealed: bool) -> None:
    found = manifest["format_version"]
    if not _is_whole(found) or found < 1:
        raise ValueError(f"its format_version is {found!r}, not a number from 1.")
    if is_sealed != (found > 1):
        raise ValueError(f"it has format version {found}, but {'a' if is_sealed else 'no'} digest.")
    if found > VERSION:
        raise CheckpointError(
            f"{path} has format version {found}; this looplab reads up to version {VERSION}. "
            "Use the looplab that wrote it, or a newer one."
        )
    if not is_sealed and (others := manifest.keys() - _FIRST):
        raise ValueError(f"it has {sorted(others)[0]!r}, which format version 1 does not have.")


def _check(manifest: Mapping[str, Any]) -> None:
    if not _is_whole(manifest["step"]):
        raise ValueError(f"its step is {manifest['step']!r}, not a whole number from 0.")
    for name in ("arrays", "values", "logs"):
        if not isinstance(manifest[name] if name == "arrays" else manifest.get(name, {}), dict):
            raise ValueError(f"its {name} are not a JSON object.")
    for name, size in manifest.get("logs", {}).items():
        if not _is_whole(size):
            raise ValueError(f"its log {name!r} has {size!r} bytes.")
    if not _is_table_of_texts(manifest.get("log_digests", {})):
        raise ValueError("its log_digests are not what looplab writes.")
    for name, entry in manifest["arrays"].items():
        _check_array(name, entry)
    progress = manifest.get("values", {}).get("progress", {})
    found = progress.get("top", []) if isinstance(progress, dict) else None
    if not isinstance(found, list) or not all(map(_is_evaluation, found)):
        raise ValueError("its values.progress is not what looplab writes.")


def _check_array(name: str, entry: Any) -> None:
    name.encode("utf-8")  # fails for half a surrogate pair
    if not 0 < len(name) <= limits.NAME or "\0" in name:
        raise ValueError(f"{name[:80]!r}, with {len(name)} characters, is not a valid name of an array.")
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"an array has the name {name!r}, which is a path out of the checkpoint.")
    if not isinstance(entry, dict) or not isinstance(entry["dtype"], str) or not _is_shape(entry["shape"]):
        raise ValueError(f"the entry of the array {name!r} is not a shape and a dtype.")


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and len(shape) <= limits.DIMENSIONS and all(map(_is_whole, shape))


def _is_evaluation(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and _is_whole(found.get("step"))
        and isinstance(found.get("monitor"), str)
        and (
            isinstance(value := found.get("value"), float)
            or (type(value) is int and abs(value) <= limits.INTEGER)
        )
    )


def _is_table_of_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_whole(value: Any) -> bool:
    """Returns whether it is an integer from 0 that fits signed 64 bits; JSON's true equals 1 in Python."""
    return type(value) is int and 0 <= value <= limits.INTEGER


def _check_place(directory: Path, step: int) -> None:
    named = OF_STEP.fullmatch(directory.name)
    if named and int(named[1]) != step:
        raise ValueError(f"it is of step {step}, but the name of its folder is {directory.name}.")
