"""One fit: restore or begin, say what will run, run it, remember how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from looplab import strategy as replication
from looplab.callbacks import CallbackList, Event, Monitor
from looplab.checkpoint import Policy
from looplab.data.pipeline_inspection import keeps_place, resumes
from looplab.errors import CheckpointError, ConfigurationError, Problem, Refused, nearest
from looplab.execution import CompiledLoop, flops
from looplab.interval import Interval
from looplab.loggers import History, in_json, value_names
from looplab.optimization import carried_on, factors_before, restore_factors
from looplab.protocols import Feed, Summary
from looplab.runs.directory import earlier_choice
from looplab.runs.epochs import Epochs
from looplab.training import loop, plan_text, resume, run_state
from looplab.training.audit import Audit, refuse_strays
from looplab.training.engine import models
from looplab.training.engine.engine import Engine
from looplab.training.session import Session

_log = logging.getLogger("looplab")

_FACTORS = "learning_rate_factors_before"  # which the checkpoints of the first versions do not have


@dataclass
class Fit:
    """What one fit was asked to do; everything is made and prepared, nothing has begun.

    Attributes:
        engine: Prepared for training on `feed`, and for testing if there are evaluations.
        feed: Training batches.
        evaluations: The validation sets.
        length: How long to train.
        callbacks: Who is notified.
        policy: When to save and what is best.
        log_every: The interval of steps whose own values are logged.
        on_nonfinite: What becomes of a step that is not finite; see `looplab.training.nonfinite_policy`.
        allow_change: What may differ from when a run was saved; see `looplab.training.resume`.
        initialize: Gives a new run its first weights and returns where they come from, or None where other
            weights were restored; None to begin with those that the models were made with.
        owner: The trainer, of which only the fields are looked at, by the audit.
        drawn: Which of the process's random generators moved while the feed was made.
        epochs: Where epochs begin and end: those of the feed, until the run tells which it has behind it.
    """

    engine: Engine
    feed: Feed
    evaluations: tuple[run_state.Evaluation, ...]
    length: Length
    callbacks: CallbackList
    policy: Policy
    log_every: Interval
    on_nonfinite: str
    allow_change: Sequence[str] = ()
    initialize: Callable[[], str | None] | None = None
    owner: Any = None
    drawn: Collection[str] = ()
    epochs: Epochs = field(init=False)

    def __post_init__(self) -> None:
        """Saves by the clock where an epoch has no end, and would never be saved."""
        self.epochs = run_state.epochs_of(self.feed)
        if not self.feed.steps_per_epoch and self.policy.interval.unit == "ep":
            self.policy = replace(self.policy, every="10min")

    @property
    def total_steps(self) -> int:
        """Completed steps at which to end."""
        return self.length.last_step(self.epochs)

    def place(self, step: int) -> int:
        """Returns the step by which the feed knows a step of the run."""
        return self.epochs.place(step, self.feed)

    def describe(self, done: int = 0) -> list[tuple[str, str]]:
        """Returns what a person is told of it, as `(label, text)`; `done` steps are behind it."""
        length = f"{self.total_steps} steps"
        if self.feed.steps_per_epoch:
            epochs = (self.total_steps + self.epochs.shift) / self.feed.steps_per_epoch
            length += f", {epochs:.4g} epoch{'s' * (epochs != 1)} of {self.feed.steps_per_epoch}"
        if done:
            length += f"; continues after step {done}"
        return [
            ("data", f"{self.feed.describe()}; resumes {resumes(self.feed)}"),
            *(self._evaluations() or [("validation", "none")]),
            *(self.engine.weights_lines() if not done else ()),
            *plan_text.lines(self.engine),
            *self._padding(),
            *self.callbacks.plan(self.event(done)),
            ("length", length),
        ]

    def event(self, step: int = 0) -> Event:
        """Returns what callbacks are told before anything begins."""
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
                "short batches are filled with copies of their last example, which weigh nothing in losses "
                "and metrics; BatchNormalization and activity penalties do see them",
            )
        ]

    def _evaluations(self) -> list[tuple[str, str]]:
        return [(e.split, f"{e.feed.describe()}, evaluated every {e.every}") for e in self.evaluations]


@dataclass(frozen=True)
class Length:
    """How long a run is to be: up to an epoch, or up to a step.

    Attributes:
        epochs: The last epoch.
        steps: The last step, instead.
    """

    epochs: int | None
    steps: int | None

    def last_step(self, epochs: Epochs) -> int:
        """Returns the last step of a run with these epochs."""
        return epochs.last_step(self.epochs or 1) if self.steps is None else self.steps


def read_length(epochs: int | None, steps: int | None, steps_per_epoch: int | None) -> Length:
    """Reads how long to train.

    Raises:
        ConfigurationError: If both are given, or none where an epoch has no end.
    """
    if epochs is not None and steps is not None:
        raise ConfigurationError(f"epochs={epochs} and steps={steps}: give one of the two.")
    for name, value in (("epochs", epochs), ("steps", steps)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{name}: must be at least 1, got {value}.")
    if steps is None and steps_per_epoch is None:
        raise ConfigurationError(
            "make_batch never ends: say how long to train, fit(steps=...), or how long an epoch is, "
            "fit(epochs=..., steps_per_epoch=...)."
        )
    return Length(epochs, steps)


def run_fit(asked: Fit, session: Session) -> History:
    """Trains up to a step of the run.

    Args:
        asked: What to do.
        session: Where the run is remembered.

    Returns:
        The values of every epoch of the run.

    Raises:
        CheckpointError: If what is in the run directory cannot be continued.
        EndRequested: If it was asked to end by a signal; everything up to then is saved.
    """
    engine, feed, callbacks, policy = asked.engine, asked.feed, asked.callbacks, asked.policy
    check(asked)
    engine.measure_with(callbacks.measures())
    progress = engine.progress = engine.progress or _restored(asked, session)
    _go_on(asked, progress)
    with session.ledger.time("trace and compile/measured ways"):
        # In every start, whatever is found out: a pipeline that shuffles anew each time it is begun must not
        # give a run that goes on, or one that needs no measurement, another order.
        feed.seek(asked.place(progress.step))
        engine.split(feed)
        session.ledger.compilations += engine.choose(feed, asked.total_steps - progress.step)
    history = engine.history = session.history(engine.history)
    per_epoch = feed.steps_per_epoch
    history.params = {"epochs": asked.epochs.count(asked.total_steps), "steps": per_epoch}
    history.model = next(iter(engine.models.values())) if len(engine.models) == 1 else None
    if progress.settled >= asked.total_steps and session.has_ended:
        session.nothing_to_do(progress.step, asked.total_steps)
        return history

    computes = _computes(engine)
    audit = Audit(
        asked.owner,
        callbacks,
        feed,
        graph=engine.graph,
        variables=engine.variables,
        drawn=asked.drawn,
        findings=engine.findings,
    )

    def execution() -> CompiledLoop:
        if session.run_dir is not None:
            audit.begin(values)
        return engine.execution("train")

    snapshots = keeps_place(feed)

    def values() -> dict[str, Any]:
        return {
            "progress": progress.to_json(),
            "callbacks": callbacks.state(),
            "position": feed.position(asked.place(progress.step)),
            "snapshot": feed.snapshot(asked.place(progress.step)) if snapshots else None,
            "execution": engine.how(),
            _FACTORS: factors_before(engine.optimizers),
            **computes,
            "initialized_from": engine.initialized_from,
        }

    def save() -> Path:
        audit.look_again()
        assert session.saver is not None
        session.saver.wait()  # what it wrote counts among those that are kept
        keep = {found["step"] for found in progress.top}
        if policy.kept_interval is not None:
            keep |= {step for step in session.saved_steps if training.is_due(policy.kept_interval, step)}
        verify = restored if policy.verify else None
        return session.save(progress.step, engine.variables, values(), policy.keep_last, keep, verify)

    def restored(saved: dict[str, Any]) -> dict[str, Any]:
        callbacks.restore(saved["callbacks"])
        again = run_state.Progress.from_json(saved["progress"]).to_json()
        return {**saved, "progress": again, "callbacks": callbacks.state()}

    def keep_bad_step(values: Mapping[str, float]) -> Path:
        step = progress.step
        batch = feed.batch(asked.place(step)) if training.bad_batch is None else training.bad_batch
        limit = None if engine.watch is None else engine.watch.exceeded(values)
        facts = {
            "values": in_json(values),
            "limit": limit,
            "examples": feed.rows(asked.place(step)),
            "execution": engine.how(),
        }
        return session.keep_bad_step(step + 1, engine.variables, batch, facts)

    def go_back() -> None:
        assert session.saver is not None
        session.saver.wait()
        saved = session.restore(engine.variables)
        assert saved is not None
        callbacks.restore(saved["callbacks"])
        restore_factors(engine.optimizers, saved.get(_FACTORS, {}))
        feed.resume_from(saved.get("snapshot"))
        vars(progress).update(vars(run_state.Progress.from_json(saved["progress"])))
        _go_on(asked, progress)
        training.epochs, training.total_steps = asked.epochs, asked.total_steps
        feed.seek(asked.place(progress.step))

    if session.run_dir is not None:
        session.save_by(policy)
    training = run_state.Run(
        total_steps=asked.total_steps,
        epochs=asked.epochs,
        progress=progress,
        models=engine.models,
        optimizers=engine.optimizers,
        execution=execution,
        feed=feed,
        pace=engine.pace,
        callbacks=callbacks,
        loggers=[*session.loggers, history],
        controls=run_state.Controls(
            engine.scale_learning_rate, engine.rebuild, session.request, taken=engine.tags()
        ),
        policy=policy,
        log_every=asked.log_every,
        shows=engine.shows,
        evaluations=asked.evaluations,
        epoch_values=engine.epoch_values,
        epoch_pictures=lambda: engine.measurements.pictures("train"),
        begin_epoch=lambda: engine.measurements.reset("train"),
        save=None if session.run_dir is None else save,
        saver=session.saver,
        tell=session.console.progress,
        run_dir=session.run_dir,
        ledger=session.ledger,
        of_example=flops.of_example(engine.graph, feed.element_spec, engine.models, feed.examples(1)),
        beat=session.beat,
        on_nonfinite=asked.on_nonfinite,
        watch=engine.watch,
        pass_over=lambda: engine.step.assign_add(1),
        keep_bad_step=None if session.run_dir is None else keep_bad_step,
        go_back=None if session.run_dir is None else go_back,
    )
    summary = Summary(
        lines=(
            *asked.describe(progress.step),
            ("run", str(session.run_dir or "not recorded (run_dir=None)")),
        ),
        layers=models.layer_rows(engine.models),
        first_step=progress.step,
        total_steps=asked.total_steps,
        steps_per_epoch=asked.epochs.length,
        graph=engine.graph,
        epoch_shift=asked.epochs.shift,
    )
    training.next_step(asked.log_every, progress.step)  # refused now where it cannot be counted
    if session.run_dir is not None:
        for_good = policy.kept_interval
        kept = 0 if for_good is None else asked.total_steps // training.next_step(for_good, 0)
        session.check_room(engine.variables, kept + policy.keep_last + policy.keep_best)
    session.begin(summary, **plan_text.facts(engine))
    try:
        reason = loop.fit(training)
    except BaseException:
        session.stands(progress.step, training.epoch(progress.step), progress.best)
        # Half of a step's events may be logged: the next fit must go back to a checkpoint.
        engine.progress = progress if session.run_dir is None else None
        raise
    session.end(progress.step, training.epoch(progress.step), progress.best, reason)
    return history


def _go_on(asked: Fit, progress: run_state.Progress) -> None:
    """Begins or continues the epochs of a run with the data of a fit."""
    before = progress.epochs
    asked.epochs = progress.go_on_with(asked.feed)
    if before is not None and before != asked.epochs:
        asked.engine.measurements.reset("train")  # of an epoch that is left in its middle
        _log.info(
            "epochs have %d steps from here on, %d before: epoch %d begins",
            asked.epochs.length,
            before.length,
            asked.epochs.done(progress.step) + 1,
        )


def _computes(engine: Engine) -> dict[str, Any]:
    return resume.facts(engine.graph, engine.strategy.num_replicas_in_sync, engine.optimizers)


def _replicas(saved: Mapping[str, Any], otherwise: int) -> int:
    return int(saved.get("topology", {}).get("replicas", otherwise))


def _restored(asked: Fit, session: Session) -> run_state.Progress:
    engine, callbacks, feed = asked.engine, asked.callbacks, asked.feed

    def accept(saved: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = carried_on(arrays, engine.watch)
        progress = run_state.Progress.from_json(saved["progress"])
        asked.epochs = progress.go_on_with(feed)
        now = {"data": feed.position(asked.place(progress.step)), **_computes(engine)}
        before = {"data": saved["position"], **saved}
        fitting = resume.accepted(before, now, arrays, engine.variables, asked.allow_change)
        callbacks.refuse_others(saved["callbacks"])
        _resume_data(asked, saved)
        return fitting

    if int(engine.step.numpy()) > 0 and not session.saved_steps:
        raise ConfigurationError(
            "the last fit of this trainer failed before its first checkpoint, so there is no state to go "
            "back to. Make a new trainer."
        )
    with session.ledger.time("start/restore"):
        saved = session.restore(engine.variables, accept)
    if saved is not None:
        engine.before = saved.get("execution")
        replicas = engine.strategy.num_replicas_in_sync
        resume.separate(engine.strategy, engine.variables, _replicas(saved, replicas))
        callbacks.restore(saved["callbacks"])
        restore_factors(engine.optimizers, saved.get(_FACTORS, {}))
        if _FACTORS not in saved and engine.precision == "float64":
            _log.warning(
                "the run was begun by a version of looplab that rounded learning rates and other numbers of "
                "optimizers to float32; from here on they are the numbers that were given."
            )
        engine.initialized_from = saved.get("initialized_from")
        if asked.initialize is not None:
            _log.info("the run continues; %s", _not_again(engine.initialized_from))
        return run_state.Progress.from_json(saved["progress"])
    if session.run_dir is not None:
        engine.earlier = earlier_choice(session.run_dir)
    with session.ledger.time("start/restore"):
        engine.initialized_from = asked.initialize() if asked.initialize is not None else None
    return run_state.Progress()


def _resume_data(asked: Fit, saved: Mapping[str, Any]) -> None:
    try:
        asked.feed.resume_from(saved.get("snapshot"))
    except CheckpointError as error:
        if "data" not in asked.allow_change:
            raise
        _log.warning("the run goes on with other data, as allowed: %s", error)


def _not_again(before: str | None) -> str:
    """Says what `initialize_from` is to a run that has begun."""
    if before is None:
        return (
            "initialize_from is not used: the run began without it. Choose another run_dir to begin with it"
        )
    return f"initialize_from was used at its start ({before})"


def check(asked: Fit) -> None:
    """Refuses, before anything is restored or written, what cannot be saved or what callbacks refuse.

    Raises:
        ConfigurationError: Of a callback; or if the step assigns variables that no checkpoint holds.
        Refused: With every monitor of the checkpoints and of callbacks that waits in vain.
    """
    refuse_strays(asked.engine.graph, asked.engine.variables)
    value_names.check(_named(asked))
    asked.callbacks.check(asked.event())
    _check_monitors(asked)


def _named(asked: Fit) -> list[value_names.Source]:
    """Returns the names of all that the run shows, by who gives it."""
    found = [(f"{who} (training)", prefix, own) for who, prefix, own in asked.engine.named("train")]
    for split in (evaluation.split for evaluation in asked.evaluations):
        before = value_names.monitor_name(split, "")
        found += [
            (f"{who} ({split})", before + prefix, own) for who, prefix, own in asked.engine.named("test")
        ]
    return [*found, ("callbacks", "", asked.callbacks.produces())]


def _check_monitors(asked: Fit) -> None:
    """Refuses to wait for values that nothing produces; the default needs none where it can have none."""
    splits = [evaluation.split for evaluation in asked.evaluations]
    evaluated = [
        value_names.monitor_name(split, name) for split in splits for name in asked.engine.produces("test")
    ]
    valid = [*evaluated, *asked.engine.produces("train"), *asked.callbacks.produces()]
    monitors = asked.callbacks.monitors()
    policy = asked.policy
    if policy.monitor != Policy.monitor or (splits and "validation" not in splits):
        monitors = [Monitor("checkpoint.monitor", policy.monitor), *monitors]
    vain = []
    for monitor in monitors:
        if monitor.name in valid:
            continue
        why = f"nothing produces {monitor.name!r}; there are {', '.join(valid)}." + nearest(
            monitor.name, valid
        )
        why += "" if splits else " Those of an evaluation need validation data."
        if monitor.is_closed:
            vain.append(Problem(monitor.key, why))
        else:
            _log.warning("%s: %s It is waited for, in case another callback writes it.", monitor.key, why)
    if vain:
        raise Refused(vain)
