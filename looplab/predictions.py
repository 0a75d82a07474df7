"""Predictions on disk.

`looplab.predictions.write("predictions.parquet", trainer.predict_batches(x))` writes batch after batch, in
order, so memory holds only a few batches. The suffix chooses the format: `.npz` (NumPy) or `.parquet`
(pandas, Polars, Spark). Each output has a name: its keys joined by "/" where `predict_step` returns a dict,
its index in a tuple, and `predictions` otherwise. looplab leaves out an output that is `None`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from looplab.errors import ConfigurationError, DataError, StorageError, nearest
from looplab.options.paths import local

_ROW_GROUP = 16 * 2**20  # bytes: large enough to read efficiently, small enough for memory


class _Writer(Protocol):
    """Takes the outputs of one batch after another, and writes them to one file."""

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Adds the outputs of a batch."""

    def finish(self) -> None:
        """Completes the file."""

    def close(self) -> None:
        """Releases files and memory, whether the file is complete or not."""


def check(path: str | os.PathLike[str], *, overwrite: bool = False, is_word: bool = False) -> None:
    """Refuses a file that `write` could not write, before anything is predicted.

    Args:
        path: The file; its suffix is `.npz` or `.parquet`.
        overwrite: Whether a file of that name may be replaced.
        is_word: Whether the path is the word `output=` of a command, so that messages name its words.

    Raises:
        ConfigurationError: If the suffix is another one, if `.parquet` needs a pyarrow that is not installed,
            if the path is a directory, or if the file exists and may not be replaced.
    """
    key, replace = ("output", "overwrite=true") if is_word else ("path", "overwrite=True")
    file = local(path, key)
    if file.suffix not in _FORMATS:
        raise ConfigurationError(
            f"{key}: {str(file)!r} ends in none of {', '.join(_FORMATS)}, which choose the format."
            + nearest(file.suffix, _FORMATS)
        )
    if file.is_dir():
        raise ConfigurationError(f"{key}: {file} is a directory.")
    if file.exists() and not overwrite:
        raise ConfigurationError(f"{key}: {file} exists. Choose another name, or set {replace}.")
    if file.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise ConfigurationError(
                f"{key}: .parquet needs pyarrow, which is not installed. Run: pip install 'looplab[data]'; "
                "or write .npz."
            ) from None


def write(
    path: str | os.PathLike[str], batches: Iterable[Any], *, overwrite: bool = False
) -> dict[str, tuple[int, ...]]:
    """Writes predictions to a file; runs on the host.

    The file has a temporary name until it is complete.

    Args:
        path: The file. `.npz` has an array `[examples, ...]` for each output, so all batches must have one
            shape and dtype. `.parquet` has a column for each output, with lists for values that are not
            scalars; it needs pyarrow.
        batches: Nested structures of arrays whose first axis is the axis of examples, from
            `Trainer.predict_batches`.
        overwrite: Whether a file of that name may be replaced.

    Returns:
        The shape of each output by its name: the number of all rows, then the other axes of its last batch.

    Raises:
        ConfigurationError: See `check`.
        DataError: If a batch has other outputs, shapes or dtypes than those before it, or if there is no
            batch.
        StorageError: If the file cannot be written.
    """
    check(path, overwrite=overwrite)
    file = Path(path)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    shapes: dict[str, tuple[int, ...]] = {}
    with _storage(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    writer = _FORMATS[file.suffix](temporary)
    try:
        for batch in batches:
            arrays = dict(_named(batch))
            _check_batch(arrays, shapes)
            with _storage(file):
                writer.write(arrays)
            for name, array in arrays.items():
                rows = shapes.get(name, (0,))[0] + len(array)
                shapes[name] = (rows, *array.shape[1:])
        if not shapes:
            raise DataError("there are no predictions to write: the data has no batches.")
        with _storage(file):
            writer.finish()
            os.replace(temporary, file)
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)
    return shapes


@contextmanager
def _storage(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror or error}") from error


