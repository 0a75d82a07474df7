"""Reads and writes one checkpoint on disk: a folder with `arrays.safetensors` and `manifest.json`.

Nothing in it is executable: arrays are safetensors, everything else is JSON. A folder with its final name is
complete, because looplab writes it under another name, waits for the disk, reads it back, and then renames
it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from looplab.checkpoint import arrays_file, manifest
from looplab.errors import CheckpointError
from looplab.options.paths import local
from looplab.runs.fsync import make_folder, sync

ARRAYS, MANIFEST = "arrays.safetensors", "manifest.json"
REPLACED = ".replaced"  # the suffix of a checkpoint that another one is replacing


def write(
    directory: Path,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    *,
    before: Iterable[Path] = (),
    durable: bool = True,
) -> None:
    """Writes a checkpoint completely or not at all.

    Args:
        directory: The final folder, `.../checkpoints/step-00000100`. An older checkpoint with that name is
            removed when the new one is safe.
        arrays: Values by path.
        facts: Further entries of the manifest, in JSON's types: step, values, log offsets.
        before: Files that it refers to, which must be on the disk before the checkpoint counts.
        durable: Whether to wait for the disk. Without it, the checkpoint survives a kill, but it may be lost
            or incomplete after a power failure.

    Raises:
        OSError: If it cannot be written, or another process removed it before it was read back. The
            incomplete folder is removed.
        CheckpointError: If the data read back differs from the data written. The folder is removed.
    """
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    make_folder(directory.parent)
    try:
        _fill(temporary, arrays, facts)
        for path in (temporary / ARRAYS, temporary / MANIFEST, temporary, *before) if durable else ():
            if path.exists():  # a log may have been removed by another process
                sync(path)
        _read_back(temporary)
        replaced = _put(temporary, directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if durable:
        sync(directory.parent)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)


def _read_back(folder: Path) -> None:
    """Reads what was just written, before it replaces anything."""
    try:
        deque(each(folder), maxlen=0)
    except CheckpointError:
        for name in (ARRAYS, MANIFEST):
            os.lstat(folder / name)  # a file that another process removed is not damage
        raise


def _fill(folder: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    folder.mkdir()
    contiguous = {path: np.asarray(array, order="C") for path, array in arrays.items()}
    try:
        save_file(contiguous, folder / ARRAYS)
    except SafetensorError as error:  # it wraps an error of the system in a text
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from None
    described = {
        path: {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": _digest(array)}
        for path, array in contiguous.items()
    }
    (folder / MANIFEST).write_text(manifest.written(facts, described), encoding="utf-8")


def _put(temporary: Path, directory: Path) -> Path | None:
    """Gives a folder its final name; returns the new path of the folder that had the name before, if any."""
    if not directory.exists():
        temporary.rename(directory)
        return None
    replaced = directory.with_name(f".{directory.name}{REPLACED}")
    shutil.rmtree(replaced, ignore_errors=True)
    directory.rename(replaced)
    try:
        temporary.rename(directory)
    except BaseException:
        replaced.rename(directory)
        raise
    return replaced


def read_manifest(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the manifest of one checkpoint.

    Raises:
        CheckpointError: If there is none, looplab did not write it, or its format is newer than this version.
        Refused: If the folder is not in a local file system.
    """
    return manifest.load(local(directory, "directory"), MANIFEST)


def outline(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the manifest of one checkpoint, after it has compared files and header; reads no array.

    Raises:
        CheckpointError: If any damage is visible without reading the arrays.
    """
    found = read_manifest(directory)
    with arrays_file.opened(Path(directory), ARRAYS, found["arrays"]):
        return found


def read(directory: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns a checkpoint's arrays by path, after it has checked each of them against its digest.

    The checkpoint may be untrusted: whatever it contains, the function returns what was saved or raises this
    one error, and it allocates no memory for sizes that the files only claim.

    Args:
        directory: One checkpoint's folder, such as `runs/mine/checkpoints/step-00000100`.

    Raises:
        CheckpointError: If anything in it is missing, damaged or different from the manifest.
    """
    return dict(each(directory))


def each(directory: str | os.PathLike[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the arrays of `read` one by one, for callers without memory for all."""
    listed = read_manifest(directory)["arrays"]
    return arrays_file.arrays(Path(directory), ARRAYS, listed, _digest)


def verify(directory: str | os.PathLike[str]) -> str | None:
    """Returns the damage of a checkpoint as a text, or None if all of it is good."""
    try:
        deque(each(directory), maxlen=0)
    except CheckpointError as error:
        return str(error)
    return None


def _digest(array: np.ndarray) -> str:
    content = np.asarray(array, order="C")
    kind = f"{content.dtype}{list(content.shape)}".encode()
    return hashlib.sha256(kind + content.tobytes()).hexdigest()
