"""One fit: restore or begin, say what will run, run it, remember how it ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from looplab import assembly, loop
from looplab.callbacks import Callbacks
from looplab.checkpoint import Policy
from looplab.engine import Engine
from looplab.errors import CheckpointError, ConfigurationError
from looplab.interval import Interval
from looplab.loggers import History
from looplab.protocols import Feed, Summary
from looplab.session import Session

_ENDLESS = 2**62  # steps of an epoch, where there is but one


def fit(
    engine: Engine,
    session: Session,
    *,
    feed: Feed,
    validation: Feed | None,
    total_steps: int,
    callbacks: Callbacks,
    policy: Policy,
    log_every: Interval,
) -> History:
    """Trains what an engine holds, up to a step of its run.

    Args:
        engine: Prepared for training on `feed`, and for testing on `validation`.
        session: Where the run is remembered.
        feed: Training batches.
        validation: Evaluated at the end of each epoch; or None.
        total_steps: Completed steps at which to end.
        callbacks: Who is notified.
        policy: When to save and what is best.
        log_every: The interval of steps whose own values are logged.

    Returns:
        The values of every epoch of the run.

    Raises:
        CheckpointError: If what is in the run directory cannot be continued.
        Interrupted: If the person pressed Ctrl-C; everything up to then is saved.
    """
    if not feed.steps_per_epoch and policy.interval.unit == "ep":
        policy = replace(policy, every="10min")  # an epoch without end would never be saved
    progress = engine.progress = engine.progress or _restored(engine, session, callbacks, feed)
    history = session.history()
    if progress.settled >= total_steps:
        session.nothing_to_do(progress.step, total_steps)
        return history

    def save() -> Path:
        values = {
            "progress": progress.to_json(),
            "callbacks": callbacks.state(),
            "position": feed.position(progress.step),
        }
        best = [progress.best["step"]] if progress.best else []
        return session.save(progress.step, engine.variables, values, policy.keep_last, best)

    run = loop.Run(
        total_steps=total_steps,
        steps_per_epoch=feed.steps_per_epoch or _ENDLESS,
        progress=progress,
        execution=engine.execution("train"),
        feed=feed,
        pace=engine.pace,
        callbacks=callbacks,
        loggers=[*session.loggers, history],
        controls=loop.Controls(engine.scale_learning_rate),
        policy=policy,
        log_every=log_every,
        evaluate=None if validation is None else engine.evaluator(validation),
        epoch_values=engine.epoch_values,
        begin_epoch=lambda: engine.reset_metrics("train"),
        save=None if session.run_dir is None else save,
        show=session.console.progress,
    )
    summary = Summary(
        lines=_lines(engine, session, run, validation),
        layers=assembly.layer_rows(engine.models),
        first_step=progress.step,
        total_steps=total_steps,
        steps_per_epoch=run.steps_per_epoch,
    )
    session.begin(summary, **engine.facts())
    try:
        reason = loop.fit(run)
    except BaseException:
        session.stands(progress.step, run.epoch(progress.step), progress.best)
        # Half of a step's events may be logged: the next fit must go back to a checkpoint.
        engine.progress = progress if session.run_dir is None else None
        raise
    session.end(progress.step, run.epoch(progress.step), progress.best, reason)
    return history


def _restored(engine: Engine, session: Session, callbacks: Callbacks, feed: Feed) -> loop.Progress:
    saved = session.restore(engine.variables)
    if saved is not None:
        _check_data(saved["position"], feed.position(saved["progress"]["step"]))
        callbacks.restore(saved["callbacks"])
        return loop.Progress.from_json(saved["progress"])
    if int(engine.step.numpy()) > 0:
        raise ConfigurationError(
            "the last fit of this trainer failed before its first checkpoint, so there is no state to go "
            "back to. Make a new trainer."
        )
    return loop.Progress()


def _check_data(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuses to continue on other data: its epochs would be no epochs of this run."""
    changed = [
        f"{key} {before.get(key)} -> {now.get(key)}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise CheckpointError(
            f"the run was trained on other data than it is given now: {', '.join(changed)}. Give it the "
            "same data, batch_size, shuffle and seed, or use a new run_dir."
        )


def _lines(
    engine: Engine, session: Session, run: loop.Run, validation: Feed | None
) -> tuple[tuple[str, str], ...]:
    length = f"{run.total_steps} steps"
    if run.feed.steps_per_epoch:
        epochs = run.total_steps / run.feed.steps_per_epoch
        length += f", {epochs:.4g} epoch{'s' * (epochs != 1)} of {run.feed.steps_per_epoch}"
    if run.progress.step:
        length += f"; continues after step {run.progress.step}"
    return (
        ("data", f"{run.feed.describe()}; resumes {run.feed.resumes}"),
        ("validation", validation.describe() if validation else "none"),
        *engine.describe(),
        ("length", length),
        ("run", str(session.run_dir or "not recorded (run_dir=None)")),
    )
