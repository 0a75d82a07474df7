"""The `checkpoints/` folder of a run: what is there, the newest good one, what to drop."""

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
    """Checkpoints of one run, by step. The directory scan is the truth; nothing points at one."""

    def __init__(self, directory: Path) -> None:
        """Looks at a folder, which need not exist yet.

        Args:
            directory: `<run_dir>/checkpoints`.
        """
        self.directory = local(directory, "directory")

    def path(self, step: int) -> Path:
        """Returns the folder of one step's checkpoint."""
        return self.directory / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, rising.

        Raises:
            CheckpointError: If what should be the folder is there, but cannot be looked into: that is not a
                run without checkpoints.
        """
        try:
            names = set(os.listdir(self.directory))
        except OSError as error:
            if not os.path.lexists(self.directory):
                return []
            hint = "is the disk there that it leads to?" if self.directory.is_symlink() else "is it a folder?"
            raise CheckpointError(f"{self.directory} cannot be read: {error.strerror}; {hint}") from None
        found = {int(match[1]) for match in map(OF_STEP.fullmatch, names) if match}
        # A name with more zeros than ours is none of ours, and would be looked for under another one.
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
        """Writes the checkpoint of a step, whole or not at all, and returns its folder.

        Args:
            step: Completed steps.
            arrays: Values by path.
            facts: Further entries of the manifest.
            before: Files that it refers to, which must be on the disk before it counts.
            durable: Whether to wait until the disk has it, so that a power failure cannot damage it.

        Raises:
            OSError: If it cannot be written.
            CheckpointError: If what is read back is not what was written.
        """
        path = self.path(step)
        bundle.write(path, arrays, {"step": step, **facts}, before=before, durable=durable)
        return path

    def set_aside(self, after: int) -> None:
        """Renames checkpoints of later steps, which are damaged: they count no more, but are kept."""
        for step in self.steps():
            if step > after:
                path = self.path(step)
                path.rename(path.with_name(f"damaged-{path.name}-{time.time_ns()}"))

    def recover(self) -> None:
        """Gives checkpoints their names back in whose place others were being put, when that was killed."""
        for step, left in self._replaced().items():
            left.rename(self.path(step))

    def _replaced(self) -> dict[int, Path]:
        """Returns those checkpoints by step."""
        found = {}
        for left in self.directory.glob(f".step-*{bundle.REPLACED}"):
            named = OF_STEP.fullmatch(left.name.removeprefix(".").removesuffix(bundle.REPLACED))
            if named and not self.path(int(named[1])).exists():
                found[int(named[1])] = left
        return found

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
            with suppress(FileNotFoundError):  # somebody has removed it, perhaps with the whole run
                self.path(step).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def newest(self) -> Found | None:
        """Returns folder, arrays and manifest of the newest checkpoint that is whole.

        A damaged one is passed over with a warning that names it and the one taken instead.

        Raises:
            CheckpointError: If there are checkpoints but none is good: a run never starts again
                from step 0 by itself.
        """
        return self._newest(lambda: {})

    def to_continue(self, check: Check) -> Found | None:
        """Returns folder, arrays and manifest of the checkpoint that a run continues from; changes nothing.

        It is the newest one that is whole and that `check` accepts, also of those that `recover` renames.

        Args:
            check: Of a folder and its manifest: raises a `CheckpointError` where a run cannot go on from it.

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
                if not os.path.lexists(path):  # a run that goes on has dropped it meanwhile
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
                + "\nRestore the folder from a copy, or start afresh with another run_dir."
            )
        return None

    def find(self, which: str | int) -> Found:
        """Returns folder, arrays and manifest of one checkpoint, also while the run goes on and drops others.

        Args:
            which: `"best"`, of which the newest checkpoint knows the step (the last one where it knows none);
                `"last"`, the newest that is whole; or a step.

        Raises:
            ConfigurationError: If there is no such checkpoint.
            CheckpointError: If it is damaged; with `"last"` if all are.
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
                _log.warning("nothing was monitored in this run, so none of its checkpoints is best: last")
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
                missing.add(step)  # never there, or dropped just now for a better one: look again

    def best(self) -> list[int]:
        """Returns the steps of the best evaluations, best first, as the newest checkpoint knows them."""
        for step in reversed(self.steps()):
            try:
                manifest = bundle.read_manifest(self.path(step))
            except CheckpointError as error:
                if os.path.lexists(self.path(step)):  # else a run that goes on has dropped it meanwhile
                    _log.warning("damaged checkpoint: %s Which is best is read from the one before.", error)
                continue
            return [int(found["step"]) for found in top(manifest)]
        return []

    def _there_are(self) -> str:
        steps = ", ".join(map(str, self.steps()))
        where = self.directory.parent
        return f"{where} has those of the steps {steps}" if steps else f"{where} has no checkpoint"