def _named(outputs: Any, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yields the arrays of a nested structure with their names."""
    if isinstance(outputs, Mapping):
        for key, own in outputs.items():
            yield from _named(own, f"{prefix}{key}/")
    elif isinstance(outputs, list | tuple):
        for index, own in enumerate(outputs):
            yield from _named(own, f"{prefix}{index}/")
    elif outputs is not None:
        array = np.asarray(outputs)
        if array.dtype.kind == "V":  # bfloat16, which neither format supports
            array = array.astype(np.float32)
        yield prefix.removesuffix("/") or "predictions", array


def _check_batch(arrays: Mapping[str, np.ndarray], before: Mapping[str, tuple[int, ...]]) -> None:
    if before and set(before) != set(arrays):
        raise DataError(
            f"predict_step returned {sorted(arrays)} for a batch, but {sorted(before)} before it."
        )
    if not arrays:
        raise DataError("there are no predictions to write: predict_step returned only None for a batch.")
    if any(array.ndim == 0 for array in arrays.values()) or len({len(a) for a in arrays.values()}) != 1:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise DataError(
            f"predict_step returned the shapes {shapes}: every output needs a row for each example."
        )


class _Npz:
    """Keeps each output in an unnamed file; `.npz` begins with the sizes, which are known only at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: dict[str, tuple[IO[bytes], np.dtype[Any], tuple[int, ...]]] = {}
        self._rows = 0

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            if array.dtype.kind == "O":
                raise DataError(f"the output {name!r} is text, which .npz holds as objects: write .parquet.")
            if name not in self._parts:
                unnamed = tempfile.TemporaryFile(dir=self._path.parent)  # noqa: SIM115 - until `close`
                self._parts[name] = unnamed, array.dtype, array.shape[1:]
            file, dtype, shape = self._parts[name]
            if (array.dtype, array.shape[1:]) != (dtype, shape):
                raise DataError(
                    f"the output {name!r} has rows of {array.dtype} {list(array.shape[1:])} in a batch, but "
                    f"{dtype} {list(shape)} before it. Pad them to one shape, or write .parquet."
                )
            file.write(np.ascontiguousarray(array).data)
        self._rows += len(next(iter(arrays.values())))

    def finish(self) -> None:
        with zipfile.ZipFile(self._path, "w") as archive:
            for name, (file, dtype, shape) in self._parts.items():
                header = {
                    "descr": np.lib.format.dtype_to_descr(dtype),
                    "fortran_order": False,
                    "shape": (self._rows, *shape),
                }
                file.seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    shutil.copyfileobj(file, member, 2**20)

    def close(self) -> None:
        for file, _, _ in self._parts.values():
            file.close()


class _Parquet:
    """Writes a row group as soon as enough rows have arrived."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None
        self._held: list[Any] = []

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        import pyarrow

        batch = pyarrow.RecordBatch.from_pydict({name: _column(array) for name, array in arrays.items()})
        if self._held and batch.schema != self._held[0].schema:
            raise DataError(
                f"predict_step returned {_kinds(batch)} for a batch, but {_kinds(self._held[0])} before it."
            )
        self._held.append(batch)
        if sum(held.nbytes for held in self._held) >= _ROW_GROUP:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._writer.close()

    def close(self) -> None:
        self._held = []
        if self._writer is not None:
            with suppress(OSError):  # the file is abandoned
                self._writer.close()

    def _flush(self) -> None:
        import pyarrow
        from pyarrow import parquet

        if self._writer is None:
            self._writer = parquet.ParquetWriter(self._path, self._held[0].schema)
        rows = pyarrow.Table.from_batches(self._held)
        self._writer.write_table(rows, row_group_size=max(1, rows.num_rows))
        self._held = [batch.slice(0, 0) for batch in self._held[:1]]  # keeps the schema


def _column(array: np.ndarray) -> Any:
    """Returns an array as a column; its further axes become lists in lists."""
    import pyarrow

    column = pyarrow.array(np.ascontiguousarray(array).reshape(-1))
    for axis in range(array.ndim - 1, 0, -1):
        count = int(np.prod(array.shape[:axis]))
        offsets = np.arange(count + 1, dtype=np.int32) * np.int32(array.shape[axis])
        column = pyarrow.ListArray.from_arrays(pyarrow.array(offsets), column)
    return column


def _kinds(batch: Any) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in batch.schema)


_FORMATS: dict[str, Any] = {".npz": _Npz, ".parquet": _Parquet}
