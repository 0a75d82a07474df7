"""From a configuration to a trainer and its data, in a fixed order.

Seed, precision and strategy first, then data (a schedule needs its length), then, inside the
strategy's scope, models and optimizers, then callbacks and the trainer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
from omegaconf import DictConfig, OmegaConf

from looplab import slots
from looplab import strategy as strategies
from looplab.callbacks import Callback, Event
from looplab.checkpoint import Policy
from looplab.data import epoch_length
from looplab.errors import ConfigurationError
from looplab.interval import Interval
from looplab.loggers import History
from looplab.protocols import Controls
from looplab.run_directory import ending, read_outcome, redacted, write_outcome, write_text
from looplab.trainer import Trainer

_log = logging.getLogger("looplab")


def run(config: DictConfig, run_dir: Path) -> History:
    """Trains what a configuration describes.

    Args:
        config: From `looplab.config.check`.
        run_dir: Where to record it.

    Returns:
        The values of every epoch.

    Raises:
        LooplabError: As `Trainer.fit`.
    """
    try:
        trainer, data = build(config, run_dir)
        return trainer.fit(
            data.get("train"),
            validation_data=data.get("validation"),
            batch_size=config.data.batch_size if "train" in data else None,
            shuffle=config.data.shuffle,
            steps_per_epoch=config.data.steps_per_epoch,
            epochs=config.epochs,
            steps=config.steps,
            verbose=config.loggers.verbose,
        )
    except ConfigurationError:
        raise
    except Exception as error:  # perhaps before there was anything to record
        if not (run_dir / "config.yaml").exists():
            write_config(config, run_dir)
        if read_outcome(run_dir) is None:
            write_outcome(run_dir, ending(error))
        raise


def build(config: DictConfig, run_dir: Path | None) -> tuple[Trainer, Mapping[str, Any]]:
    """Makes the trainer and the data that a configuration describes.

    Args:
        config: From `looplab.config.check`.
        run_dir: Where the run is to be recorded, or None.

    Returns:
        The trainer, and its data by split: `"train"` and perhaps `"validation"`.

    Raises:
        ConfigurationError: If a section names something that does not fit its slot.
    """
    replicas = config.strategy.replicas  # of simulated only
    strategy = strategies.simulated(replicas) if replicas else strategies.build(config.strategy.name)
    data = _data(config)
    models = _factories(config.model, "model", keras.Model)
    optimizers = _factories(config.optimizer, "optimizer", keras.optimizers.Optimizer, _rates(config, data))
    callbacks = [
        slots.make(section, f"callbacks.{key}", Callback) for key, section in (config.callbacks or {}).items()
    ]
    if run_dir is not None:
        callbacks.append(WriteConfig(config, run_dir))
    section = config.trainer or OmegaConf.create({"_target_": "looplab.trainer.Trainer"})
    arguments = {
        **_one_or_several("model", models),
        **_one_or_several("optimizer", optimizers),
        "loss": slots.make_nested(config.loss, "loss", keras.losses.Loss),
        "metrics": slots.make_nested(config.metrics, "metrics", keras.metrics.Metric),
        "strategy": strategy,
        "precision": config.precision.policy,
        "micro_batches": config.execution.micro_batches,
        "seed": config.seed,
        "callbacks": callbacks,
        "run_dir": run_dir,
        "resume": "never" if config.resume == "never" else "auto",
        "execution": config.execution.mode,
        "steps_per_execution": config.execution.steps_per_execution,
        "run_eagerly": config.execution.run_eagerly,
        "checkpoint": Policy(**config.checkpoint),
        "log_every": config.loggers.every,
    }
    taken = [key for key in arguments if OmegaConf.is_dict(section) and key in section]
    if taken:
        raise ConfigurationError(
            f"trainer.{taken[0]}: not an argument of your own; it comes from the rest of the configuration."
        )
    return slots.make(section, "trainer", Trainer, **arguments), data


class WriteConfig(Callback):
    """Writes `config.yaml` when training begins: a start that is refused leaves the file alone."""

    def __init__(self, config: DictConfig, run_dir: Path) -> None:
        """Keeps what to write, and where."""
        self._config, self._run_dir = config, run_dir

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`."""
        write_config(self._config, self._run_dir)


