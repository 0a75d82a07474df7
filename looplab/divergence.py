"""A step whose loss or gradient is not finite: it was undone, and what comes now is chosen by the person.

`stop` ends the run. `skip` goes on with the next batch, as if the step's update had not been due: right where
single batches are bad. `rollback` goes back to the newest checkpoint, data and logs included, and trains from
there with half the learning rate: right where training itself became unstable. Both are bounded, and what was
used of the bound is saved, so that it holds over restarts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import numpy as np

from looplab.protocols import Steps
from looplab.run import Run

_log = logging.getLogger("looplab")

POLICIES = ("stop", "skip", "rollback", "ignore")
LIMIT = 10  # steps that are skipped, or times that a run goes back, in all
_SLOWER = 0.5  # of the learning rate, each time


def met(run: Run) -> Steps | None:
    """Does what is to be done about the step that failed, after those that are completed.

    Returns:
        That step, if it counts as one that is completed; None where it does not.
    """
    assert run.failed is not None
    progress, step = run.progress, run.progress.step + 1
    where = _kept(run, run.failed)
    if run.on_nonfinite == "stop" or progress.incidents >= LIMIT:
        return None
    progress.incidents += 1
    count = f"{progress.incidents} of at most {LIMIT} times"
    if run.on_nonfinite == "skip":
        _log.warning("step %d is skipped (%s): %s%s", step, count, why(run.failed), where)
        values = {name: np.array([value]) for name, value in run.failed.items()}
        run.pass_over()
        progress.step, run.failed = step, None
        run.feed.seek(step)
        return Steps(1, values, {}, None, None, {})
    assert run.go_back is not None
    incidents, said = progress.incidents, why(run.failed)
    run.go_back()
    progress.incidents, run.failed = incidents, None
    run.controls.scale_learning_rate(_SLOWER, None)
    slower = "back at step %d, with half the learning rate"
    _log.warning(f"step %d failed (%s): %s%s; {slower}", step, count, said, where, progress.step)
    run.controls.save()
    return None


def _kept(run: Run, values: Mapping[str, float]) -> str:
    """Has the step written down, and says where, as far as that is possible."""
    if run.keep_bad_step is None:
        return ""
    try:
        return f"; the step and its batch are in {run.keep_bad_step(values)}"
    except OSError as error:  # a full disk is no reason to end otherwise than was asked for
        return f"; the step and its batch could not be written down: {error.strerror or error}"


def why(values: Mapping[str, float]) -> str:
    """Returns what of a step was not finite, in words."""
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    return ", ".join(bad) or "a gradient is not finite"


def message(values: Mapping[str, float], step: int, incidents: int) -> str:
    """Returns what a person is told whose run ends by it.

    Args:
        values: Of the step that failed.
        step: Completed steps before it.
        incidents: How often the run has gone on after such a step.
    """
    before = f" {incidents} such steps were met before, which is the most." if incidents >= LIMIT else ""
    return (
        f"training diverged in step {step + 1}: {why(values)}. That update was not made; the state is that "
        f"of step {step}.{before} Try a lower learning rate, or clipped gradients (global_clipnorm of the "
        "optimizer); look for logarithms and divisions of zero. on_nonfinite='skip' leaves such steps out, "
        "'rollback' goes back and trains on more slowly, 'ignore' goes on regardless."
    )
