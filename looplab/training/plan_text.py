"""The description of how steps run, for the user and for `environment.json`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from rich.filesize import decimal

from looplab import devices, optimization
from looplab import strategy as replication
from looplab.checkpoint.state import size_of
from looplab.compat import patches
from looplab.execution import autotune
from looplab.optimization import repeated_rows
from looplab.options import compatibility
from looplab.strategy import batch_norm
from looplab.training.engine.engine import Engine
from looplab.training.engine.models import untrained


def facts(engine: Engine) -> dict[str, Any]:
    """Returns the facts about how steps run that `environment.json` records."""
    return {
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "device_options": devices.facts(),
        "strategy": replication.describe(engine.strategy),
        "precision": engine.precision,
        "execution": {
            "mode": engine.modes.mode,
            "run_eagerly": engine.run_eagerly,
            **({"choice": engine.modes.choice.to_json()} if engine.modes.choice else {}),
        },
        "seed": engine.seed,
    }


def lines(engine: Engine, choice: autotune.Choice | None) -> list[tuple[str, str]]:
    """Returns the description of how steps run, as lines of `(label, text)`.

    Args:
        engine: Prepared for training.
        choice: The choice of the execution mode; None if the mode was given.
    """
    kinds = [f"{name}: {type(made).__name__}" for name, made in engine.optimizers.items()]
    saved = sum(size_of(variable) for variable in engine.variables.values())
    return [
        ("optimizer", ", ".join(kinds).removeprefix("optimizer: ") or "none"),
        *(
            ("not trained", f"nothing trains the model {name!r}")
            for name in untrained(engine.models, engine.trained)
        ),
        *engine.recipe.lines(engine.idle()),
        *_steps(engine),
        *_groups(engine),
        *_averages(engine),
        ("strategy", replication.describe(engine.strategy)),
        *_batch_norm(engine),
        *engine.draws.line(),
        *engine.modes.recompute.line(engine.models),
        *_recomputed(engine),
        ("precision", engine.precision),
        *_other_precisions(engine),
        *_execution(engine, choice),
        *patches.lines(),
        *(("note", remark) for remark in compatibility.remarks(engine.settings())),
        *(
            ("note", remark)
            for remark in repeated_rows.remarks(engine.models, engine.optimizers, engine.trained)
        ),
        ("state", f"{len(engine.variables)} variables, {decimal(saved)}"),
    ]


def _other_precisions(engine: Engine) -> Iterator[tuple[str, str]]:
    for name, model in engine.models.items():
        if (made := model.dtype_policy.name) != engine.precision:
            text = f"the model {name!r} was created in {made}, and its layers compute in it; a function that"
            yield "note", f"{text} returns it, Trainer(lambda: ...), creates it in {engine.precision}"


def _steps(engine: Engine) -> Iterator[tuple[str, str]]:
    if engine.keras_steps is not None:
        kind = type(engine.keras_steps.model).__name__
        yield "step", f"{kind}.{' and '.join(engine.hooks.steps)} in Keras' own steps, unchanged"
        yield (
            "note",
            "as in Keras, an epoch's values are those that its last step returns, and schedules count the "
            "updates of their optimizer; replicas and micro-batches would change the updates, and are "
            "refused",
        )
    yield from (("note", text) for text in engine.hooks.passed_over)


def _groups(engine: Engine) -> Iterator[tuple[str, str]]:
    for optimizer, rows in engine.tracked.group_rows.items():
        where = f" of {optimizer}" if len(engine.optimizers) > 1 else ""
        for group, count, parameters, scale, decay in rows:
            text = f"{count} variables, {parameters} parameters; learning rate x {scale:g}"
            yield f"group{where}", f"{group}: {text}, weight decay {decay:g}"


def _batch_norm(engine: Engine) -> Iterator[tuple[str, str]]:
    if engine.strategy.num_replicas_in_sync > 1 and batch_norm.layers_of(engine.models):
        sync = "the whole global batch, as on one device"
        local = "each replica's own rows, so results depend on their number; moving statistics averaged"
        yield "batch norm", f"over {sync if engine.batch_norm == 'sync' else local}"


def _recomputed(engine: Engine) -> Iterator[tuple[str, str]]:
    if found := engine.values.noted["train"].recomputed:
        yield (
            "warning",
            "layers that are computed again in the backward pass (keras.remat, tf.recompute_grad) draw from "
            f"{', '.join(found)}: the second pass draws other numbers, so the gradient is wrong. Use "
            "Trainer(recompute=...) for these layers instead, or draw with tf.random.stateless_* from "
            "self.seed and self.step",
        )


def _execution(engine: Engine, choice: autotune.Choice | None) -> Iterator[tuple[str, str]]:
    if engine.run_eagerly:
        yield "execution", "eager"
        return
    said = choice.lines() if choice else [engine.modes.mode]
    yield from zip(("execution", "measured"), said, strict=False)


def _averages(engine: Engine) -> Iterator[tuple[str, str]]:
    for name, optimizer in engine.optimizers.items():
        if (text := optimization.remark(optimizer)) is not None:
            where = f" of {name}" if len(engine.optimizers) > 1 else ""
            yield f"averages{where}", text


def schedules(engine: Engine) -> dict[str, Any]:
    """Returns the schedule of each optimizer that has one, without the factor of callbacks."""
    several = len(engine.optimizers) > 1
    bases = {name: optimizer._learning_rate.base for name, optimizer in engine.optimizers.items()}
    return {
        f"{name}/learning_rate" if several else "learning_rate": base
        for name, base in bases.items()
        if callable(base)
    }
