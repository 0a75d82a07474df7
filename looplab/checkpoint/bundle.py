"""One checkpoint on disk: `arrays.safetensors` and `manifest.json` in a folder of their own.

Nothing in it is executable: arrays are safetensors, everything else is JSON. A folder that carries
its final name is complete, because it was written under another name, waited for until the disk had it,
read once more, and renamed.
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
REPLACED = ".replaced"  # ends the name of a checkpoint in whose place another is being put


def write(
    directory: Path,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    *,
    before: Iterable[Path] = (),
    durable: bool = True,
) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        directory: The final folder, `.../checkpoints/step-00000100`; what has that name goes once the new one
            is safe.
        arrays: Values by path.
        facts: Further entries of the manifest, in JSON's types: step, values, log offsets.
        before: Files that it refers to, which must be on the disk before it counts.
        durable: Whether to wait for the disk: what is not waited for may be gone after a power failure, or
            stand there in half, though not after a kill.

    Raises:
        OSError: If it cannot be written, or somebody has removed it before it was read; what there was of it
            is removed again.
        CheckpointError: If what is read is not what was written; likewise.
    """
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    make_folder(directory.parent)
    try:
        _fill(temporary, arrays, facts)
        for path in (temporary / ARRAYS, temporary / MANIFEST, temporary, *before) if durable else ():
            if path.exists():  # else a log that somebody has removed meanwhile
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
    """Reads what was just written, before it may take the place of anything."""
    try:
        deque(each(folder), maxlen=0)
    except CheckpointError:
        for name in (ARRAYS, MANIFEST):
            os.lstat(folder / name)  # what somebody has removed is no damage
        raise


def _fill(folder: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    folder.mkdir()
    contiguous = {path: np.asarray(array, order="C") for path, array in arrays.items()}
    try:
        save_file(contiguous, folder / ARRAYS)
    except SafetensorError as error:  # its words for what the system said
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from None
    described = {
        path: {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": _digest(array)}
        for path, array in contiguous.items()
    }
    (folder / MANIFEST).write_text(manifest.written(facts, described), encoding="utf-8")


def _put(temporary: Path, directory: Path) -> Path | None:
    """Gives a folder its final name; returns where what had it before is now, if something had."""
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
        CheckpointError: If there is none, it is not what looplab writes, or its format is newer than ours.
        Refused: If the folder is in no local file system.
    """
    return manifest.load(local(directory, "directory"), MANIFEST)


def outline(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the manifest of one checkpoint whose arrays are there as it lists them; none of them is read.

    Raises:
        CheckpointError: If anything can be seen to be wrong without reading the arrays.
    """
    found = read_manifest(directory)
    with arrays_file.opened(Path(directory), ARRAYS, found["arrays"]):
        return found


def read(directory: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns a checkpoint's arrays by path, after checking every one against its digest.

    It may be somebody else's: whatever is in it, the answer is what was saved or the one error, and no memory
    is taken for what the files only claim.

    Args:
        directory: One checkpoint's folder, such as `runs/mine/checkpoints/step-00000100`.

    Raises:
        CheckpointError: If anything in it is missing, damaged or not what the manifest says.
    """
    return dict(each(directory))


def each(directory: str | os.PathLike[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Gives what `read` returns one by one, for whoever has no room for all."""
    listed = read_manifest(directory)["arrays"]
    return arrays_file.arrays(Path(directory), ARRAYS, listed, _digest)


def verify(directory: str | os.PathLike[str]) -> str | None:
    """Returns what is wrong with a checkpoint, or None if all of it is good."""
    try:
        deque(each(directory), maxlen=0)
    except CheckpointError as error:
        return str(error)
    return None


def _digest(array: np.ndarray) -> str:
    content = np.asarray(array, order="C")
    kind = f"{content.dtype}{list(content.shape)}".encode()
    return hashlib.sha256(kind + content.tobytes()).hexdigest()
