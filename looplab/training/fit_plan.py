"""The plan of one fit: everything is created and prepared, and nothing has begun."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from looplab import optimization
from looplab import strategy as replication
from looplab.callbacks import CallbackList, Event, Monitor, may_log
from looplab.checkpoint import Policy
from looplab.data.pipeline_inspection import resumes
from looplab.errors import ConfigurationError, Problem, Refused, nearest
from looplab.interval import Interval
from looplab.loggers import value_names
from looplab.options import bounds
from looplab.options.directions import direction, guessed, is_guess
from looplab.protocols import Feed
from looplab.runs.epochs import Epochs
from looplab.training import plan_text
from looplab.training.audit import refuse_outsiders, refuse_strays
from looplab.training.engine.engine import Engine
from looplab.training.engine.mode_selection import foreseen
from looplab.training.evaluation import Evaluation
from looplab.training.progress import Progress, RunSoFar, epochs_of

_log = logging.getLogger("looplab")


@dataclass(frozen=True)
class Length:
    """The length of a run: up to an epoch, or up to a step.

    Attributes:
        epochs: The last epoch.
        steps: The last step, instead of the last epoch.
    """

    epochs: int | None
    steps: int | None

    def last_step(self, epochs: Epochs) -> int:
        """Returns the last step of a run with these epochs."""
        return epochs.last_step(self.epochs or 1) if self.steps is None else self.steps


def read_length(
    epochs: int | None, steps: int | None, steps_per_epoch: int | None, initial_epoch: int = 0
) -> Length:
    """Reads the length of training.

    Raises:
        ConfigurationError: If both are given, or if none is given and an epoch has no end.
    """
    if epochs is not None and steps is not None:
        raise ConfigurationError(f"epochs={epochs} and steps={steps}: give one of the two.")
    epochs, steps = (
        None if value is None else bounds.whole(name, value, bounds.COUNT)
        for name, value in (("epochs", epochs), ("steps", steps))
    )
    if epochs is not None and steps_per_epoch is not None:
        bounds.whole(f"epochs={epochs} of {steps_per_epoch} steps", epochs * steps_per_epoch, bounds.COUNT)
    if steps is None and steps_per_epoch is None:
        raise ConfigurationError(
            "make_batch never ends: set how long to train, fit(steps=...), or how long an epoch is, "
            "fit(epochs=..., steps_per_epoch=...)."
        )
    if initial_epoch != 0:
        bounds.whole("initial_epoch", initial_epoch, bounds.COUNT)
        if steps is None and (epochs or 1) <= initial_epoch:
            raise ConfigurationError(
                f"initial_epoch={initial_epoch}: so many epochs count as done, but epochs={epochs or 1} is "
                "the last one, so nothing is left to train."
            )
    return Length(epochs, steps)


@dataclass
class FitPlan:
    """The plan of one fit; everything is created and prepared, and nothing has begun.

    Attributes:
        engine: Prepared for training on `feed`, and for testing if there are evaluations.
        feed: The training batches.
        evaluations: The validation sets.
        length: The length of training.
        callbacks: The callbacks of the trainer and of this fit.
        policy: When to save, and which evaluation is best.
        log_every: The interval of steps whose own values are logged.
        on_nonfinite: One of `looplab.optimization.POLICIES`; see `looplab.training.nonfinite_policy`.
        so_far: The facts about the run from earlier fits; changed in place.
    allow_change: The settings that may differ from when the run was saved; see `looplab.training.resume`.
    initialize: Gives a new run its first weights and returns their source, or None if other weights were
        restored; None keeps the weights with which the models were created.
    owner: The trainer; the audit reads its fields.
    moved: The fields of the trainer that the first call of `make_batch` has changed.
    initial_epoch: The number of epochs that count as done when the run begins.
    drawn: The process's random generators that moved while the feed was created.
    epochs: The limits of epochs: those of the feed, until the run reports its earlier epochs.
    """

    engine: Engine
    feed: Feed
    evaluations: tuple[Evaluation, ...]
    length: Length
    callbacks: CallbackList
    policy: Policy
    log_every: Interval
    on_nonfinite: str
    so_far: RunSoFar
    allow_change: Sequence[str] = ()
    initialize: Callable[[], str | None] | None = None
    owner: Any = None
    drawn: Collection[str] = ()
    moved: Collection[str] = ()
    initial_epoch: int = 0
    epochs: Epochs = field(init=False)

    def __post_init__(self) -> None:
        """Saves by the clock if an epoch has no end, which would never be saved otherwise."""
        self.epochs = epochs_of(self.feed, self.initial_epoch)
        if not self.feed.steps_per_epoch and self.policy.interval.unit == "ep":
            self.policy = replace(self.policy, every="10min")

    @property
    def total_steps(self) -> int:
        """The number of completed steps at which to end."""
        return self.length.last_step(self.epochs)

    def place(self, step: int) -> int:
        """Returns the feed's own step for a step of the run."""
        return self.epochs.place(step, self.feed)

    def examples(self, step: int) -> int | None:
        """Returns the number of examples in the first `step` steps, or None if it is not known."""
        found = self.feed.examples(self.place(step))
        return None if found is None else found - self.epochs.surplus

    def next_step(self, interval: Interval, step: int) -> int:
        """Returns the first step after `step` at which an interval is due."""
        return self.epochs.next_step(interval, step, self.examples)

    def is_due(self, interval: Interval, step: int) -> bool:
        """Whether an interval is due at a completed step."""
        return step > 0 and self.next_step(interval, step - 1) == step

    def go_on(self, progress: Progress) -> None:
        """Starts or continues the epochs of a run with the data of this fit."""
        before = progress.epochs
        self.epochs = progress.go_on_with(self.feed, self.initial_epoch)
        if before is not None and before != self.epochs:
            self.engine.values.begin_epoch()  # an epoch was left in its middle
            _log.info(
                "epochs have %d steps from here on, %d before: epoch %d begins",
                self.epochs.length,
                before.length,
                self.epochs.done(progress.step) + 1,
            )

    def describe(self, done: int = 0) -> list[tuple[str, str]]:
        """Returns the plan as lines of `(label, text)`; `done` steps are completed."""
        length = f"{self.total_steps} steps"
        if self.feed.steps_per_epoch:
            epochs = (self.total_steps + self.epochs.shift) / self.feed.steps_per_epoch
            length += f", {epochs:.4g} epoch{'s' * (epochs != 1)} of {self.feed.steps_per_epoch}"
        if done:
            length += f"; continues after step {done}"
        return [
            ("data", f"{self.feed.describe()}; resumes {resumes(self.feed)}"),
            *(self._evaluations() or [("validation", "none")]),
            *(self.engine.weights.lines() if not done else ()),
            *plan_text.lines(self.engine, foreseen(self.engine, self.feed, self.total_steps - done)),
            *self._padding(),
            *self._best(),
            *self.callbacks.plan(self.event(done)),
            ("length", length),
        ]

    def event(self, step: int = 0) -> Event:
        """Returns the event that callbacks receive before anything begins."""
        where = step, self.epochs.epoch(step), self.total_steps, self.epochs.length, None
        named = self.engine.models, self.engine.optimizers
        return Event(*where, *named, epoch_step=self.epochs.within(step))

    def _padding(self) -> list[tuple[str, str]]:
        rows = replication.static_rows(self.feed.element_spec)
        if replication.padded_size(self.engine.strategy, rows, self.feed.examples(1)) is None:
            return []
        return [
            (
                "note",
                "short batches are padded with copies of their last example, which have weight 0 in losses "
                "and metrics; BatchNormalization and activity penalties do include them",
            )
        ]

    def _best(self) -> list[tuple[str, str]]:
        monitor = monitored(self)
        return [] if monitor is None else [("best", direction(monitor, self.policy.mode))]

    def _evaluations(self) -> list[tuple[str, str]]:
        return [(e.split, f"{e.feed.describe()}, evaluated {e.schedule}") for e in self.evaluations]


