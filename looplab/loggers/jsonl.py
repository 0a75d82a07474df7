"""`metrics.jsonl`: the record of truth, one JSON object per line."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from looplab.protocols import Logger, Record, StepRecords, Summary, Values

_log = logging.getLogger("looplab")

_HOLE = "\0"  # which JSON never holds as it is


class JsonLines(Logger):
    """Appends records to a file; see `looplab.protocols.Logger`."""

    def __init__(self, path: Path) -> None:
        """Names the file, which is opened when the first record comes.

        Args:
            path: `<run_dir>/metrics.jsonl`.
        """
        self._path = path
        self._file: TextIO | None = None

    def begin(self, summary: Summary) -> None:
        """See `Logger`; nothing to do."""

    def write(self, record: Record) -> None:
        """See `Logger`."""
        line = {
            "step": record.step,
            "epoch": record.epoch,
            "split": record.split,
            "values": in_json(record.values),
            "timing": _timing(record.timing),
        }
        self._append(json.dumps(line, allow_nan=False) + "\n")

    def write_steps(self, records: StepRecords) -> None:
        """See `Logger`: the same lines, in one piece."""
        names = ", ".join(f"{json.dumps(name)}: {_HOLE}" for name in records.values)
        timing = json.dumps(_timing(records.timing), allow_nan=False)
        whole = (
            f'{{"step": {_HOLE}, "epoch": {records.epoch}, "split": "{records.split}", '
            f'"values": {{{names}}}, "timing": {timing}}}\n'
        )
        line = whole.replace("%", "%%").replace(_HOLE, "%s")
        columns = (map(_number, series.tolist()) for series in records.values.values())
        self._append("".join(map(line.__mod__, zip(records.steps, *columns, strict=True))))

    def offsets(self) -> dict[str, int]:
        """See `Logger`."""
        size = self._path.stat().st_size if self._path.exists() else 0
        return {self._path.name: size}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """See `Logger`: keeps whole lines only, even where the file has lost its end since."""
        self.close()
        size, whole = offsets.get(self._path.name, 0), 0
        if self._path.exists():
            with self._path.open("r+b") as file:
                there = os.fstat(file.fileno()).st_size  # a damaged checkpoint may say any size
                whole = file.read(min(size, there)).rfind(b"\n") + 1
                file.truncate(whole)
        if whole < size:
            _log.warning("%s has lost records that an earlier start wrote", self._path)

    def close(self) -> None:
        """See `Logger`."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, lines: str) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8", buffering=1)  # by lines: for `tail -f`
        self._file.write(lines)


def read_records(path: Path) -> Iterator[Record]:
    """Reads the records of a `metrics.jsonl`; an unfinished last line (a kill) ends it.

    Args:
        path: The file; nothing is read where there is none.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            entry = json.loads(line)
            values, timing = (
                {name: float(value) for name, value in entry[key].items()} for key in ("values", "timing")
            )
            yield Record(entry["step"], entry["epoch"], entry["split"], values, timing)


def in_json(values: Values) -> dict[str, Any]:
    """Returns values as JSON has them: what is not finite as the string that `float` reads."""
    return {name: value if math.isfinite(value) else str(float(value)) for name, value in values.items()}


def _number(value: float) -> str:
    """Returns what `json.dumps` makes of a number in `in_json`."""
    return repr(value) if math.isfinite(value) else f'"{value}"'


def _timing(timing: Values) -> dict[str, Any]:
    return in_json({name: round(value, 6) for name, value in timing.items()})
