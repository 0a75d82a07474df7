"""Reads CSV and Parquet files into arrays."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from looplab.errors import ConfigurationError, DataError, nearest
from looplab.targets import configurable

_log = logging.getLogger("looplab")
_SHOWN = 50  # the most classes in a message


@configurable(reads=("path", "validation"))
def table(
    path: str | Path,
    target: str | None = None,
    features: Sequence[str] | None = None,
    weight: str | None = None,
    classes: Sequence[str] | None = None,
    validation: str | Path | Mapping[str, str | Path] | None = None,
) -> Any:
    """Reads a table into memory, as `inputs`, `(inputs, targets)` or `(inputs, targets, sample_weight)`.

    Args:
        path: A file that ends in `.csv` (with a header; also compressed, `.csv.gz`) or in `.parquet`.
        target: The column to predict, if any. Strings become classes as int64, numbered in alphabetical
            order. Integers and booleans become int64, other numbers float32.
        features: The columns of the inputs, which hold numbers: float32 of shape `[rows, features]`. None for
            all other columns.
        weight: The column of weights, if any.
        classes: The strings of the target in the order of their numbers, for a file that may lack some: files
            that belong together need the same classes. None for the classes of the file.
        validation: A second file for validation, or several files by name, read with the features and the
            classes of the first file. The result is then a dict, `{"train": ..., "validation": ...}`.

    Raises:
        ConfigurationError: If pandas is missing, or there is no such column.
        DataError: If there is no such file, it has no rows, values are missing or not numbers, or a string of
            the target is not one of the classes.
    """
    path = Path(path).expanduser()
    frame = _read(path)
    names = [str(name) for name in frame.columns]
    inputs = list(features) if features is not None else [n for n in names if n not in (target, weight)]
    known = _classes(frame, path, target) if classes is None else list(classes)
    if known is not None and classes is None:
        _log.info("classes of %s: %s", target, numbered(known))
    train = _examples(frame, path, inputs, target, weight, known)
    if validation is None:
        return train
    others = validation if isinstance(validation, Mapping) else {"validation": validation}
    files = {name: Path(other).expanduser() for name, other in others.items()}
    return {
        "train": train,
        **{
            name: _examples(_read(file), file, inputs, target, weight, known, f"the classes of {path} are")
            for name, file in files.items()
        },
    }


def text_classes(path: str | Path, target: str) -> list[str] | None:
    """Returns the classes of a table as `table` numbers them, or None if the target holds numbers.

    Args:
        path: See `table`.
        target: See `table`.

    Raises:
        LooplabError: See `table`.
    """
    path = Path(path).expanduser()
    return _classes(_read(path), path, target)


def numbered(classes: Sequence[str]) -> str:
    """Returns the names of classes with their numbers; of very many classes, only the first ones."""
    more = f", ... {len(classes)} in all" if len(classes) > _SHOWN else ""
    return ", ".join(f"{number} {name}" for number, name in enumerate(classes[:_SHOWN])) + more


def _examples(
    frame: Any,
    path: Path,
    inputs: Sequence[str],
    target: str | None,
    weight: str | None,
    classes: Sequence[str] | None,
    whose: str = "the classes are",
) -> Any:
    for argument, column in [("features", n) for n in inputs] + [("target", target), ("weight", weight)]:
        if column is not None:
            _refuse_unknown(argument, column, frame, path)
    if not len(frame):
        raise DataError(f"the data is empty: {path} has no rows.")
    x = np.stack([_numbers(frame[name], path) for name in inputs], axis=1)
    if target is None:
        return x
    y = _target(frame[target], path, classes, whose)
    return (x, y) if weight is None else (x, y, _numbers(frame[weight], path))


def _refuse_unknown(argument: str, column: str, frame: Any, path: Path) -> None:
    names = [str(name) for name in frame.columns]
    if column not in names:
        raise ConfigurationError(
            f"{argument}: {path} has no column {column!r}; its columns are {', '.join(names)}."
            + nearest(column, names)
        )


def _classes(frame: Any, path: Path, target: str | None) -> list[str] | None:
    """Returns the strings of the target in alphabetical order, or None if it has none."""
    if target is None:
        return None
    _refuse_unknown("target", target, frame, path)
    column = frame[target]
    if column.dtype.kind in "biuf" or not len(column):
        return None
    _refuse_missing(column, path)
    return [str(name) for name in np.unique(column.to_numpy(str))]


def _read(path: Path) -> Any:
    try:
        import pandas
    except ImportError:
        raise ConfigurationError(
            f"{path}: reading tables needs pandas, which is not installed. Run: pip install 'looplab[data]'"
        ) from None
    if not path.is_file():
        raise DataError(f"there is no file {path}.")
    readers = {".csv": pandas.read_csv, ".parquet": pandas.read_parquet}
    kind = next((suffix for suffix in path.suffixes if suffix in readers), None)
    if kind is None:
        raise ConfigurationError(f"{path}: the name of a table must end in {' or '.join(readers)}.")
    try:
        return readers[kind](path)
    except ImportError:
        raise ConfigurationError(
            f"{path}: reading Parquet needs pyarrow, which is not installed. Run: pip install 'looplab[data]'"
        ) from None
    except Exception as error:
        raise DataError(f"{type(error).__name__}: {error}, reading {path}.") from error


def _numbers(column: Any, path: Path) -> np.ndarray:
    _refuse_missing(column, path)
    if column.dtype.kind not in "biuf":
        bad = next(value for value in column if isinstance(value, str) or not np.isscalar(value))
        raise DataError(
            f"{path}: the column {column.name!r} has the value {bad!r}, which is not a number. Leave the "
            "column out (features=...), or convert it to numbers."
        )
    return column.to_numpy(np.float32)


def _target(column: Any, path: Path, classes: Sequence[str] | None, whose: str) -> np.ndarray:
    _refuse_missing(column, path)
    if classes is None and column.dtype.kind in "biu":
        return column.to_numpy(np.int64)
    if classes is None and column.dtype.kind == "f":
        return column.to_numpy(np.float32)
    numbers = {str(name): number for number, name in enumerate(classes or ())}
    texts = [str(text) for text in column.to_numpy(str)]
    row = next((row for row, text in enumerate(texts) if text not in numbers), None)
    if row is not None:
        strange = sorted({*texts} - set(numbers))
        more = f" (in all {', '.join(map(repr, strange[:_SHOWN]))})" if len(strange) > 1 else ""
        there_are = ", ".join(map(repr, list(numbers)[:_SHOWN])) or "none"
        raise DataError(
            f"{path}: the column {column.name!r} has the value {texts[row]!r} in row {row} (counted from "
            f"0){more}, which is not a class; {whose} {there_are}." + nearest(texts[row], numbers)
        )
    return np.array([numbers[text] for text in texts], np.int64)


def _refuse_missing(column: Any, path: Path) -> None:
    missing = column.isna()
    if missing.any():
        row = int(missing.to_numpy().argmax())
        raise DataError(
            f"{path}: the column {column.name!r} has no value in {int(missing.sum())} of {len(column)} rows; "
            f"the first is row {row} (counted from 0)."
        )
