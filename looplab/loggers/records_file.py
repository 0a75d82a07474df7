"""Reads `metrics.jsonl`, and cuts it back to its state at a checkpoint."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from looplab.protocols import Record
from looplab.runs.shapes import fields, logged, table, text, truth, whole

_log = logging.getLogger("looplab")

METRICS = "metrics.jsonl"  # the file name in the run directory

_RECORD = fields(
    {"step": whole, "epoch": whole, "split": text, "values": table(logged), "timing": table(logged)},
    {"from_callbacks": truth},
    closed=True,
)


def read_records(path: Path) -> Iterator[Record]:
    """Reads the records of a `metrics.jsonl`; reading ends at an incomplete last line (after a kill).

    It skips lines that are not records, with a warning that counts them.

    Args:
        path: The file. If it does not exist, there are no records.
    """
    if not path.exists():
        return
    lost: list[int] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            record = _parsed(line)
            if record is None:
                lost.append(number)
            else:
                yield record
    if lost:
        _log.warning("%s has lost records: %s", path, _no_records(lost))


def mend(path: Path, size: int, digest: str | None, step: int) -> int:
    """Cuts a `metrics.jsonl` back to the records up to a checkpoint.

    A file that begins with the content at the checkpoint is not changed. In any other file, looplab removes
    the lines that are not records or that belong to later steps, and keeps a copy of the original file beside
    it. It warns in each case.

    Args:
        path: The file.
        size: Its size in bytes when the checkpoint was saved.
        digest: The SHA-256 of these bytes; None if the checkpoint's version did not save it.
        step: The step of the checkpoint.

    Returns:
        The number of bytes to keep.
    """
    content = path.read_bytes() if path.exists() else b""
    head = content[:size]
    if digest is not None and len(head) == size and hashlib.sha256(head).hexdigest() == digest:
        return size
    # If no line was inserted or removed, `size` separates later lines of the same step.
    is_aligned = len(head) == size and (not head or head.endswith(b"\n"))
    lines = io.BytesIO(head if is_aligned else content).readlines()
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()  # incomplete, from a start that was killed
    records = [_parsed(line) for line in lines]
    lost = [number for number, record in enumerate(records, 1) if record is None]
    kept = b"".join(
        line for line, record in zip(lines, records, strict=True) if record and record.step <= step
    )
    if lost or not content.startswith(kept):
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        path.rename(aside)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_bytes(kept)
        part.rename(path)
        what = f": {_no_records(lost)}" if lost else ""
        _log.warning(
            "%s has lost records that an earlier start wrote%s; a copy of the damaged file is kept as %s",
            path, what, aside.name,
        )  # fmt: skip
    elif len(kept) < size:
        _log.warning("%s has lost records that an earlier start wrote", path)
    elif digest is not None:
        _log.warning(
            "%s is damaged: up to step %d its content has changed, so some of its numbers are wrong. The run "
            "continues from its checkpoint, which is not affected.",
            path, step,
        )  # fmt: skip
    return len(kept)


def _parsed(line: bytes) -> Record | None:
    """Returns the record in a line, or None if it is not a record."""
    try:
        entry = json.loads(line.decode("utf-8"))
        _RECORD(entry, "")
    except (ValueError, RecursionError):
        return None
    values, timing = (
        {name: float(value) for name, value in entry[key].items()} for key in ("values", "timing")
    )
    by_callbacks = entry.get("from_callbacks", False)
    return Record(entry["step"], entry["epoch"], entry["split"], values, timing, by_callbacks)


def _no_records(lines: list[int]) -> str:
    shown = ", ".join(map(str, lines[:5])) + (", ..." if len(lines) > 5 else "")
    return (
        f"line {shown} is not a record"
        if len(lines) == 1
        else f"{len(lines)} lines are not records ({shown})"
    )