def check(plan: FitPlan) -> None:
    """Refuses, before anything is restored or written, what cannot be saved or what callbacks refuse.

    Raises:
        ConfigurationError: From a callback; or if the step assigns variables that no checkpoint holds.
        Refused: With every monitor of the checkpoints and of callbacks whose value nothing produces.
    """
    refuse_strays(plan.engine.graph, plan.engine.variables)
    refuse_outsiders(plan.engine.graph, plan.engine.variables, plan.engine.strategy)
    value_names.check([*_named(plan), ("callbacks", "", plan.callbacks.produces())])
    plan.callbacks.check(plan.event())
    if plan.engine.keras_steps is not None and plan.callbacks.measures():
        raise ConfigurationError(
            "callbacks: one measures the updates of minimize (such as Norms), but the model's own "
            f"{' and '.join(plan.engine.hooks.steps)} calls no minimize. Leave it out, or return the norm "
            "from train_step."
        )
    _check_monitors(plan)


def _named(plan: FitPlan) -> list[value_names.Source]:
    """Returns the names of all values that training and evaluations log, by their source."""
    found = [(f"{who} (training)", prefix, own) for who, prefix, own in plan.engine.values.named("train")]
    for split in (evaluation.split for evaluation in plan.evaluations):
        before = value_names.monitor_name(split, "")
        found += [
            (f"{who} ({split})", before + prefix, own)
            for who, prefix, own in plan.engine.values.named("test")
        ]
    return found


