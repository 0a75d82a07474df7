"""The checkpoints of one run directory: restored with its logs, written, and maintained."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from looplab.checkpoint import Policy, Saver, Store, bundle, nested_arrays, state
from looplab.checkpoint.verification import read_back
from looplab.errors import CheckpointError, StorageError
from looplab.loggers import METRICS, mend
from looplab.runs.directory import write_text
from looplab.runs.lock import renew
from looplab.strategy import tree
from looplab.training import saved_values
from looplab.training.session import Session

_log = logging.getLogger("looplab")

BAD_STEPS = "bad_steps"  # in the run directory


class CheckpointFolder:
    """The checkpoints of a run, and the part of its logs that belongs to them.

    Attributes:
        run_dir: The run directory.
        saver: Writes the checkpoints.
    """

    def __init__(self, session: Session, policy: Policy) -> None:
        """Reads nothing yet.

        Args:
            session: The session of a run with a directory; its logs are cut back to the restored checkpoint.
            policy: How checkpoints are written.
        """
        assert session.run_dir is not None
        self._session, self.run_dir = session, session.run_dir
        self._store = Store(session.run_dir / "checkpoints")
        self.saver = Saver(self._store, asynchronous=policy.asynchronous, durable=policy.durable)
        self._beside: dict[Path, bytes] | None = None  # files of the run that are written once

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in rising order."""
        return self._store.steps()

    def restore(
        self, variables: state.Variables, accept: Callable[..., dict[str, np.ndarray]] | None = None
    ) -> dict[str, Any] | None:
        """Restores the newest good checkpoint into `variables`, and cuts the logs back to it.

        Nothing changes, in the variables or in the directory, before everything is accepted.

        Args:
            variables: The live state.
            accept: A function from the checkpoint's values and arrays to the arrays to assign; it may refuse.
                None uses them unchanged.

        Returns:
            The values of the checkpoint, or None for a fresh start.

        Raises:
            CheckpointError: If there are checkpoints but none is good, or the newest does not fit.
        """
        there = self._store.to_continue(saved_values.check)
        found = self._session.agreement.decide("checkpoint to continue from", there)
        if found is None:
            if (self.run_dir / METRICS).exists():
                _log.warning("%s has no checkpoint yet: starting at step 0 again", self.run_dir)
            self._cut_back({})
            return None
        path, arrays, manifest = found
        own, among_values = nested_arrays.split(arrays)
        values = nested_arrays.lower(manifest["values"], among_values)
        if accept is not None:
            own = accept(values, own)
        state.assign(variables, own, str(path))
        self._session.is_untouched = False
        self._store.recover()
        self._store.set_aside(manifest["step"])
        self._cut_back(self._mended(manifest))
        return dict(values)

    def remember_files(self) -> None:
        """Remembers the files that describe the run after they are written, in case they are removed."""
        if self._beside is None:
            paths = [self.run_dir / name for name in ("config.yaml", "environment.json")]
            self._beside = {path: path.read_bytes() for path in paths if path.exists()}

    def _put_back(self) -> None:
        """Writes removed files again, and takes the run directory's lock again.

        Raises:
            StorageError: If that cannot be done.
            RunInUse: If the directory now belongs to another run.
        """
        for path, content in (self._beside or {}).items():
            if path.exists():
                continue
            _log.warning("%s was removed or moved while the run went on: it is made again", path)
            try:
                write_text(path, content.decode("utf-8", "replace"))
            except OSError as error:
                raise StorageError(f"{path} cannot be made again: {error.strerror or error}.") from None
        renew(self.run_dir)

    def look_at_logs(self) -> None:
        """Checks `metrics.jsonl` for changes since the last fit of a trainer that continues."""
        with suppress(CheckpointError):  # the restore reports a damaged checkpoint
            if self.steps:
                self._mended(bundle.read_manifest(self._store.path(self.steps[-1])))

    def _mended(self, manifest: Mapping[str, Any]) -> dict[str, int]:
        """Returns the log positions of a checkpoint, after `metrics.jsonl` is cut back to it."""
        offsets, digest = dict(manifest["logs"]), manifest.get("log_digests", {}).get(METRICS)
        if METRICS in offsets:
            offsets[METRICS] = mend(self.run_dir / METRICS, offsets[METRICS], digest, manifest["step"])
        return offsets

    def _cut_back(self, offsets: Mapping[str, int]) -> None:
        """Removes everything in the run directory that is newer than the restored checkpoint."""
        self._session.is_untouched = False
        for logger in self._session.loggers:
            logger.rewind(offsets)
        self._store.sweep()

    def check_room(self, variables: state.Variables, kept: int) -> None:
        """Checks whether there is room for checkpoints.

        Args:
            variables: The live state.
            kept: The number of checkpoints that are kept at the end of the run.

        Raises:
            StorageError: If there is no room.
        """
        parts = (state.parts(variable)[0] for variable in variables.values())
        self.saver.check_room(sum(part.shape.num_elements() * part.dtype.size for part in parts), kept)

    def save(
        self,
        step: int,
        variables: state.Variables,
        values: Mapping[str, Any],
        keep_last: int,
        keep: Collection[int],
        verify: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
    ) -> Path:
        """Writes a checkpoint, then deletes checkpoints that are no longer kept; see `Saver`.

        Args:
            step: The number of completed steps.
            variables: The live state.
            values: The other values that a restart needs, in JSON's types and NumPy arrays.
            keep_last: The number of newest checkpoints to keep.
            keep: Steps whose checkpoints are kept too.
            verify: Restores the objects of a checkpoint's values and returns the values again: the checkpoint
                is then read back, and must change nothing. None trusts it.

        Raises:
            CheckpointError: If the read-back differs from what was saved; then no other checkpoint was
                deleted.
            StorageError: If there is no room, and there was none for several saves.
        """
        self._put_back()
        with self._session.wall_time.time("logging"):
            loggers = self._session.loggers
            offsets = {name: size for logger in loggers for name, size in logger.offsets().items()}
            digests = {name: digest for logger in loggers for name, digest in logger.digests().items()}
        arrays = state.read(variables)
        plain, among_values = nested_arrays.lift(values)
        copies = {path: array.copy() for path, array in among_values.items()}
        # A copy, because the caller continues to change it.
        facts = json.loads(json.dumps({"values": plain, "logs": offsets, "log_digests": digests}))

        def proof(path: Path) -> None:
            assert verify is not None
            read_back(path, variables, arrays, values, verify)

        return self.saver.save(
            step,
            arrays | copies,
            facts,
            before=[self.run_dir / name for name in offsets],
            keep_last=keep_last,
            keep=keep,
            proof=None if verify is None else proof,
        )

    def keep_bad_step(
        self, step: int, variables: state.Variables, batch: Any, facts: Mapping[str, Any]
    ) -> Path:
        """Records a step that was not finite: the state before it, and its batch; returns the folder.

        Args:
            step: Its number, from 1.
            variables: The live state, which is the state before the step.
            batch: Its batch.
            facts: Other facts, in JSON's types.
        """
        path = self.run_dir / BAD_STEPS / f"step-{step:08d}"
        parts = {f"batch/{i}": np.asarray(part) for i, part in enumerate(tree.flatten(batch))}
        bundle.write(path, state.read(variables) | parts, {"step": step, **facts})
        return path
