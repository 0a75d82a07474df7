"""Writes `metrics.csv`: the same values as a table, for a spreadsheet or `pandas.read_csv`."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from looplab.errors import Problem, Refused, as_written
from looplab.loggers.records_file import METRICS, read_records
from looplab.options.paths import is_within, leads_out
from looplab.protocols import Logger, Record
from looplab.targets import configurable

_log = logging.getLogger("looplab")

FILENAME = "metrics.csv"
_FIRST = ("step", "epoch", "split")
_FOLDERS = ("bad_steps", "callbacks", "checkpoints", "tensorboard")  # folders of a run for other files


@configurable(writes=("filename",))
class Csv(Logger):
    """Writes a row for each record and a column for each tag; see `looplab.protocols.Logger`.

    A cell is empty if the record lacks the value. A tag that appears later gets a column at the end, and
    looplab rewrites the file for it. Clocks and rates are only in `metrics.jsonl`.
    """

    def __init__(self, filename: str | os.PathLike[str] = FILENAME) -> None:
        """Names the file.

        Args:
            filename: The name of a file in the run directory; it must end in `.csv`. Without a run directory,
                looplab writes no file.

        Raises:
            Refused: If the name does not end in `.csv`, or leads out of the run directory.
        """
        self._filename = os.fspath(filename)
        self.check(None)
        self._path: Path | None = None
        self._run_dir: Path | None = None
        self._columns: list[str] | None = None  # the columns of the file; None before they are read
        self._rows = 0

    def check(self, run_dir: Path | None) -> None:
        """See `Logger`."""
        if why := refusal(self._filename, run_dir):
            raise Refused([Problem("Csv.filename", why)])

    def open(self, run_dir: Path | None) -> None:
        """See `Logger`."""
        self._path, self._columns = None if run_dir is None else run_dir / self._filename, None
        self._run_dir = run_dir

    def write(self, record: Record) -> None:
        """See `Logger`; a row is in the file as soon as it is written."""
        if self._path is None:
            return
        if self._columns is None:
            self._load()
        assert self._columns is not None
        if self._rows and not self._path.exists():
            _log.warning("%s was removed or moved during the run; looplab writes it again", self._path)
            self._write_again(self._records()[: self._rows])
        new = [tag for tag in record.values if tag not in self._columns]
        if new or not self._path.exists():
            self._rewrite([*self._columns, *new], self._read()[1])
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(_row(record, self._columns))
        self._rows += 1

    def offsets(self) -> dict[str, int]:
        """See `Logger`: the number of rows, since a new column changes the number of bytes."""
        if self._path is None:
            return {}
        if self._columns is None:
            self._load()
        return {self._filename: self._rows}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """See `Logger`: also removes the columns that have no values left.

        A table of all records is written again from `metrics.jsonl`, which was already compared and cut back.
        So damage to the table has no effect.
        """
        if self._path is None or not self._path.exists():
            return
        count = offsets.get(self._filename, 0)
        if (records := self._records()) and len(records) == count:
            self._write_again(records)
            return
        columns, rows = self._read()
        rows = rows[:count]
        used = [i for i, name in enumerate(columns) if name in _FIRST or any(row[i] for row in rows)]
        self._rewrite([columns[i] for i in used], [[row[i] for i in used] for row in rows])

    def _records(self) -> list[Record]:
        return [] if self._run_dir is None else list(read_records(self._run_dir / METRICS))

    def _write_again(self, records: Sequence[Record]) -> None:
        columns = [*_FIRST, *dict.fromkeys(tag for record in records for tag in record.values)]
        self._rewrite(columns, [_row(record, columns) for record in records])

    def _load(self) -> None:
        columns, rows = self._read()
        self._columns, self._rows = columns, len(rows)

    def _read(self) -> tuple[list[str], list[list[str]]]:
        """Returns the header and the complete rows, without a last row that a kill cut off."""
        if self._path is None or not self._path.exists():
            return list(_FIRST), []
        text = self._path.read_text(encoding="utf-8")
        lines = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
        return (lines[0], lines[1:]) if lines else (list(_FIRST), [])

    def _rewrite(self, columns: list[str], rows: list[list[str]]) -> None:
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = _part(self._path)
        with part.open("w", newline="", encoding="utf-8") as file:
            wide = [[*row, *[""] * (len(columns) - len(row))] for row in rows]
            csv.writer(file, lineterminator="\n").writerows([columns, *wide])
        os.replace(part, self._path)
        self._columns, self._rows = columns, len(rows)


def _row(record: Record, columns: Sequence[str]) -> list[str]:
    cells = {tag: repr(float(value)) for tag, value in record.values.items()}
    cells |= {"step": str(record.step), "epoch": str(record.epoch), "split": record.split}
    return [cells.get(column, "") for column in columns]


def refusal(filename: Any, run_dir: Path | None = None) -> str | None:
    """Returns why a table cannot have a name, or None if it can.

    Args:
        filename: The name as the user wrote it.
        run_dir: The run directory; None if it is not known, and then nothing on the disk is checked.
    """
    if not isinstance(filename, str):
        return f"expected the name of a file in the run directory, got {as_written(filename)}."
    remedy = "Give a plain name that ends in .csv, for a file in the run directory."
    if why := leads_out(filename):
        return f"{why}. {remedy}"
    path = PurePath(filename)
    if path.suffix.lower() != ".csv":
        return f"{filename!r} does not end in .csv. {remedy}"
    if path.parts[0].lower() in _FOLDERS:
        return f"{filename!r} is in {path.parts[0]}/, which looplab uses for other files. {remedy}"
    if run_dir is None:
        return None
    for place in (run_dir / path, _part(run_dir / path)):
        if not is_within(place, run_dir):
            return f"{place} leads out of the run directory by a symbolic link. {remedy}"
        if place.exists() and not place.is_file():
            return f"{place} exists and is not a file. {remedy}"
    return None


def _part(path: Path) -> Path:
    """Returns the path of the temporary file that replaces a table."""
    return path.with_name(f"{path.name}.part")