def write_config(config: DictConfig, run_dir: Path) -> None:
    """Writes `config.yaml`: the composed configuration, interpolations unresolved, secrets redacted.

    Where the run directory has another one, the keys that differ are said.
    """
    path = run_dir / "config.yaml"
    now = redacted(OmegaConf.to_container(config))
    if path.exists():
        before, after = (_flat(content) for content in (OmegaConf.to_container(OmegaConf.load(path)), now))
        keys = sorted({*before, *after} - {"run_dir", "resume"})
        changed = [key for key in keys if before.get(key) != after.get(key)]
        if changed:
            level = logging.INFO if {*changed} <= {"epochs", "steps"} else logging.WARNING
            differences = ", ".join(f"{key} ({before.get(key)} -> {after.get(key)})" for key in changed)
            _log.log(level, "the configuration of this run changes: %s", differences)
    write_text(path, OmegaConf.to_yaml(OmegaConf.create(now)))


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        return {prefix.removesuffix("."): content}
    return {k: v for key, item in content.items() for k, v in _flat(item, f"{prefix}{key}.").items()}


def _data(config: DictConfig) -> Mapping[str, Any]:
    if config.data.source is None:
        return {}
    data = slots.make(config.data.source, "data.source", object)
    if not isinstance(data, Mapping) or "train" not in data:
        raise ConfigurationError(
            f"data.source: {config.data.source._target_} returned {type(data).__name__}; expected a "
            "dict with 'train' and perhaps 'validation'."
        )
    unknown = sorted(set(data) - {"train", "validation"})
    if unknown:
        raise ConfigurationError(
            f"data.source: {config.data.source._target_} returned the splits {unknown}; valid are "
            "'train' and 'validation'."
        )
    return data


def _rates(config: DictConfig, data: Mapping[str, Any]) -> Callable[[DictConfig], dict[str, Any]]:
    """Returns what gives an optimizer its schedule, which runs as long as training does."""
    if not config.schedule:
        return lambda section: {}
    per_epoch = config.data.steps_per_epoch
    if per_epoch is None and "train" in data:
        per_epoch = epoch_length(data["train"], config.data.batch_size)
    total = config.steps or (config.epochs * per_epoch if per_epoch else None)

    def schedule(optimizer: DictConfig) -> dict[str, Any]:
        section = {str(key): value for key, value in config.schedule.items()}
        for key, value in section.items():
            if key.endswith("_steps") and value:  # "2ep" is as good as a number of steps
                interval = Interval.parse(value, what=f"schedule.{key}")
                section[key] = interval.next_step(0, per_epoch or 1, lambda _: None)
        if str(section.get("_target_")).startswith("looplab."):
            peak = optimizer.get("learning_rate", 0.001)
            section = {"total_steps": total, "learning_rate": peak} | section
        kind = keras.optimizers.schedules.LearningRateSchedule
        return {"learning_rate": slots.make(OmegaConf.create(section), "schedule", kind)}

    return schedule


def _factories(
    section: Any,
    slot: str,
    base: type,
    more: Callable[[DictConfig], dict[str, Any]] = lambda section: {},
) -> dict[str, Callable[[], Any]]:
    """Returns a factory for each thing a section describes: one, or several by name."""
    if not section:
        return {}
    if isinstance(section, str):
        return {slot: lambda: section}
    if "_target_" in section:
        return {slot: lambda: slots.make(section, slot, base, **more(section))}

    def factory(name: str) -> Callable[[], Any]:
        return lambda: slots.make(section[name], f"{slot}.{name}", base, **more(section[name]))

    return {str(name): factory(str(name)) for name in section}


def _one_or_several(slot: str, factories: dict[str, Any]) -> dict[str, Any]:
    if set(factories) <= {slot}:
        return {slot: factories.get(slot)}
    return {f"{slot}s": factories}
