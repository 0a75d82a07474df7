"""Lists the checkpoints in a directory without reading their arrays, also during a run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from looplab.checkpoint import bundle
from looplab.checkpoint.manifest import OF_STEP, top
from looplab.checkpoint.safe_open import open_own
from looplab.checkpoint.store import Store
from looplab.errors import CheckpointError, ConfigurationError, nearest
from looplab.runs.tags import EPOCH

_FILES = (bundle.ARRAYS, bundle.MANIFEST)
_RECORD = re.compile(rb'^\{"step": (\d{1,18}), "epoch": (\d{1,18}),', re.MULTILINE)  # in metrics.jsonl


@dataclass(frozen=True)
class Entry:
    """One checkpoint.

    Attributes:
        path: Its folder.
        manifest: Its manifest, or None if something is wrong.
        wrong: A text on what is wrong, as far as is visible without reading the arrays, or None.
    """

    path: Path
    manifest: dict[str, Any] | None
    wrong: str | None

    @classmethod
    def of(cls, path: Path) -> Entry | None:
        """Reads a checkpoint's manifest; returns None if a run in progress has just dropped the folder."""
        try:
            return cls(path, bundle.outline(path), None)
        except CheckpointError as error:
            return cls(path, None, str(error)) if os.path.lexists(path) else None

    @property
    def step(self) -> int | None:
        """Completed steps; None if neither the manifest nor the folder's name has them."""
        if self.manifest is not None:
            return int(self.manifest["step"])
        named = OF_STEP.fullmatch(self.path.name)
        return int(named[1]) if named else None

    @property
    def size(self) -> int:
        """The bytes of its files."""
        sizes = 0
        for name in _FILES:
            with suppress(OSError):
                sizes += os.lstat(self.path / name).st_size
        return sizes

    @property
    def saved(self) -> str:
        """The time when it was written, from its file."""
        try:
            when = datetime.fromtimestamp(os.lstat(self.path / bundle.MANIFEST).st_mtime)
        except (OSError, OverflowError, ValueError):
            return "-"
        return when.strftime("%Y-%m-%d %H:%M:%S")


def find(directory: Path) -> list[Path]:
    """Returns the checkpoints of a directory, by increasing step; at least one.

    Args:
        directory: A run directory, its `checkpoints/`, or one checkpoint.

    Raises:
        ConfigurationError: If there is no such directory, or no checkpoint in it.
        CheckpointError: If `checkpoints/` cannot be read.
    """
    if not directory.is_dir():
        beside = os.listdir(directory.parent) if directory.parent.is_dir() else []
        raise ConfigurationError(
            f"{directory}: there is no such directory.{nearest(directory.name, beside)} {_GIVE}"
        )
    if OF_STEP.fullmatch(directory.name) or any(os.path.lexists(directory / name) for name in _FILES):
        return [directory]
    inner = directory / "checkpoints"
    store = Store(inner if os.path.lexists(inner) else directory)
    if not (steps := store.steps()):
        raise ConfigurationError(f"{directory} has no checkpoint. {_GIVE}")
    return [store.path(step) for step in steps]


_GIVE = "Give the directory of a run, its checkpoints/ folder, or one checkpoint."


def run_of(checkpoint: Path) -> Path:
    """Returns the directory of the run to which a checkpoint belongs, if it belongs to one."""
    return checkpoint.absolute().parent.parent


def epochs(run_dir: Path, steps: Collection[int]) -> dict[int, int]:
    """Returns the epochs of these steps, if the log of the run has them."""
    return {step: epoch for step, epoch, _ in _logged(run_dir, steps)}


def _logged(run_dir: Path, steps: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
    """Yields step, epoch and line of each record of these steps in the log of the run."""
    with (
        suppress(CheckpointError, OSError, ValueError),  # the log is missing or empty
        open_own(run_dir, "metrics.jsonl") as file,
        mmap(file.fileno(), 0, access=ACCESS_READ) as log,
    ):
        for record in _RECORD.finditer(log):
            if (step := int(record[1])) in steps:
                end = log.find(b"\n", record.start())
                yield step, int(record[2]), log[record.start() : None if end < 0 else end]


def _monitored(run_dir: Path, steps: Collection[int], monitor: str) -> dict[int, float]:
    """Returns the values of a monitor at these steps, as far as the log of the run has them."""
    found = {}
    for step, _, line in _logged(run_dir, steps):
        with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):  # a damaged line
            record = json.loads(line)
            before = {"train": "", "validation": "val_"}.get(record["split"], f"{record['split']}_")
            for tag, value in record["values"].items():
                name = tag if record.get("from_callbacks") else f"{before}{tag.removeprefix(EPOCH)}"
                if name == monitor and (tag.startswith(EPOCH) or record.get("from_callbacks")):
                    found[step] = float(value)
    return found


def evaluations(entries: Iterable[Entry], run_dir: Path) -> tuple[dict[int, dict[str, Any]], int | None]:
    """Returns the monitored values by step, and the step of the best.

    The newest checkpoint has the best evaluations; the others are in the log of the run.

    Args:
        entries: Checkpoints by increasing step.
        run_dir: The directory of the run.
    """
    entries = list(entries)
    known: dict[int, dict[str, Any]] = {}
    best = None
    for entry in entries:
        if entry.manifest is not None:
            ranked = top(entry.manifest)
            known |= {evaluation["step"]: evaluation for evaluation in ranked}
            best = ranked[0]["step"] if ranked else None
    if best is not None:
        monitor = known[best]["monitor"]
        steps = {entry.step for entry in entries if entry.step is not None} - known.keys()
        known |= {
            step: {"step": step, "monitor": monitor, "value": value}
            for step, value in _monitored(run_dir, steps, monitor).items()
        }
    return known, best
