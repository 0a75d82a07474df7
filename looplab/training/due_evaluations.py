"""The evaluations of a run that are due at a step; those that are interrupted leave nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import MappingProxyType, TracebackType
from typing import Self

from looplab.callbacks import EvaluateEvent
from looplab.checkpoint.held_values import HeldValues
from looplab.runs.tags import EPOCH
from looplab.training.evaluation import Evaluation
from looplab.training.run_state import Run


def evaluate_due(run: Run, due: Sequence[Evaluation]) -> dict[str, float] | None:
    """Evaluates on the sets that are due, and tells everyone; None if it was interrupted.

    Returns the values by the names of monitors, with what callbacks logged.

    Nobody is told before all are done, so an interruption leaves nothing half told.
    """
    if not due:
        return {}
    found = []
    with _Attempt(run) as attempt:
        for evaluation in due:
            with run.wall_time.time("callbacks"):
                run.plan.callbacks.call("on_evaluate_begin", run.event(), run.controls)
            began = time.monotonic()
            run.wall_time.retraces += run.plan.engine.notice_changes(run.plan.owner, trains=True)
            with run.wall_time.time("evaluation"):
                batches = run.plan.callbacks.batches(run.event(), run.controls)
                values = evaluation.evaluator.run(run.asked_to_end, run.wall_time, batches)
            if values is None:
                attempt.undo()
                return None
            found.append((evaluation, values, evaluation.evaluator.pictures, time.monotonic() - began))
    monitors: dict[str, float] = {}
    for evaluation, values, pictures, took in found:
        tags = {f"{EPOCH}{name}": value for name, value in values.items()}
        timing = {"seconds": run.recorder.seconds, "evaluation_seconds": took}
        run.recorder.write(evaluation.split, tags, timing)
        run.recorder.show(evaluation.split, pictures)
        logged = MappingProxyType(run.controls.logged)
        event = run.event(EvaluateEvent, split=evaluation.split, values=values, logged=logged)
        monitors |= event.monitors
        monitors |= run.notify("on_evaluate", event)
    return monitors


class _Attempt:
    """The evaluations of a step within a block, which may be interrupted or fail: then they begin again.

    A step of evaluation may change variables (random generators, counters), and training that goes on sees
    them, so evaluations that begin again must begin from the same values.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        with run.wall_time.time("evaluation"):
            self._values = HeldValues(run.plan.engine.variables)
        with run.wall_time.time("callbacks"):
            self._callbacks = run.plan.callbacks.before_evaluations()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._values.put_back()

    def undo(self) -> None:
        """Makes variables and callbacks what they were, and forgets what callbacks asked to log."""
        self._values.put_back()
        self._callbacks()
        self._run.controls.take_logged()
