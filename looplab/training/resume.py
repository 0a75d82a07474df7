"""Continues a run: restores state, data, callbacks and logs from its newest good checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from looplab.data import StreamFeed
from looplab.errors import CheckpointError, ConfigurationError
from looplab.optimization import carried_on, restore_factors
from looplab.protocols import Feed
from looplab.runs.directory import earlier_choice
from looplab.training.allow_change import accepted, computes, settle_random, spread_seeds
from looplab.training.checkpoint_folder import CheckpointFolder
from looplab.training.engine.modes import Decision
from looplab.training.fit_plan import FitPlan
from looplab.training.progress import Progress
from looplab.training.session import Session

_log = logging.getLogger("looplab")

FIELDS = "fields_of_steps"
FACTORS = "learning_rate_factors_before"  # absent in checkpoints of the first versions


def restore_run(plan: FitPlan, folder: CheckpointFolder | None, session: Session) -> Progress:
    """Restores the run in the directory, or begins one with its first weights.

    Args:
        plan: The plan of the fit; its epochs become those of the run.
        folder: The checkpoints of the run; None without a run directory.
        session: The session of the run.

    Returns:
        The progress of the run.

    Raises:
        CheckpointError: If the run in the run directory cannot be continued.
        ConfigurationError: If the last fit failed, and there is no state to return to.
    """
    engine, so_far = plan.engine, plan.so_far
    if int(engine.step.numpy()) > 0 and not (folder and folder.steps):
        raise ConfigurationError(
            "the last fit of this trainer failed before its first checkpoint, so there is no state to go "
            "back to. Create a new trainer."
        )
    if folder is not None:
        with session.wall_time.time("start/restore"):
            saved = folder.restore(engine.variables, partial(_accepted_by, plan))
        if saved is not None:
            return _take_up(plan, saved)
        engine.modes.resume(Decision.of_environment(earlier_choice(folder.run_dir)))
    with session.wall_time.time("start/restore"):
        so_far.initialized_from = plan.initialize() if plan.initialize is not None else None
    return Progress()


def _accepted_by(
    plan: FitPlan, saved: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns a checkpoint's arrays for the plan's trainer, if the trainer may continue from them."""
    engine, feed = plan.engine, plan.feed
    arrays = carried_on(arrays, engine.watch)
    progress = Progress.from_json(saved["progress"])
    plan.epochs = progress.go_on_with(feed, plan.initial_epoch)
    settle_random(engine, saved, plan.allow_change)
    now = {"data": feed.position(plan.place(progress.step)), **computes(engine)}
    before = {"data": saved["position"], **saved}
    fitting = accepted(before, now, arrays, engine.variables, plan.allow_change)
    plan.callbacks.refuse_others(saved["callbacks"], "callbacks" in plan.allow_change)
    _warn_of_other_seeds(feed, saved)
    _resume_data(plan, saved)
    return fitting


def _take_up(plan: FitPlan, saved: Mapping[str, Any]) -> Progress:
    """Restores the engine, callbacks, fields and progress from a checkpoint's values."""
    engine = plan.engine
    engine.modes.resume(Decision.of_checkpoint(saved.get("execution")))
    spread_seeds(engine, saved)
    plan.callbacks.restore(saved["callbacks"])
    restore_factors(engine.optimizers, saved.get(FACTORS, {}))
    engine.kept.restore(saved.get(FIELDS, {}))
    if FACTORS not in saved and engine.precision == "float64":
        _log.warning(
            "the run was begun by a version of looplab that rounded learning rates and other numbers of "
            "optimizers to float32; from here on they have the exact given values."
        )
    plan.so_far.initialized_from = saved.get("initialized_from")
    if plan.initialize is not None:
        _log.info("the run continues; %s", _not_again(plan.so_far.initialized_from))
    progress = Progress.from_json(saved["progress"])
    _call_losses_as_now(progress.means.sums, engine.values.noted["train"].returned)
    return progress


def _call_losses_as_now(sums: dict[str, Any], returned: Sequence[str]) -> None:
    """Renames the sums of a continued epoch: earlier the loss of an output `a` was `a`, not `a_loss`."""
    for name in [name for name in sums if name not in returned and f"{name}_loss" in returned]:
        sums[f"{name}_loss"] = sums.pop(name)


def _resume_data(plan: FitPlan, saved: Mapping[str, Any]) -> None:
    try:
        plan.feed.resume_from(saved.get("snapshot"))
    except CheckpointError as error:
        if "data" not in plan.allow_change:
            raise
        _log.warning("the run goes on with other data, as allowed: %s", error)


def _warn_of_other_seeds(feed: Feed, saved: Mapping[str, Any]) -> None:
    """Warns of a stream whose shuffles had other seeds when the run was saved."""
    if isinstance(feed, StreamFeed) and saved.get("seeds", now := feed.seeds()) != now:
        _log.warning(
            "the shuffles of the tf.data stream have the seeds %s, and had %s when the run was saved, so its "
            "order is another one: the run repeats some examples and misses others. TensorFlow mixes its "
            "global seed, which a Trainer sets, into that of a shuffle: give each shuffle a seed, and create "
            "the Dataset where you did before, either before the trainer or after it.",
            now,
            saved["seeds"],
        )


def _not_again(before: str | None) -> str:
    """Explains the role of `initialize_from` for a run that has begun."""
    if before is None:
        return (
            "initialize_from is not used: the run began without it. Choose another run_dir to begin with it"
        )
    return f"initialize_from was used at its start ({before})"
