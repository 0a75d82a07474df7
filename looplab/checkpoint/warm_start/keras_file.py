"""Reads only the weights in a Keras file, `.weights.h5` or `.keras`.

A `.keras` file also describes a model, which may contain code. looplab never reads that part.
"""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import tensorflow as tf

from looplab.checkpoint.warm_start.keras_names import joined, readable
from looplab.checkpoint.warm_start.values import Value
from looplab.errors import CheckpointError

WEIGHTS = "model.weights.h5"  # the member of a .keras file
_MOST_LINKS = 100_000
_MOST_PACKED = 100  # the largest ratio of unpacked to packed size; Keras does not compress
_CHUNK = 1 << 20  # the most bytes of a chunk beyond those of its array


@dataclass(frozen=True)
class Contents:
    """The contents of a file.

    Attributes:
        values: By the place of a layer and the number of the value in the layer: `layers/dense_1/0`.
        names: These keys by all names of a value.
        is_named: Whether layers have their own names; files of older Keras versions have none.
    """

    values: dict[str, Value]
    names: dict[str, str]
    is_named: bool


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """Opens a file; its values can be read within the block.

    Args:
        path: A `.weights.h5` or a `.keras` file.

    Raises:
        CheckpointError: If it cannot be read, or contains something that Keras does not write: links, arrays
            stored elsewhere, members with paths out of the archive.
    """
    with ExitStack() as stack:
        with _explained(path):
            opened: Path | IO[bytes] = path
            if path.name.endswith(".keras"):
                archive = stack.enter_context(zipfile.ZipFile(path))
                opened = stack.enter_context(_member(archive, path))
            found = _contents(stack.enter_context(h5py.File(opened, "r")), path)
        yield found


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Converts all errors of the libraries about a damaged file to a `CheckpointError`."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}") from None


def _member(archive: zipfile.ZipFile, path: Path) -> IO[bytes]:
    """Returns the weights in an archive, after it has checked all members."""
    for info in archive.infolist():
        parts = Path(info.filename).parts
        if info.filename.startswith(("/", "\\")) or ".." in parts or "\\" in info.filename:
            raise CheckpointError(f"{path} has the member {info.filename!r}, a path out of the archive.")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise CheckpointError(f"{path} has the member {info.filename!r}, a link.")
    if WEIGHTS not in archive.namelist():
        raise CheckpointError(f"{path} has no {WEIGHTS}: it is not what model.save('mine.keras') writes.")
    info = archive.getinfo(WEIGHTS)
    if info.compress_type == zipfile.ZIP_STORED:
        return archive.open(info)
    if info.file_size > _MOST_PACKED * max(info.compress_size, 1):
        raise CheckpointError(
            f"{path}: {WEIGHTS} unpacks {info.compress_size} bytes to {info.file_size}, too many for weights."
        )
    return io.BytesIO(archive.read(info))  # seeking back in the archive would unpack it again


def _contents(file: h5py.File, path: Path) -> Contents:
    layers: dict[str, str] = {}
    values: dict[str, Value] = {}
    places: dict[str, tuple[str, str]] = {}
    _refuse_links(file, path)
    for name, item in _items(file):
        above, _, last = name.rpartition("/")
        if name.split("/")[0] == "optimizer":
            continue  # state of the earlier training
        if isinstance(item, h5py.Group) and last == "vars":
            layers[above] = str(item.attrs.get("name", ""))
        elif isinstance(item, h5py.Dataset) and above.rpartition("/")[2] == "vars":
            layer = above.rpartition("/")[0]
            values[joined(layer, last)] = _value(item, path)
            places[joined(layer, last)] = layer, last
    if not values:
        raise CheckpointError(f"{path} does not hold weights in the format of Keras 3.")
    shown = readable(layers)
    names = {joined(shown[layer], last): name for name, (layer, last) in places.items()}
    return Contents(values, {**names, **{name: name for name in values}}, any(layers.values()))


def _refuse_links(file: h5py.File, path: Path) -> None:
    """Refuses links to other places; it raises the error itself, since HDF5 passes on no exceptions."""
    count = 0

    def other(name: str, link: Any) -> str | None:
        nonlocal count
        count += 1
        if count > _MOST_LINKS:
            return f"it has more than {_MOST_LINKS} links"
        return None if isinstance(link, h5py.HardLink) else f"{name} is a {type(link).__name__}"

    found = file.visititems_links(other)
    if found is not None:
        raise CheckpointError(f"{path}: {found}, which Keras does not write.")


def _items(file: h5py.File) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    file.visititems(lambda name, item: found.append((name, item)))
    return found


def _value(dataset: h5py.Dataset, path: Path) -> Value:
    if dataset.external or dataset.is_virtual:
        raise CheckpointError(f"{path}: {dataset.name} is kept outside of the file, which is not followed.")
    size = prod(dataset.shape) * dataset.dtype.itemsize
    if dataset.chunks and prod(dataset.chunks) * dataset.dtype.itemsize > size + _CHUNK:
        raise CheckpointError(f"{path}: {dataset.name} has chunks that are larger than it is.")
    dtype = dataset.dtype
    if dataset.attrs.get("dtype") == "bfloat16":  # HDF5 has no such type
        dtype = np.dtype(tf.bfloat16.as_numpy_dtype)
    return Value(tuple(dataset.shape), dtype, partial(_read, dataset, dtype, path))


def _read(dataset: h5py.Dataset, dtype: np.dtype, path: Path) -> np.ndarray:
    with _explained(path):
        found = np.asarray(dataset[()])
    return found if found.dtype == dtype else found.view(dtype)
