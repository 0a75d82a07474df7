"""One fit: restore or begin, describe the plan, run it, record how it ended."""

from __future__ import annotations

from functools import partial
from typing import Any

from looplab import optimization
from looplab.execution import flops
from looplab.loggers import History
from looplab.protocols import Summary
from looplab.strategy import precision
from looplab.training import loop, plan_text
from looplab.training.audit import Audit
from looplab.training.checkpoint_folder import CheckpointFolder
from looplab.training.checkpointing import Checkpoints, RunCheckpoints
from looplab.training.controls import RunControls
from looplab.training.engine.mode_selection import choose_micro_batches, choose_mode
from looplab.training.engine.models import layer_rows
from looplab.training.fit_plan import (
    FitPlan,
    check,
    of_callbacks,
    taken_names,
    warn_of_no_best,
    warn_of_no_value,
)
from looplab.training.preparation import Preparation
from looplab.training.progress import Progress
from looplab.training.records import Recorder, history_of
from looplab.training.resume import restore_run
from looplab.training.run_state import Run
from looplab.training.session import Session


def fit(preparation: Preparation, x: Any, y: Any, *, verbose: str | int, **arguments: Any) -> History:
    """Implements `Trainer.fit`.

    Args:
        preparation: The trainer's preparation.
        x: See `Trainer.fit`.
        y: See `Trainer.fit`.
        verbose: See `Trainer.fit`.
        **arguments: The other arguments of `Trainer.fit`.
    """
    engine = preparation.engine
    engine.recipe.check_compiled()
    # A second fit continues, whatever `resume` is.
    begins = preparation.so_far.progress is None and not int(engine.step.numpy())
    hang_timeout = preparation.safeguards.hang_timeout
    with (
        precision.scope(engine.precision),
        Session(
            preparation.recording,
            engine.agreement,
            verbose=verbose,
            begins=begins,
            hang_timeout=hang_timeout,
        ) as session,
    ):
        with session.wall_time.time("start/build"):
            plan = preparation.plan_fit(x, y, **arguments)
        return run_fit(plan, session)


def run_fit(plan: FitPlan, session: Session) -> History:
    """Trains up to a step of the run.

    Args:
        plan: The plan of the fit.
        session: The session that records the run.

    Returns:
        The values of every epoch of the run.

    Raises:
        CheckpointError: If the run in the run directory cannot be continued.
        EndRequested: If a signal requested the end; everything up to then is saved.
    """
    engine, so_far = plan.engine, plan.so_far
    check(plan)
    engine.loops.measure_with(plan.callbacks.measures())
    folder = None if session.run_dir is None else CheckpointFolder(session, plan.policy)
    if folder is not None and so_far.progress is not None:
        folder.look_at_logs()
    progress = so_far.progress = so_far.progress or restore_run(plan, folder, session)
    plan.go_on(progress)
    _choose_mode(plan, progress, session)
    history = so_far.history = history_of(session.run_dir, so_far.history)
    history.params = {"epochs": plan.epochs.count(plan.total_steps), "steps": plan.feed.steps_per_epoch}
    history.model = next(iter(engine.models.values())) if len(engine.models) == 1 else None
    if progress.settled >= plan.total_steps and session.has_ended:
        session.nothing_to_do(progress.step, plan.total_steps)
        return history
    engine.kept.apply()
    run = _made_run(plan, progress, session, folder, history)
    summary = _summary(plan, progress, session)
    plan.next_step(plan.log_every, progress.step)  # refused now if it cannot be counted
    if folder is not None:
        _check_room(plan, folder)
        warn_of_no_best(plan)
    session.begin(summary, **plan_text.facts(engine), initialized_from=so_far.initialized_from)
    try:
        with run.checkpoints:
            reason = loop.train(run)
    except BaseException:
        session.stands(progress.step, plan.epochs.epoch(progress.step), progress.best)
        # Half of a step's events may be logged: the next fit must go back to a checkpoint.
        so_far.progress = progress if session.run_dir is None else None
        engine.kept.leave()
        raise
    if folder is not None:
        warn_of_no_value(plan, progress)
    session.state_result(run.controls.stated)
    session.end(progress.step, plan.epochs.epoch(progress.step), progress.best, reason)
    engine.recipe.show_metrics(plan.feed.element_spec)
    return history


def _choose_mode(plan: FitPlan, progress: Progress, session: Session) -> None:
    """Lets the engine choose the execution mode, if none is set."""
    with session.wall_time.time("trace and compile/measured ways"):
        # At every start, whatever the choice: a pipeline that shuffles differently each time it starts must
        # not
        # give a continued run, or one that needs no measurement, another order.
        plan.feed.seek(plan.place(progress.step))
        choose_micro_batches(plan.engine, plan.feed)
        left = plan.total_steps - progress.step
        session.wall_time.compilations += choose_mode(plan.engine, plan.feed, left)


def _made_run(
    plan: FitPlan, progress: Progress, session: Session, folder: CheckpointFolder | None, history: History
) -> Run:
    """Creates the objects that the loop works with."""
    engine, wall_time = plan.engine, session.wall_time
    audit = Audit(
        plan.owner,
        plan.callbacks,
        plan.feed,
        graph=engine.graph,
        variables=engine.variables,
        drawn=plan.drawn,
        moved=plan.moved,
        findings=plan.so_far.findings,
        kept=engine.kept.names,
    )
    controls = RunControls(
        partial(optimization.scale_learning_rate, engine.optimizers),
        engine.loops.rebuild,
        session.request,
        taken=taken_names(plan),
    )
    checkpoints = (
        Checkpoints() if folder is None else RunCheckpoints(plan, progress, folder, audit, wall_time)
    )
    return Run(
        plan,
        progress,
        controls,
        Recorder(plan, progress, [*session.loggers, history], session.console, wall_time),
        checkpoints,
        wall_time,
        session.beat,
        session.run_dir,
        of_example=flops.of_example(
            engine.graph, plan.feed.element_spec, engine.models, plan.feed.examples(1)
        ),
    )


def _summary(plan: FitPlan, progress: Progress, session: Session) -> Summary:
    """Returns the summary that every logger receives before the first step."""
    where = str(session.run_dir or "not recorded (run_dir=None)")
    return Summary(
        lines=(*plan.describe(progress.step), ("run", where)),
        layers=layer_rows(plan.engine.models, plan.engine.trained),
        first_step=progress.step,
        total_steps=plan.total_steps,
        steps_per_epoch=plan.epochs.length,
        graph=plan.engine.graph,
        epoch_shift=plan.epochs.shift,
        of_callbacks=of_callbacks(plan),
    )


def _check_room(plan: FitPlan, folder: CheckpointFolder) -> None:
    policy = plan.policy
    for_good = policy.kept_interval
    kept = 0 if for_good is None else plan.total_steps // plan.next_step(for_good, 0)
    folder.check_room(plan.engine.variables, kept + policy.keep_last + policy.keep_best)
