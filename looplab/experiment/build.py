"""Makes a trainer from a configuration, in a fixed order.

First come seed, precision and strategy, then the data (a schedule needs its length), then, inside the
strategy's scope, models and optimizers, then callbacks and the trainer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from looplab import devices
from looplab import strategy as strategies
from looplab.callbacks import Callback
from looplab.config import Config, components, schema
from looplab.experiment import instantiate, write_limits
from looplab.experiment.datasets import arguments, data_of, limited
from looplab.experiment.schedules import rates
from looplab.experiment.slot_kinds import CALLBACKS
from looplab.protocols import Logger, Summary
from looplab.strategy import precision as dtypes
from looplab.trainer import Trainer
from looplab.training import trials

_log = logging.getLogger("looplab")


def rehearse(config: Config) -> Summary:
    """Runs one step and one evaluation batch of what a configuration describes; writes nothing.

    Args:
        config: From `looplab.config.check`.

    Returns:
        What `run` would do, and the results of the step; see `looplab.training.rehearsal`.

    Raises:
        LooplabError: See `Trainer.rehearse`.
    """
    trainer, data = build(config, None)
    return trials.rehearse(trainer, arguments(config, data), is_recorded=True)


def build(
    config: Config,
    run_dir: Path | None,
    callbacks: Sequence[Callback] = (),
    hyperparameters: Mapping[str, Any] | None = None,
) -> tuple[Trainer, Mapping[str, Any]]:
    """Makes the trainer and the data that a configuration describes.

    Args:
        config: From `looplab.config.check`.
        run_dir: The run directory, or None.
        callbacks: Callbacks that are called after those of the configuration.
        hyperparameters: Values by which loggers compare the run with others.

    Returns:
        The trainer, and its data by split: `"train"` and perhaps `"validation"`.

    Raises:
        Refused: If sections name something that does not fit their slots; nothing is made then.
        ConfigurationError: If the objects that were made cannot be used.
    """
    instantiate.check(config)
    write_limits.check(config, run_dir)
    config = write_limits.placed(config, run_dir)
    devices.configure(**vars(config.devices))
    strategy = _strategy(config.strategy)
    with dtypes.scope(config.precision.policy):  # sources use its float type
        whole = data_of(config)
        data = limited(config, whole)
    models = _factories(config.model, "model", keras.Model)
    kind = keras.optimizers.Optimizer
    optimizers = _factories(config.optimizer, "optimizer", kind, rates(config, whole))
    own = [
        instantiate.make(section, key, CALLBACKS)
        for key, section in components.sections(config.callbacks, "callbacks").items()
    ]
    loggers = [
        instantiate.make(section, key, Logger)
        for key, section in components.sections(config.loggers.more, "loggers.more").items()
    ]
    arguments = {
        **_one_or_several("model", models),
        **_one_or_several("optimizer", optimizers),
        "loss": instantiate.make_nested(config.loss, "loss", keras.losses.Loss),
        "loss_weights": config.loss_weights,
        **{
            name: instantiate.make_nested(getattr(config, name), name, keras.metrics.Metric)
            for name in ("metrics", "weighted_metrics")
        },
        "parameter_groups": config.parameter_groups,
        "strategy": strategy,
        "batch_norm": config.strategy.batch_norm,
        "random": config.strategy.random,
        "precision": config.precision.policy,
        "seed": config.seed,
        "callbacks": [*own, *callbacks],
        "run_dir": run_dir,
        "resume": "never" if config.resume == "never" else "auto",
        "initialize_from": config.initialize_from,
        "execution": config.execution,
        "on_nonfinite": config.on_nonfinite,
        "spikes": config.spikes,
        "allow_change": _allowed(config.allow_change),
        "hang_timeout": config.hang_timeout,
        "checkpoint": config.checkpoint,
        "log_every": config.loggers.every,
        "loggers": loggers,
        "hyperparameters": hyperparameters,
    }
    section = config.trainer or {"_target_": "looplab.trainer.Trainer"}
    return instantiate.make(section, "trainer", Trainer, **arguments), data


def _allowed(names: Sequence[str]) -> list[str]:
    """Returns the values of `allow_change` for checkpoints; keys were already compared elsewhere."""
    callbacks = any(name == "config" or name.split(".")[0] == "callbacks" for name in names)
    return [n for n in names if n in schema.OF_A_CHECKPOINT] + ["config"] + ["callbacks"] * callbacks


def _strategy(section: schema.Strategy) -> tf.distribute.Strategy:
    if section.replicas:  # only for simulated
        return strategies.simulated(section.replicas)
    return strategies.tpu(section.address) if section.name == "tpu" else strategies.build(section.name)


def _factories(
    section: Any,
    slot: str,
    base: type,
    more: Callable[[dict[str, Any]], dict[str, Any]] = lambda section: {},
) -> dict[str, Any]:
    """Returns a Keras name or a factory for each object in a section: one, or several by name."""
    if not section:
        return {}
    if isinstance(section, str):
        return {slot: section}
    if "_target_" in section:
        return {slot: lambda: instantiate.make(section, slot, base, **more(section))}

    def factory(own: Any, key: str) -> Any:
        if isinstance(own, str):
            return own
        if isinstance(own, list):  # an optimizer and its models, or only the models
            return [factory(own[0], key), *own[1:]]
        return lambda: instantiate.make(own, key, base, **more(own))

    return {name: factory(own, f"{slot}.{name}") for name, own in section.items()}


def _one_or_several(slot: str, factories: dict[str, Any]) -> dict[str, Any]:
    if set(factories) <= {slot}:
        return {slot: factories.get(slot)}
    return {f"{slot}s": factories}
