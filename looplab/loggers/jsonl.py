"""Writes `metrics.jsonl`, the record of truth: one JSON object per line."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from looplab.loggers.growing_file import GrowingFile
from looplab.protocols import Logger, Record, StepRecords, Summary, Values

_log = logging.getLogger("looplab")

_HOLE = "\0"  # JSON text never contains this character


class JsonLines(Logger):
    """Appends records to a file; see `looplab.protocols.Logger`."""

    def __init__(self, path: Path) -> None:
        """Takes the path of the file; the first record opens it.

        Args:
            path: `<run_dir>/metrics.jsonl`.
        """
        self._path = path
        self._file: GrowingFile | None = None

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
            **({"from_callbacks": True} if record.from_callbacks else {}),
        }
        self._append(json.dumps(line, allow_nan=False) + "\n")

    def write_steps(self, records: StepRecords) -> None:
        """See `Logger`: writes the same lines, all at once."""
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
        if self._file is None:
            return {self._path.name: self._path.stat().st_size if self._path.exists() else 0}
        self._file.look()
        return {self._path.name: self._file.size}

    def digests(self) -> dict[str, str]:
        """See `Logger`."""
        return {} if self._file is None else {self._path.name: self._file.digest}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """See `Logger`: keeps only complete lines, even if the file has lost its end."""
        self.close()
        size, whole = offsets.get(self._path.name, 0), 0
        if self._path.exists():
            with self._path.open("r+b") as file:
                there = os.fstat(file.fileno()).st_size  # a damaged checkpoint may record any size
                whole = file.read(min(size, there)).rfind(b"\n") + 1
                file.truncate(whole)
        if whole < size:
            _log.warning("%s has lost records that an earlier start wrote", self._path)
        if whole:
            self._file = GrowingFile(self._path)  # from now on it notices if the file is removed

    def close(self) -> None:
        """See `Logger`."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, lines: str) -> None:
        if self._file is None:
            self._file = GrowingFile(self._path)
        self._file.write(lines.encode())


def in_json(values: Values) -> dict[str, Any]:
    """Returns values for JSON: a number that is not finite becomes a string that `float` reads."""
    return {name: value if math.isfinite(value) else str(float(value)) for name, value in values.items()}


def _number(value: float) -> str:
    """Returns what `json.dumps` writes for a number from `in_json`."""
    return repr(value) if math.isfinite(value) else f'"{value}"'


def _timing(timing: Values) -> dict[str, Any]:
    return in_json({name: round(value, 6) for name, value in timing.items()})
