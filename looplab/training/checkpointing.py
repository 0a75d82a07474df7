"""Decides when a run saves, what it keeps, and how it rolls back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from looplab.data import StreamFeed
from looplab.data.pipeline_inspection import keeps_place
from looplab.errors import is_abort
from looplab.interval import Interval
from looplab.loggers import in_json
from looplab.optimization import factors_before, restore_factors
from looplab.runs.wall_time import WallTime
from looplab.training.allow_change import computes, random_rule
from looplab.training.audit import Audit
from looplab.training.checkpoint_folder import CheckpointFolder
from looplab.training.fit_plan import FitPlan
from looplab.training.progress import Progress
from looplab.training.resume import FACTORS, FIELDS

_log = logging.getLogger("looplab")

_PATIENCE = 5.0  # seconds that a save waits for the one before, which is rarely still written
_ABORT = 2.0  # seconds


class Checkpoints:
    """The checkpoints of a run without a directory: there are none, and none is ever due."""

    intervals: tuple[Interval, ...] = ()  # of steps, at which executions end

    def __enter__(self) -> Self:
        """Starts."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends; an exception propagates."""

    @property
    def is_saved(self) -> bool:
        """Whether nothing of the present step is left to save."""
        return True

    def is_due(self) -> bool:
        """Whether the policy requires a checkpoint at the present step."""
        return False

    def must_keep(self) -> bool:
        """Whether the present step's checkpoint is kept for good."""
        return False

    def before_steps(self) -> None:
        """Prepares for an execution of steps; called before each."""

    def save(self) -> Path | None:
        """Starts to write a checkpoint of the present step; returns its folder, or None if there is none."""
        return None

    def is_busy(self) -> bool:
        """Whether an earlier checkpoint is still being written, after a short wait."""
        return False

    def wait(self) -> None:
        """Waits until the saved checkpoint can be read."""

    def finish(self) -> None:
        """Waits until the saved checkpoint is safe on the disk."""

    def keep_bad_step(self, values: Mapping[str, float], batch: Any) -> Path | None:
        """Records the step that failed, and returns its folder; None without a directory.

        Args:
            values: The values of the step.
            batch: Its batch, if it is available; otherwise None.
        """
        return None

    def roll_back(self) -> None:
        """Restores everything from the newest checkpoint."""
        raise NotImplementedError("a run without a run_dir has nothing to go back to")


