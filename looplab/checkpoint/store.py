"""The `checkpoints/` folder of a run: what is there, the newest good one, what to drop."""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from looplab.checkpoint import bundle
from looplab.errors import CheckpointError

_NAME = re.compile(r"step-(\d{8,})")
_log = logging.getLogger("looplab")


class Store:
    """Checkpoints of one run, by step. The directory scan is the truth; nothing points at one."""

    def __init__(self, directory: Path) -> None:
        """Looks at a folder, which need not exist yet.

        Args:
            directory: `<run_dir>/checkpoints`.
        """
        self.directory = directory

    def path(self, step: int) -> Path:
        """Returns the folder of one step's checkpoint."""
        return self.directory / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, rising."""
        if not self.directory.is_dir():
            return []
        matches = (_NAME.fullmatch(entry.name) for entry in self.directory.iterdir())
        return sorted(int(match.group(1)) for match in matches if match)

    def save(self, step: int, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Path:
        """Writes the checkpoint of a step and returns its folder."""
        bundle.write(self.path(step), arrays, {"step": step, **facts})
        return self.path(step)

    def set_aside(self, after: int) -> None:
        """Renames checkpoints of later steps, which are damaged: they count no more, but are kept."""
        for step in self.steps():
            if step > after:
                path = self.path(step)
                path.rename(path.with_name(f"damaged-{path.name}-{time.time_ns()}"))

    def sweep(self) -> None:
        """Removes what saves and removals that were killed have left behind."""
        for left in self.directory.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)

    def prune(self, keep: Collection[int]) -> None:
        """Removes all checkpoints but those of the steps given."""
        for step in set(self.steps()) - set(keep):
            # Renamed first, so that a half-deleted folder is never taken for a checkpoint.
            doomed = self.path(step).with_name(f".{self.path(step).name}.deleted")
            shutil.rmtree(doomed, ignore_errors=True)  # left by a removal that was killed
            self.path(step).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def newest(self) -> tuple[Path, dict[str, np.ndarray], dict[str, Any]] | None:
        """Returns folder, arrays and manifest of the newest checkpoint that is whole.

        A damaged one is passed over with a warning that names it and the one taken instead.

        Raises:
            CheckpointError: If there are checkpoints but none is good: a run never starts again
                from step 0 by itself.
        """
        damaged = []
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                found = path, bundle.read(path), bundle.read_manifest(path)
            except CheckpointError as error:
                damaged.append(str(error))
                continue
            for line in damaged:
                _log.warning("damaged checkpoint: %s Taking %s instead.", line, path.name)
            return found
        if damaged:
            raise CheckpointError(
                f"no checkpoint in {self.directory} is usable:\n  "
                + "\n  ".join(damaged)
                + "\nRestore the folder from a copy, or start afresh with another run_dir."
            )
        return None
