"""Reacts to a step whose loss or gradient is not finite, or whose loss spikes; it was undone before.

`stop` ends the run. `skip` continues with the next batch, as if the step's update had not been due; use it if
single batches are bad. `rollback` returns to the newest checkpoint, including data and logs, and trains from
there with half the learning rate; use it if training itself became unstable. Both are bounded, and the used
part of the bound is saved, so it holds over restarts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from looplab.protocols import Steps
from looplab.training.fit_plan import FitPlan
from looplab.training.run_state import Run

_log = logging.getLogger("looplab")

LIMIT = 10  # skipped steps and rollbacks, in total
_SLOWER = 0.5  # of the learning rate, each time


def may_go_back(plan: FitPlan) -> bool:
    """Whether the run may have to go back to a checkpoint."""
    watch = plan.engine.watch
    return "rollback" in (plan.on_nonfinite, watch and watch.detection.policy)


def met(run: Run) -> Steps | None:
    """Reacts to the step that failed, after the completed steps before it are settled.

    Returns:
        That step, if it counts as completed; otherwise None.
    """
    assert run.failed is not None
    progress, step = run.progress, run.progress.step + 1
    cause = run.plan.engine.agreement.decide("what becomes of a failed step", _cause(run))
    where = _kept(run, run.failed)
    if cause.policy == "stop" or progress.incidents >= LIMIT:
        return None
    progress.incidents += 1
    count = f"{progress.incidents} of at most {LIMIT} times"
    if cause.policy == "skip":
        _log.warning("step %d is skipped (%s): %s%s", step, count, cause.said, where)
        values = {name: np.array([value]) for name, value in run.failed.items()}
        run.plan.engine.step.assign_add(1)
        progress.step, run.failed = step, None
        run.plan.feed.seek(run.plan.place(step))
        return Steps(1, values, {}, None, None, {})
    incidents = progress.incidents
    run.checkpoints.roll_back()
    progress.incidents, run.failed = incidents, None
    run.controls.scale_learning_rate(_SLOWER, None)
    slower = "back at step %d, with half the learning rate"
    _log.warning(f"step %d failed (%s): %s%s; {slower}", step, count, cause.said, where, progress.step)
    run.controls.save()
    return None


def _kept(run: Run, values: Mapping[str, float]) -> str:
    """Records the step, and returns a text that names the place, or the reason why it failed."""
    try:
        folder = run.checkpoints.keep_bad_step(values, run.bad_batch)
    except OSError as error:  # a full disk must not change how the run ends
        return f"; the step and its batch could not be saved: {error.strerror or error}"
    return "" if folder is None else f"; the step and its batch are in {folder}"


class _Cause(NamedTuple):
    """Why a step failed.

    Attributes:
        said: The cause as text.
        key: The setting that determines the reaction.
        policy: The reaction.
    """

    said: str
    key: str
    policy: str


def _cause(run: Run) -> _Cause:
    assert run.failed is not None
    watch = run.plan.engine.watch
    limit = None if watch is None else watch.exceeded(run.failed)
    if watch is None or limit is None:
        bad = [f"{name} is {value}" for name, value in run.failed.items() if not math.isfinite(value)]
        return _Cause(", ".join(bad) or "a gradient is not finite", "on_nonfinite", run.plan.on_nonfinite)
    detection = watch.detection
    leaps = f"{detection.monitor} rises to {run.failed[detection.monitor]:.6g}"
    return _Cause(
        f"{leaps}, above {limit:.6g} (of the last {detection.window} steps)",
        "spikes.policy",
        detection.policy,
    )


def message(run: Run) -> str:
    """Returns the error message of a run that ends with the step that failed."""
    cause, step, incidents = _cause(run), run.progress.step, run.progress.incidents
    before = f" {incidents} such steps failed before, which is the limit." if incidents >= LIMIT else ""
    return (
        f"training diverged in step {step + 1}: {cause.said}. That update was not made; the state is that "
        f"of step {step}.{before} Try a lower learning rate, or clipped gradients (global_clipnorm of the "
        f"optimizer); look for logarithms and divisions of zero. {cause.key}='skip' leaves such steps out, "
        "'rollback' goes back and continues with a lower learning rate, 'ignore' continues regardless."
    )
