"""Manages the `checkpoints/` folder of a run: finds the newest good checkpoint, and drops old ones."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from looplab.checkpoint import bundle
from looplab.checkpoint.manifest import OF_STEP, top
from looplab.errors import CheckpointError, ConfigurationError, nearest
from looplab.options.paths import local

_log = logging.getLogger("looplab")

Found = tuple[Path, dict[str, np.ndarray], dict[str, Any]]  # folder, arrays and manifest of a checkpoint
Check = Callable[[Path, Mapping[str, Any]], None]


class Store:
    """The checkpoints of one run, by step. A scan of the folder finds them; no file points to one."""

    def __init__(self, directory: Path) -> None:
        """Takes the path of a folder, which need not exist yet.

        Args:
            directory: `<run_dir>/checkpoints`.
        """
        self.directory = local(directory, "directory")

    def path(self, step: int) -> Path:
        """Returns the folder of one step's checkpoint."""
        return self.directory / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, in increasing order.

        Raises:
            CheckpointError: If the path exists but cannot be read as a folder. That is not a run without
                checkpoints.
        """
        try:
            names = set(os.listdir(self.directory))
        except OSError as error:
            if not os.path.lexists(self.directory):
                return []
            hint = "is the disk there that it leads to?" if self.directory.is_symlink() else "is it a folder?"
            raise CheckpointError(f"{self.directory} cannot be read: {error.strerror}; {hint}") from None
        found = {int(match[1]) for match in map(OF_STEP.fullmatch, names) if match}
        # A name with more zeros is not looplab's, and would be looked up under another name.
        return sorted(step for step in found if self.path(step).name in names)

    def save(
        self,
        step: int,
        arrays: Mapping[str, np.ndarray],
        facts: Mapping[str, Any],
        *,
        before: Iterable[Path] = (),
        durable: bool = True,
    ) -> Path:
        """Writes the checkpoint of a step completely or not at all, and returns its folder.

        Args:
            step: Completed steps.
            arrays: Values by path.
            facts: Further entries of the manifest.
            before: Files that it refers to, which must be on the disk before the checkpoint counts.
            durable: Whether to wait for the disk, so that a power failure cannot damage it.

        Raises:
            OSError: If it cannot be written.
            CheckpointError: If the data read back differs from the data written.
        """
        path = self.path(step)
        bundle.write(path, arrays, {"step": step, **facts}, before=before, durable=durable)
        return path

    def set_aside(self, after: int) -> None:
        """Renames damaged checkpoints of later steps: they no longer count, but their files stay."""
        for step in self.steps():
            if step > after:
                path = self.path(step)
                path.rename(path.with_name(f"damaged-{path.name}-{time.time_ns()}"))

    def recover(self) -> None:
        """Restores the names of checkpoints whose replacement was killed."""
        for step, left in self._replaced().items():
            left.rename(self.path(step))

    def _replaced(self) -> dict[int, Path]:
        """Returns the checkpoints whose replacement was killed, by step."""
        found = {}
        for left in self.directory.glob(f".step-*{bundle.REPLACED}"):
            named = OF_STEP.fullmatch(left.name.removeprefix(".").removesuffix(bundle.REPLACED))
            if named and not self.path(int(named[1])).exists():
                found[int(named[1])] = left
        return found

    def sweep(self) -> None:
        """Removes the rest of saves and removals that were killed."""
        for left in self.directory.glob(".step-*"):
            shutil.rmtree(left, ignore_errors=True)

    def prune(self, keep: Collection[int]) -> None:
        """Removes all checkpoints except those of the given steps."""
        for step in set(self.steps()) - set(keep):
            # Renamed first, so that a half-deleted folder never looks like a checkpoint.
            doomed = self.path(step).with_name(f".{self.path(step).name}.deleted")
            shutil.rmtree(doomed, ignore_errors=True)  # the rest of a removal that was killed
            with suppress(FileNotFoundError):  # another process has removed it, perhaps with the whole run
                self.path(step).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def newest(self) -> Found | None:
        """Returns folder, arrays and manifest of the newest complete checkpoint.

        It skips a damaged one, with a warning that names it and the one used instead.

        Raises:
            CheckpointError: If there are checkpoints but none is good: a run never restarts from step 0 by
                itself.
        """
        return self._newest(lambda: {})

    def to_continue(self, check: Check) -> Found | None:
        """Returns folder, arrays and manifest of the checkpoint from which a run continues; changes nothing.

        It is the newest complete one that `check` accepts, including those that `recover` would rename.

        Args:
            check: Called with a folder and its manifest; raises a `CheckpointError` if a run cannot continue
                from it.

        Raises:
            CheckpointError: If there are checkpoints but none is good.
        """
        return self._newest(self._replaced, check)

    def _newest(self, others: Callable[[], dict[int, Path]], check: Check | None = None) -> Found | None:
        damaged = []
        there = {step: self.path(step) for step in self.steps()} | others()
        for _, path in sorted(there.items(), reverse=True):
            try:
                found = path, bundle.read(path), bundle.read_manifest(path)
                if check is not None:
                    check(path, found[2])
            except CheckpointError as error:
                if not os.path.lexists(path):  # a run in progress has dropped it
                    return self._newest(others, check)
                damaged.append(str(error))
                continue
            for line in damaged:
                _log.warning("damaged checkpoint: %s Taking %s instead.", line, path.name)
            return found
        if damaged:
            raise CheckpointError(
                f"no checkpoint in {self.directory} is usable:\n  "
                + "\n  ".join(damaged)
                + "\nRestore the folder from a copy, or start a new run with another run_dir."
            )
        return None

    def find(self, which: str | int) -> Found:
        """Returns folder, arrays and manifest of one checkpoint, also while a run in progress drops others.

        Args:
            which: `"best"`, whose step is recorded in the newest checkpoint (without a record, it means the
                last one); `"last"`, the newest complete one; or a step.

        Raises:
            ConfigurationError: If there is no such checkpoint.
            CheckpointError: If it is damaged; with `"last"`, if all are.
        """
        if isinstance(which, str) and which not in ("best", "last"):
            raise ConfigurationError(
                f"checkpoint: {which!r} is neither best, last nor a step; {self._there_are()}."
                + nearest(which, ("best", "last"))
            )
        missing: set[int] = set()
        while True:
            step = next(iter(self.best()), None) if which == "best" else which
            if step is None:
                _log.warning("nothing was monitored in this run, so no checkpoint is best: using the last")
                step = "last"
            if step == "last":
                found = self.newest()
                if found is None:
                    raise ConfigurationError(f"checkpoint: {self._there_are()}.")
                return found
            step = int(step)
            if step in missing:
                named = f"{which!r}, which is that of step {step}," if which == "best" else f"of step {step}"
                raise ConfigurationError(f"checkpoint: {named} is not there; {self._there_are()}.")
            path = self.path(step)
            try:
                return path, bundle.read(path), bundle.read_manifest(path)
            except CheckpointError:
                if os.path.lexists(path):
                    raise
                missing.add(step)  # it never existed, or a better one has just replaced it: try again

    def best(self) -> list[int]:
        """Returns the steps of the best evaluations, best first, as the newest checkpoint records them."""
        for step in reversed(self.steps()):
            try:
                manifest = bundle.read_manifest(self.path(step))
            except CheckpointError as error:
                if os.path.lexists(self.path(step)):  # otherwise a run in progress has dropped it
                    _log.warning("damaged checkpoint: %s The previous one tells which is best.", error)
                continue
            return [int(found["step"]) for found in top(manifest)]
        return []

    def _there_are(self) -> str:
        steps = ", ".join(map(str, self.steps()))
        where = self.directory.parent
        return f"{where} has those of the steps {steps}" if steps else f"{where} has no checkpoint"
