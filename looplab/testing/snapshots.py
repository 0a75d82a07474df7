"""Copies of a run's directory as a kill would leave it, and the differences of two runs."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from looplab.callbacks import Callback, Event, SaveEvent, StepEvent
from looplab.checkpoint import Store
from looplab.errors import ConfigurationError
from looplab.loggers import read_records
from looplab.protocols import Controls

_FIRST = ("models/", "trainer/", "optimizers/", "metrics/", "loop/")  # in this order, then the rest


class Snapshots(Callback):
    """Saves at some steps, and copies the run directory at those moments.

    Attributes:
        breaks: The steps.
        steps_per_epoch: The number of steps in an epoch of the run.
        total_steps: The number of steps of the run.
    """

    def __init__(self, folder: Path, breaks: Sequence[int] | None = None) -> None:
        """Copies nothing yet.

        Args:
            folder: The folder for the copies, by step.
            breaks: Numbers of completed steps; None for those in the middle and at the end of an epoch.
        """
        self._folder, self._asked = folder, breaks
        self.breaks: list[int] = []
        self.steps_per_epoch = self.total_steps = 0

    def on_check(self, event: Event) -> None:
        """Chooses the breaks, when the length of the run is known."""
        self.steps_per_epoch, self.total_steps = event.steps_per_epoch, event.total_steps
        if self._asked is None:
            epoch, half = event.steps_per_epoch, event.steps_per_epoch // 2
            some = {half, epoch, epoch + half} if epoch < event.total_steps else {event.total_steps // 2}
        else:
            some = set(self._asked)
        good = {step for step in some if 0 < step < event.total_steps}
        if not good or (self._asked is not None and good != some):
            said = "" if self._asked is None else f"breaks={sorted(some)}: "
            raise ConfigurationError(
                f"check_resume: {said}the run ends after step {event.total_steps}, and can only be broken "
                "between two steps. Give more steps=, or other breaks=."
            )
        self.breaks = sorted(good)
        self.every = math.gcd(*self.breaks)

    def on_step(self, event: StepEvent, controls: Controls) -> None:
        """Requests a checkpoint at a break."""
        if event.step in self.breaks:
            controls.save()

    def on_save(self, event: SaveEvent, controls: Controls) -> None:
        """Copies the run directory as it is right after a checkpoint at a break."""
        if event.step in self.breaks and event.run_dir is not None and not self.of(event.step).exists():
            shutil.copytree(event.run_dir, self.of(event.step))

    def of(self, step: int) -> Path:
        """Returns the path of the copy of a step, which may not exist."""
        return self._folder / str(step)


@dataclass(frozen=True)
class Unequal:
    """A difference between two runs.

    Attributes:
        step: The step after which it was found.
        path: The path of the value.
        text: The difference as text.
    """

    step: int
    path: str
    text: str


def checkpoints_apart(unbroken: Path, resumed: Path, timed: Collection[str] = ()) -> list[Unequal]:
    """Returns the differences between the last checkpoints of two run directories.

    Args:
        unbroken: The run directory of the unbroken run.
        resumed: The run directory of the resumed run.
        timed: Classes of callbacks whose states depend on the clock, and are left out.
    """
    left, right = (Store(run_dir / "checkpoints").newest() for run_dir in (unbroken, resumed))
    assert left is not None and right is not None  # both were saved
    steps = [found[2]["step"] for found in (left, right)]
    if steps[0] != steps[1]:
        text = f"ends after step {steps[1]}, the unbroken one after step {steps[0]}"
        return [Unequal(min(steps), "the run", text)]
    arrays = _of_arrays(left[1], right[1])
    values = _of_values(dict(_leaves(left[2]["values"])), dict(_leaves(right[2]["values"])))
    # A stream's pipeline state is saved at some saves only, by the clock; later batches are compared.
    clocks = re.compile(rf"callbacks/\d+/({'|'.join(map(re.escape, timed))})(/|$)|(values/)?snapshot(/|$)")
    found = [Unequal(steps[0], path, text) for path, text in [*arrays, *values] if not clocks.match(path)]
    return sorted(found, key=lambda each: _rank(each.path))


def logs_apart(unbroken: Path, resumed: Path) -> list[Unequal]:
    """Returns the first record of the `metrics.jsonl` of two run directories that differs, if one does."""
    left, right = (
        [(r.step, r.epoch, r.split, dict(r.values)) for r in read_records(run_dir / "metrics.jsonl")]
        for run_dir in (unbroken, resumed)
    )
    if json.dumps(left) == json.dumps(right):
        return []
    for one, other in zip(left, right, strict=False):
        if json.dumps(one) != json.dumps(other):
            return [Unequal(other[0], "metrics.jsonl", f"{_record(other)}, unbroken {_record(one)}")]
    return [Unequal(max(left, right)[-1][0], "metrics.jsonl", f"{len(right)} lines, unbroken {len(left)}")]


def _of_arrays(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str]]:
    for path in [*left, *(path for path in right if path not in left)]:
        if path not in left or path not in right:
            yield path, f"only in the {'unbroken' if path in left else 'resumed'} run"
            continue
        one, other = left[path], right[path]
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            yield path, f"{other.dtype} {list(other.shape)}, unbroken {one.dtype} {list(one.shape)}"
        elif one.tobytes() != other.tobytes():
            apart = np.abs(np.asarray(other, np.float64) - np.asarray(one, np.float64))
            yield path, f"{np.count_nonzero(apart)} of {one.size} numbers, by at most {np.max(apart):.2g}"


def _of_values(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for path in [*left, *(path for path in right if path not in left)]:
        one, other = (json.dumps(side[path]) if path in side else "nothing" for side in (left, right))
        if one != other:
            yield path, f"{other}, unbroken {one}"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and value and all(isinstance(v, dict) and "class" in v for v in value):
        value = {f"{index}/{entry['class']}": entry["state"] for index, entry in enumerate(value)}
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in pairs:
            yield from _leaves(part, f"{path}/{key}" if path else str(key))
    else:
        yield path, value


def _record(record: tuple[int, int, str, dict[str, Any]]) -> str:
    values = ", ".join(f"{name} {value}" for name, value in record[3].items())
    return f"step {record[0]} {record[2]}: {values}"


def _rank(path: str) -> int:
    return next((rank for rank, start in enumerate(_FIRST) if path.startswith(start)), len(_FIRST))