def taken_names(plan: FitPlan) -> set[str]:
    """Returns the tags and names of training and evaluations, under which callbacks cannot log."""
    rates = optimization.learning_rates(plan.engine.optimizers)  # which callbacks may log more often
    named = {prefix + name for _, prefix, own in _named(plan) for name in own}
    return plan.engine.values.tags() | (named - rates.keys())


def of_callbacks(plan: FitPlan) -> tuple[str, ...]:
    """Returns the names that callbacks say they log, and those that are monitored and nothing else logs."""
    monitors = [plan.policy.monitor, *(monitor.name for monitor in plan.callbacks.monitors())]
    taken = taken_names(plan)
    return tuple(name for name in dict.fromkeys([*plan.callbacks.produces(), *monitors]) if name not in taken)


def _produced(plan: FitPlan) -> list[str]:
    """Returns the names of the values that a monitor may have."""
    evaluated = [
        value_names.monitor_name(evaluation.split, name)
        for evaluation in plan.evaluations
        for name in plan.engine.values.produces("test")
    ]
    return [*evaluated, *plan.engine.values.produces("train"), *plan.callbacks.produces()]


def monitored(plan: FitPlan) -> str | None:
    """Returns the name of the value that decides which checkpoint is best; None if nothing produces it."""
    found = plan.policy.value(dict.fromkeys(_produced(plan), 0.0), evaluated=bool(plan.evaluations))
    return found and found[0]


def warn_of_no_best(plan: FitPlan) -> None:
    """Says of a run that is recorded that no checkpoint can become its best, where that is so."""
    valid, monitor = _produced(plan), plan.policy.monitor
    if monitored(plan) is None:
        _log.warning(
            "checkpoint.monitor: no checkpoint becomes the best, since nothing produces %r; there are %s. "
            "Set checkpoint=looplab.CheckpointPolicy(monitor=...), or checkpoint.monitor=... in a command, "
            "to one of these, or have the step return a value called 'loss'.",
            monitor,
            ", ".join(valid),
        )
    elif is_guess(monitor, plan.policy.mode):
        _log.warning(guessed(monitor, "checkpoint.mode"))


def warn_of_no_value(plan: FitPlan, progress: Progress) -> None:
    """Says at the end of a recorded run that no checkpoint is its best, because its monitor never came."""
    if progress.best is None and plan.policy.monitor in _produced(plan):
        _log.warning(
            "checkpoint.monitor: no checkpoint is the best, because %r never had a value, or only NaN. "
            "looplab looks after each evaluation and each epoch, and at the steps at which a callback logs "
            "the value in on_step.",
            plan.policy.monitor,
        )


def _check_monitors(plan: FitPlan) -> None:
    """Refuses monitors that nothing produces; the default monitor may be absent without validation."""
    splits, valid = [evaluation.split for evaluation in plan.evaluations], _produced(plan)
    monitors = plan.callbacks.monitors()
    policy = plan.policy
    if policy.monitor != Policy.monitor or (splits and "validation" not in splits):
        monitors = [Monitor("checkpoint.monitor", policy.monitor), *monitors]
    vain = []
    for monitor in monitors:
        if monitor.name in valid:
            continue
        why = f"nothing produces {monitor.name!r}; there are {', '.join(valid)}." + nearest(
            monitor.name, valid
        )
        why += "" if splits else " Values of an evaluation need validation data."
        if loggers := may_log(plan.callbacks.everyone()):
            why += f" If {' or '.join(loggers)} logs it, say so there: produces = ({monitor.name!r},)."
        if monitor.is_closed:
            vain.append(Problem(monitor.key, why))
        else:
            _log.warning("%s: %s looplab waits for it, in case another callback logs it.", monitor.key, why)
    if vain:
        raise Refused(vain)
