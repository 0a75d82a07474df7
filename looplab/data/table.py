"""CSV and Parquet files as arrays."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from looplab.errors import ConfigurationError, DataError, nearest

_log = logging.getLogger("looplab")


def table(
    path: str | Path,
    target: str | None = None,
    features: Sequence[str] | None = None,
    weight: str | None = None,
    classes: Sequence[str] | None = None,
) -> Any:
    """Reads a table into memory: `inputs`, `(inputs, targets)` or `(inputs, targets, sample_weight)`.

    Args:
        path: A file that ends in `.csv` (with a line of names; also compressed, `.csv.gz`) or in `.parquet`.
        target: The column to predict, if any. Texts become classes, numbered in the order of the alphabet, as
            int64; whole numbers and truth values are int64, all other numbers float32.
        features: The columns of the inputs, all numbers: float32 of shape `[rows, features]`. All other
            columns if None.
        weight: The column of weights, if any.
        classes: The texts of the target in the order of their numbers, where the file may lack one: files
            that belong together need the same. Those of the file if None.

    Raises:
        ConfigurationError: If pandas is missing, or there is no such column.
        DataError: If there is no such file, it has no rows, or values are missing or no numbers.
    """
    path = Path(path).expanduser()
    frame = _read(path)
    names = [str(name) for name in frame.columns]
    inputs = list(features) if features is not None else [n for n in names if n not in (target, weight)]
    for argument, column in [("features", n) for n in inputs] + [("target", target), ("weight", weight)]:
        if column is not None and column not in names:
            raise ConfigurationError(
                f"{argument}: {path} has no column {column!r}; there are {', '.join(names)}."
                + nearest(column, names)
            )
    if not len(frame):
        raise DataError(f"the data is empty: {path} has no rows.")
    x = np.stack([_numbers(frame[name], path) for name in inputs], axis=1)
    if target is None:
        return x
    y = _target(frame[target], path, classes)
    return (x, y) if weight is None else (x, y, _numbers(frame[weight], path))


def _read(path: Path) -> Any:
    try:
        import pandas
    except ImportError:
        raise ConfigurationError(
            f"{path}: tables are read with pandas, which is not installed. Run: pip install 'looplab[data]'"
        ) from None
    if not path.is_file():
        raise DataError(f"there is no file {path}.")
    readers = {".csv": pandas.read_csv, ".parquet": pandas.read_parquet}
    kind = next((suffix for suffix in path.suffixes if suffix in readers), None)
    if kind is None:
        raise ConfigurationError(f"{path}: the name of a table ends in {' or '.join(readers)}.")
    try:
        return readers[kind](path)
    except ImportError:
        raise ConfigurationError(
            f"{path}: Parquet is read with pyarrow, which is not installed. Run: pip install 'looplab[data]'"
        ) from None
    except Exception as error:
        raise DataError(f"{type(error).__name__}: {error}, reading {path}.") from error


def _numbers(column: Any, path: Path) -> np.ndarray:
    _refuse_missing(column, path)
    if column.dtype.kind not in "biuf":
        bad = next(value for value in column if isinstance(value, str) or not np.isscalar(value))
        raise DataError(
            f"{path}: the column {column.name!r} has {bad!r}, which is no number. Leave it out "
            "(features=...), or make numbers of it."
        )
    return column.to_numpy(np.float32)


def _target(column: Any, path: Path, given: Sequence[str] | None) -> np.ndarray:
    _refuse_missing(column, path)
    if column.dtype.kind in "biu":
        return column.to_numpy(np.int64)
    if column.dtype.kind == "f":
        return column.to_numpy(np.float32)
    texts = column.to_numpy(str)
    if given is not None:
        numbers = {name: number for number, name in enumerate(given)}
        if strange := sorted({*map(str, texts)} - set(numbers)):
            raise DataError(f"{path}: the column {column.name!r} has {strange}; classes are {list(given)}.")
        return np.array([numbers[text] for text in texts], np.int64)
    classes, labels = np.unique(texts, return_inverse=True)
    _log.info("classes of %s: %s", column.name, ", ".join(f"{i} {name}" for i, name in enumerate(classes)))
    return labels.astype(np.int64)


def _refuse_missing(column: Any, path: Path) -> None:
    missing = column.isna()
    if missing.any():
        row = int(missing.to_numpy().argmax())
        raise DataError(
            f"{path}: the column {column.name!r} has no value in {int(missing.sum())} of {len(column)} rows; "
            f"the first is row {row} (counted from 0)."
        )