class RunCheckpoints(Checkpoints):
    """The checkpoints of a run with a directory.

    All its time counts as time for checkpoints.
    """

    def __init__(
        self, plan: FitPlan, progress: Progress, folder: CheckpointFolder, audit: Audit, wall_time: WallTime
    ) -> None:
        """Saves nothing yet.

        Args:
            plan: Determines what is saved, when, and what is kept.
            progress: The progress of the run; `roll_back` changes it in place.
            folder: The folder of the checkpoints.
            audit: Looks for values that checkpoints do not hold.
            wall_time: The object that counts the time.
        """
        self._plan, self._progress, self._folder = plan, progress, folder
        self._audit, self._wall_time = audit, wall_time
        policy = plan.policy
        offered = [each for each in (policy.interval, policy.kept_interval) if each is not None]
        self.intervals = tuple(each for each in offered if not each.wall_clock)
        self._computes = computes(plan.engine)
        self._keeps_place = keeps_place(plan.feed)
        self._saved_at, self._saved_step, self._skipped = time.monotonic(), -1, 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the checkpoint that is being written; an exception propagates."""
        saver = self._folder.saver
        if is_abort(error):
            saver.is_busy(_ABORT)  # the process aborts, but finishes a half-written file
            return
        try:
            saver.wait()
        except Exception as late:  # the run has ended for another reason
            _log.warning("a save failed as well: %s", late)

    @property
    def is_saved(self) -> bool:
        """Whether the present step has its checkpoint."""
        return self._saved_step == self._progress.step

    def is_due(self) -> bool:
        """Whether the policy's interval, in steps or wall-clock time, ends at the present step."""
        interval = self._plan.policy.interval
        if interval.wall_clock:
            due = time.monotonic() - self._saved_at >= interval.seconds
            return self._plan.engine.agreement.decide("checkpoint due by the clock", due)
        return self._plan.is_due(interval, self._progress.step)

    def must_keep(self) -> bool:
        """Whether the interval of checkpoints that are kept for good ends at the present step."""
        kept = self._plan.policy.kept_interval
        return kept is not None and self._plan.is_due(kept, self._progress.step)

    def before_steps(self) -> None:
        """Refuses values that cannot be saved, and raises the error of a save that failed in its thread."""
        self._folder.saver.check()
        self._folder.remember_files()
        self._audit.begin(self._values)

    def save(self) -> Path:
        """Starts to write a checkpoint of the present step, and returns its folder."""
        with self._wall_time.time("checkpoint") as block:
            path = self._save()
        self._wall_time.stalls.append(block.seconds)
        self._saved_at, self._saved_step = time.monotonic(), self._progress.step
        return path

    def is_busy(self) -> bool:
        """Whether an earlier checkpoint is still being written; warns that this one is then left out."""
        with self._wall_time.time("checkpoint"):
            busy = self._folder.saver.is_busy(_PATIENCE)
            busy = self._plan.engine.agreement.decide("checkpoint still being written", busy)
        if busy:
            self._skipped += 1
            _log.warning(
                "the checkpoint of step %d is left out (%d so far): an earlier one is still being written",
                self._progress.step,
                self._skipped,
            )
        return busy

    def wait(self) -> None:
        """Waits until the saved checkpoint can be read; the time counts as time for checkpoints."""
        with self._wall_time.time("checkpoint"):
            self._folder.saver.wait()

    def finish(self) -> None:
        """Waits until the saved checkpoint is safe on the disk; the time counts in the same way."""
        with self._wall_time.time("checkpoint"):
            self._folder.saver.finish()

    def keep_bad_step(self, values: Mapping[str, float], batch: Any) -> Path:
        """Records the step that failed with its batch, which is read again if it is not available."""
        engine, feed, step = self._plan.engine, self._plan.feed, self._progress.step
        facts = {
            "values": in_json(values),
            "limit": None if engine.watch is None else engine.watch.exceeded(values),
            "examples": feed.rows(self._plan.place(step)),
            "execution": engine.how(),
        }
        batch = feed.batch(self._plan.place(step)) if batch is None else batch
        return self._folder.keep_bad_step(step + 1, engine.variables, batch, facts)

    def roll_back(self) -> None:
        """Restores variables, callbacks, fields, data and progress from the newest checkpoint."""
        plan, engine = self._plan, self._plan.engine
        self._folder.saver.wait()
        saved = self._folder.restore(engine.variables)
        assert saved is not None
        plan.callbacks.restore(saved["callbacks"])
        restore_factors(engine.optimizers, saved.get(FACTORS, {}))
        engine.kept.leave()
        engine.kept.restore(saved.get(FIELDS, {}))
        engine.kept.apply()
        plan.feed.resume_from(saved.get("snapshot"))
        vars(self._progress).update(vars(Progress.from_json(saved["progress"])))
        plan.go_on(self._progress)
        plan.feed.seek(plan.place(self._progress.step))

    def _save(self) -> Path:
        self._audit.look_again()
        self._folder.saver.wait()  # its checkpoint counts among those that are kept
        policy, step = self._plan.policy, self._progress.step
        keep = {found["step"] for found in self._progress.top}
        if policy.kept_interval is not None:
            keep |= {s for s in self._folder.steps if self._plan.is_due(policy.kept_interval, s)}
        verify: Callable[..., Any] | None = self._restored if policy.verify else None
        return self._folder.save(
            step, self._plan.engine.variables, self._values(), policy.keep_last, keep, verify
        )

    def _values(self) -> dict[str, Any]:
        """Returns the values that a checkpoint holds in addition to the variables."""
        plan, place = self._plan, self._plan.place(self._progress.step)
        fields = plan.engine.kept.state()
        return {
            "progress": self._progress.to_json(),
            "callbacks": plan.callbacks.state(),
            "position": plan.feed.position(place),
            "snapshot": plan.feed.snapshot(place) if self._keeps_place else None,
            "execution": plan.engine.how(),
            FACTORS: factors_before(plan.engine.optimizers),
            **({FIELDS: fields} if fields else {}),
            **self._computes,
            "random": random_rule(self._plan.engine),  # a field that a step reads may have changed it
            **({"seeds": plan.feed.seeds()} if isinstance(plan.feed, StreamFeed) else {}),
            "initialized_from": plan.so_far.initialized_from,
        }

    def _restored(self, saved: dict[str, Any]) -> dict[str, Any]:
        """Restores a checkpoint's values, and reads them again from the restored objects."""
        callbacks = self._plan.callbacks
        callbacks.restore(saved["callbacks"])
        again = Progress.from_json(saved["progress"]).to_json()
        return {**saved, "progress": again, "callbacks": callbacks.state()}
