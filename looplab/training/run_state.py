"""The state of one run: its plan, its progress, and the objects that record and save it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from looplab.callbacks import Event
from looplab.runs.wall_time import Moment, WallTime
from looplab.training.checkpointing import Checkpoints
from looplab.training.controls import RunControls
from looplab.training.fit_plan import FitPlan
from looplab.training.progress import Progress
from looplab.training.records import Recorder


@dataclass
class Run:
    """Everything that the loop works with.

    Attributes:
        plan: What is trained, on which data, for how long; when to log, evaluate and save.
        progress: The progress of the run; changed in place.
        controls: The requests of callbacks and signals.
        recorder: Passes the values of the run to the loggers.
        checkpoints: Saves the run and rolls it back.
        wall_time: Counts its time.
        beat: Tells the watchdog that the run moves, and its step; see `looplab.runs.watchdog`.
        run_dir: The directory in which the run is recorded, or None.
        of_example: Tokens and FLOPs of an example; see `looplab.execution.flops`.
        epoch_began: The start of the time of the present epoch's record.
        failed: The values of a step that failed and was not handled yet.
        bad_batch: Its batch, if it is available.
        span: The steps between which no callback runs, so that only steps change anything.
    """

    plan: FitPlan
    progress: Progress
    controls: RunControls
    recorder: Recorder
    checkpoints: Checkpoints
    wall_time: WallTime
    beat: Callable[[int], None]
    run_dir: Path | None = None
    of_example: Mapping[str, int] = field(default_factory=dict)
    epoch_began: Moment = Moment({}, {})  # noqa: RUF009 - immutable
    failed: dict[str, float] | None = None
    bad_batch: Any = None
    span: tuple[int, int] = (-1, -1)

    def asked_to_end(self) -> bool:
        """Whether a signal requested the end; each call tells the watchdog that the run moves."""
        self.beat(self.progress.step)
        request = self.controls.request
        numbers = self.plan.engine.agreement.exchange("stop request", request.number)
        if not request:  # a signal may have arrived meanwhile
            request.number = next((number for number in numbers if number is not None), request.number)
        return bool(request)

    def event(self, kind: type[Event] = Event, **more: Any) -> Any:
        """Creates an event at the present step."""
        plan, step = self.plan, self.progress.step
        where = step, plan.epochs.epoch(step), plan.total_steps, plan.epochs.length, self.run_dir
        live = (MappingProxyType(dict(named)) for named in (plan.engine.models, plan.engine.optimizers))
        return kind(*where, *live, epoch_step=plan.epochs.within(step), **more)

    def epoch_values(self) -> dict[str, float]:
        """Returns the means of the present epoch so far, and the learning rates."""
        means = self.progress.means.result()
        own = self.plan.engine.values.of_epoch()
        return means | {name: value for name, value in own.items() if name not in means}

    def notify(self, hook: str, event: Event) -> dict[str, float]:
        """Calls a hook of every callback, and returns the values that they logged."""
        with self.wall_time.time("callbacks"):
            self.plan.callbacks.call(hook, event, self.controls)
        return self.recorder.requested(self.controls)
