"""One run while it goes on: where it stands, what was asked of it, and all the loop works with."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras

from looplab.callbacks import CallbackList, Event
from looplab.checkpoint import Policy, Saver
from looplab.errors import ConfigurationError
from looplab.execution import ChunkSize, CompiledLoop, Shown
from looplab.execution.step_means import StepMeans
from looplab.interval import Interval
from looplab.optimization import SpikeWatch
from looplab.protocols import Feed, Logger, Values
from looplab.runs.epochs import ENDLESS, Epochs
from looplab.runs.signals import Request
from looplab.runs.wall_time import Ledger, Moment


@dataclass
class Progress:
    """Where a run stands, beyond its variables; saved with every checkpoint.

    Attributes:
        step: Completed steps.
        settled: The last step whose evaluation, epoch end and checkpoint are done.
        epochs: Where epochs begin and end; None before the first fit, and in checkpoints of earlier versions.
        seen: Examples of all steps so far; None where that is not known.
        means: Sums over the present epoch.
        top: Monitor, value, step, epoch and values of the best evaluations so far, best first.
        incidents: Steps that failed and that the run went on after; see `looplab.training.nonfinite_policy`.
    """

    step: int = 0
    settled: int = 0
    means: StepMeans = field(default_factory=StepMeans)
    top: list[dict[str, Any]] = field(default_factory=list)
    incidents: int = 0
    epochs: Epochs | None = None
    seen: int | None = 0

    @property
    def best(self) -> dict[str, Any] | None:
        """The best evaluation so far, or None."""
        return self.top[0] if self.top else None

    def to_json(self) -> dict[str, Any]:
        """Returns it in JSON's types."""
        return {
            "step": self.step,
            "settled": self.settled,
            "sums": self.means.sums,
            "top": self.top,
            "incidents": self.incidents,
            "epochs": None if self.epochs is None else self.epochs.to_json(),
            "seen": self.seen,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Progress:
        """Reads what `to_json` gave."""
        means = StepMeans(saved["sums"])
        epochs = Epochs(**saved["epochs"]) if saved.get("epochs") else None
        incidents, seen = saved.get("incidents", 0), saved.get("seen")
        return cls(saved["step"], saved["settled"], means, saved["top"], incidents, epochs, seen)

    def go_on_with(self, feed: Feed) -> Epochs:
        """Returns the epochs of the data with which the run begins, or goes on.

        What an epoch that is left in its middle came to so far is forgotten.
        """
        before, own = self.epochs, epochs_of(feed)
        self.epochs = own.follow(before, self.step)
        if before is not None and self.epochs is not before:
            self.means = StepMeans()
            counted = feed.examples(self.epochs.place(self.step, feed))
            if counted is not None and self.seen is not None:
                self.epochs = replace(self.epochs, surplus=counted - self.seen)
        return self.epochs


def epochs_of(feed: Feed) -> Epochs:
    """Returns the epochs of a feed for a run that begins with it, also if there is but one without end."""
    length = feed.steps_per_epoch
    return Epochs(ENDLESS) if length is None else Epochs(length, feed.examples(length))


class Controls:
    """What callbacks and signals ask of the loop; see `looplab.protocols.Controls`."""

    def __init__(
        self,
        scale: Callable[[float, str | None], None],
        rebuild: Callable[[], None],
        request: Request,
        taken: Collection[str] = (),
    ) -> None:
        """Starts with nothing asked.

        Args:
            scale: Multiplies the learning-rate factor of one optimizer, or of all.
            rebuild: Forgets the traces of the steps.
            request: What is asked from outside.
            taken: Tags that training itself logs.
        """
        self.reason: str | None = None
        self.request = request
        self.save_asked = False
        self.logged: dict[str, float] = {}  # until the loop hands them to the loggers
        self.shown: dict[str, tuple[str, Any]] = {}  # likewise: kind and data by tag
        self._scale, self._rebuild, self._taken = scale, rebuild, taken

    def stop(self, reason: str) -> None:
        """See `looplab.protocols.Controls`."""
        self.reason = self.reason or reason

    def save(self) -> None:
        """See `looplab.protocols.Controls`."""
        self.save_asked = True

    def scale_learning_rate(self, factor: float, optimizer: str | None = None) -> None:
        """See `looplab.protocols.Controls`."""
        self._scale(factor, optimizer)

    def log(self, values: Values) -> None:
        """See `looplab.protocols.Controls`.

        Raises:
            ConfigurationError: If training itself logs a value under one of these tags.
        """
        for name in values:
            if name in self._taken:
                raise ConfigurationError(
                    f"controls.log: {name!r} is logged by training itself, and one tag has one value at a "
                    f"step. Call it something else, such as {f'callback/{name}'!r}."
                )
        self.logged |= {name: float(value) for name, value in values.items()}

    def show(self, tag: str, kind: str, data: Any) -> None:
        """See `looplab.protocols.Controls`."""
        self.shown[tag] = kind, data

    def rebuild(self) -> None:
        """See `looplab.protocols.Controls`."""
        self._rebuild()


@dataclass(frozen=True)
class Evaluation:
    """One validation set, and when it is evaluated.

    Attributes:
        split: Its name; `"validation"` where there is but one.
        feed: Its batches.
        every: The interval of training; an evaluation is due at the end of training too.
        values: Evaluates, given a function that says whether to give up and where the time is counted;
            returns None when it gave up.
        pictures: Gives kind and data of what the metrics of the last evaluation show, by tag.
    """

    split: str
    feed: Feed
    every: Interval
    values: Callable[[Callable[[], bool], Ledger], dict[str, float] | None]
    pictures: Callable[[], dict[str, tuple[str, Any]]]


@dataclass
class Run:
    """Everything one `fit` works with, put together by the trainer.

    Attributes:
        total_steps: Completed steps at which to end.
        epochs: Where epochs begin and end.
        progress: Where the run stands; changed in place.
        models: By name, for events.
        optimizers: By name, for events.
        execution: Gives what runs steps, which a callback may have had rebuilt.
        feed: Gives their batches.
        pace: Says how many at once.
        callbacks: Who is notified.
        loggers: Where records go.
        controls: What was asked for meanwhile.
        policy: When to save and what is best.
        log_every: The interval of steps whose own values are recorded.
        shows: What steps show beside their scalars, by tag.
        evaluations: The validation sets.
        epoch_values: Gives the training metrics of the epoch so far and the learning rate.
        epoch_pictures: Gives kind and data of what they show, by tag.
        begin_epoch: Forgets the training metrics.
        save: Begins to write a checkpoint and returns its folder; None without a run directory.
        saver: Who writes it; None likewise.
        tell: Says where the run is: `(step, epoch, values)`.
        run_dir: Where the run is recorded, or None.
        ledger: Where its time is counted.
        beat: Says that the run moves, and at which step; see `looplab.runs.watchdog`.
        on_nonfinite: One of `looplab.optimization.POLICIES`.
        watch: Knows of a step that failed whether its loss leapt, and what is done then; None if none can.
        pass_over: Counts a step that was not made.
        keep_bad_step: Writes down the step that failed, from its values, and says where; None without a run
            directory.
        go_back: Puts everything back to the newest checkpoint; None likewise.
    """

    total_steps: int
    epochs: Epochs
    progress: Progress
    models: Mapping[str, keras.Model]
    optimizers: Mapping[str, keras.optimizers.Optimizer]
    execution: Callable[[], CompiledLoop]
    feed: Feed
    pace: ChunkSize
    callbacks: CallbackList
    loggers: list[Logger]
    controls: Controls
    policy: Policy
    log_every: Interval
    shows: Mapping[str, Shown]
    evaluations: tuple[Evaluation, ...]
    epoch_values: Callable[[], dict[str, float]]
    epoch_pictures: Callable[[], dict[str, tuple[str, Any]]]
    begin_epoch: Callable[[], None]
    save: Callable[[], Path] | None
    saver: Saver | None
    tell: Callable[[int, int, Callable[[], dict[str, float]]], None]
    run_dir: Path | None
    ledger: Ledger
    beat: Callable[[int], None]
    on_nonfinite: str
    watch: SpikeWatch | None
    pass_over: Callable[[], None]
    keep_bad_step: Callable[[Mapping[str, float]], Path] | None
    go_back: Callable[[], None] | None
    began: float = field(default_factory=time.monotonic)
    epoch_began: Moment = Moment({}, {})  # noqa: RUF009 - immutable
    saved_at: float = field(default_factory=time.monotonic)
    saved_step: int = -1
    skipped_saves: int = 0
    warned: bool = False
    of_example: Mapping[str, int] = field(default_factory=dict)  # see `looplab.execution.flops`
    advised: bool = False  # that steps wait for batches
    waited: float = 0.0  # seconds for which they had when that was looked at last
    failed: dict[str, float] | None = None  # values of the step that was not finite
    bad_batch: Any = None  # of that step, if it is at hand

    def asked_to_end(self) -> bool:
        """Whether a signal has asked for it; whoever asks moves."""
        self.beat(self.progress.step)
        return bool(self.controls.request)

    def epoch(self, step: int) -> int:
        """Returns the epoch that a completed step belongs to, from 1."""
        return self.epochs.epoch(step)

    def event(self, kind: type[Event] = Event, **more: Any) -> Any:
        """Makes an event at the present step."""
        step, epochs = self.progress.step, self.epochs
        where = step, epochs.epoch(step), self.total_steps, epochs.length, self.run_dir
        live = (MappingProxyType(dict(named)) for named in (self.models, self.optimizers))
        return kind(*where, *live, epoch_step=epochs.within(step), **more)

    def next_step(self, interval: Interval, step: int) -> int:
        """Returns the first step after `step` at which an interval is due."""
        return self.epochs.next_step(interval, step, self.examples)

    def place(self, step: int) -> int:
        """Returns the step by which the feed knows a step of the run."""
        return self.epochs.place(step, self.feed)

    def examples(self, step: int) -> int | None:
        """Returns how many examples `step` steps have seen in all, or None if unknown."""
        found = self.feed.examples(self.place(step))
        return None if found is None else found - self.epochs.surplus

    def is_due(self, interval: Interval, step: int | None = None) -> bool:
        """Whether an interval is due at a completed step, the present one if none is given."""
        step = self.progress.step if step is None else step
        return step > 0 and self.next_step(interval, step - 1) == step
