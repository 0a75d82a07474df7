"""Reads TFRecord files by index: the offset of each record is known."""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.lib.io import tf_record

from looplab.data.host_sources import Singles
from looplab.errors import DataError
from looplab.options.paths import local
from looplab.strategy import tree
from looplab.targets import configurable

_DIGEST = 32  # bytes of the digest
_FRAME = 16  # bytes around a record: its length (8), and a checksum of that (4) and of the record (4)


@configurable(reads=("files",), user_only=("index_dir",))
def records(
    files: str | Sequence[str], parse: Callable[[tf.Tensor], Any], index_dir: str | Path | None = None
) -> Records:
    """Reads uncompressed TFRecord files, which are shuffled and resumed by index like arrays.

    Args:
        files: One or several paths or patterns such as `"data/train-*.tfrecord"`, local or of `tf.io.gfile`.
        parse: Converts a scalar string tensor to an example, nested tensors, in a `tf.function`. A tuple is
            `(inputs, targets[, sample_weight])`.
        index_dir: A folder for the offsets. Without it each start reads them again (about a second for a
            million records). looplab does not use the index of a file that has changed.

    Raises:
        DataError: If the file does not exist or is truncated, or its first record cannot be read or parsed.
    """
    patterns = [files] if isinstance(files, str) else list(files)
    paths = sorted({path for pattern in patterns for path in tf.io.gfile.glob(pattern)})
    if not paths:
        raise DataError(f"there is no file {', '.join(map(repr, patterns))}.")
    return Records(paths, parse, [_index(path, index_dir) for path in paths])


class Records(Singles):
    """See `records`."""

    kind = "records"
    faster = (
        "records are parsed on threads, one by one: do less work in parse, store parsed records in new "
        "files, use arrays if they fit into memory, or use more processor cores"
    )

    def __init__(
        self, paths: Sequence[str], parse: Callable[[tf.Tensor], Any], offsets: Sequence[np.ndarray]
    ) -> None:
        """Parses the first record to find the shapes.

        Args:
            paths: The files.
            parse: See `records`.
            offsets: For each file, the offsets of its records.
        """
        self._paths, self._offsets = list(paths), list(offsets)
        self._ends = np.cumsum([len(own) for own in offsets])
        self._parse = tf.function(parse, input_signature=[tf.TensorSpec([], tf.string)])
        number = len(self._paths)
        super().__init__(
            int(self._ends[-1]), f"records of {self._paths[0] if number == 1 else f'{number} files'}"
        )

    def example(self, row: int) -> Any:
        """See `Singles`."""
        path, _, offset = self._find(row)
        data, _ = tf_record.tf_record_random_reader(path).read(offset)  # verifies both checksums
        with tf.device("/CPU:0"):
            return tree.map_structure(lambda tensor: tensor.numpy(), self._parse(data))

    def place(self, row: int) -> str:
        """See `Singles`."""
        path, number, offset = self._find(row)
        return f"reading record {number} (counted from 0, at byte {offset}) of {path}"

    def _find(self, row: int) -> tuple[str, int, int]:
        """Returns the file of a record, its number in the file, and its offset."""
        file = int(np.searchsorted(self._ends, row, side="right"))
        number = row - (int(self._ends[file - 1]) if file else 0)
        return self._paths[file], number, int(self._offsets[file][number])


def _index(path: str, folder: str | Path | None) -> np.ndarray:
    """Returns the offsets of the records of a file, from a valid stored index if there is one."""
    if folder is None:
        return _scan(path)
    state = tf.io.gfile.stat(path)
    key = hashlib.sha256(f"{path} {state.length} {state.mtime_nsec}".encode()).hexdigest()[:16]
    kept = local(folder, "index_dir") / f"{Path(path).name}-{key}.npy"
    if kept.exists() and (found := _kept(kept)) is not None:
        return found
    offsets = _scan(path)
    _keep(kept, offsets)
    return offsets


def _keep(path: Path, offsets: np.ndarray) -> None:
    """Writes an index with its digest at the end."""
    content = io.BytesIO()
    np.save(content, offsets)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(content.getvalue() + hashlib.sha256(content.getvalue()).digest())
    part.replace(path)


def _kept(path: Path) -> np.ndarray | None:
    """Returns a stored index, or None if it is damaged or old, that is, does not end with its digest."""
    whole = path.read_bytes()
    content, digest = whole[:-_DIGEST], whole[-_DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        return None
    return np.load(io.BytesIO(content), allow_pickle=False)


def _scan(path: str) -> np.ndarray:
    """Finds the offset of each record from the lengths, without reading the records."""
    offsets: list[int] = []
    size, offset = tf.io.gfile.stat(path).length, 0
    local = Path(path).exists()
    with open(path, "rb") if local else tf.io.gfile.GFile(path, "rb") as file:
        while offset < size:
            file.seek(offset)
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
            if offset + _FRAME + length > size:
                raise DataError(
                    f"{path} is not a TFRecord file, or is damaged or cut off: record {len(offsets)} "
                    f"(counted from 0) at byte {offset} would end after the file's {size} bytes. Compressed "
                    "files cannot be read by index."
                )
            offsets.append(offset)
            offset += _FRAME + length
    return np.array(offsets, np.int64)
