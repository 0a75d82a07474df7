"""Reads the arrays of a checkpoint that may be untrusted, after the file matches its manifest."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - by it NumPy and safetensors know bfloat16
import numpy as np
from safetensors import safe_open

from looplab.checkpoint import limits
from looplab.checkpoint.safe_open import damaged, open_own, unreadable
from looplab.errors import CheckpointError, nearest
from looplab.runs.terminal import printable

_LENGTH = 8  # bytes at the beginning of the file: the size of its header, little-endian

# For each type that safetensors returns as a NumPy array: its NumPy name, its name in the file, its bytes.
_DTYPES = {
    "bool": ("BOOL", 1),
    "int8": ("I8", 1),
    "uint8": ("U8", 1),
    "int16": ("I16", 2),
    "uint16": ("U16", 2),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "int32": ("I32", 4),
    "uint32": ("U32", 4),
    "float32": ("F32", 4),
    "int64": ("I64", 8),
    "uint64": ("U64", 8),
    "float64": ("F64", 8),
    "complex64": ("C64", 8),
}


def arrays(
    directory: Path, name: str, listed: Mapping[str, Any], digest: Callable[[np.ndarray], str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Reads arrays one by one and checks each against its digest, after it has checked the whole header.

    Args:
        directory: The checkpoint's folder.
        name: The name of the file in it.
        listed: The manifest's entry for each array: `"shape"`, `"dtype"`, `"sha256"`.
        digest: Returns the digest of an array, for the comparison.

    Yields:
        Path and value of each array.

    Raises:
        CheckpointError: If anything is missing, damaged or different from the manifest.
    """
    with opened(directory, name, listed) as file:
        for key, entry in listed.items():
            array = file.get_tensor(key)
            if digest(array) != entry.get("sha256"):
                raise damaged(
                    directory / name, f"it is damaged: the digest of {printable(key)} does not match."
                )
            yield key, array


@contextmanager
def opened(directory: Path, name: str, listed: Mapping[str, Any]) -> Iterator[Any]:
    """Opens the arrays of a checkpoint after it has compared size and header; reads no array.

    Within the block, any error of a library about the file becomes a `CheckpointError`.
    """
    path = directory / name
    _check_size(directory, name, sum(size_of(path, key, entry) for key, entry in listed.items()))
    try:
        with safe_open(path, framework="numpy") as file:
            _check_header(path, file, listed)
            yield file
    except CheckpointError:
        raise
    except Exception as error:
        raise unreadable(path, error) from None


def _check_header(path: Path, file: Any, listed: Mapping[str, Any]) -> None:
    if set(file.keys()) != set(listed):
        raise damaged(path, "it does not hold the arrays that its manifest lists.")
    for key, entry in listed.items():
        head = file.get_slice(key)
        found, expected = (head.get_dtype(), head.get_shape()), (_DTYPES[entry["dtype"]][0], entry["shape"])
        if found != expected:
            why = f"{printable(key)} is {found}, but {expected} in its manifest."
            raise damaged(path, printable(why, 1000))


def size_of(path: Path, key: str, entry: Mapping[str, Any]) -> int:
    """Returns the number of bytes of the array of a manifest's entry.

    Raises:
        CheckpointError: If a checkpoint cannot hold its dtype.
    """
    if entry["dtype"] not in _DTYPES:
        kinds, dtype = ", ".join(_DTYPES), printable(entry["dtype"])
        why = f"{printable(key)!r} has the dtype {dtype!r}; there are {kinds}." + nearest(dtype, _DTYPES)
        raise damaged(path, why)
    return math.prod(entry["shape"]) * _DTYPES[entry["dtype"]][1]


def _check_size(directory: Path, name: str, expected: int) -> None:
    """Compares the size of the file with that of the arrays before it allocates memory for either."""
    path = directory / name
    with open_own(directory, name) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            header = int.from_bytes(file.read(_LENGTH), "little")
        except OSError as error:
            raise unreadable(path, error) from None
    if size < _LENGTH:
        raise damaged(path, f"it has {size} bytes, too few for a header.")
    if header > min(limits.HEADER, size - _LENGTH):
        raise damaged(path, f"of its {size} bytes, {header} should be its header.")
    if (there := size - _LENGTH - header) != expected:
        listed = printable(str(expected), 40)
        raise damaged(path, f"it has {there} bytes of arrays, but {listed} by its manifest.")
    if expected > (most := limits.memory()):
        raise damaged(path, f"it has {expected} bytes of arrays; this machine has {most} bytes of memory.")
