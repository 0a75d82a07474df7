"""From a configuration to a trainer and its data, in a fixed order.

Seed, precision and strategy first, then data (a schedule needs its length), then, inside the
strategy's scope, models and optimizers, then callbacks and the trainer.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra.utils
import keras
from omegaconf import DictConfig, OmegaConf

from looplab import strategy as strategies
from looplab.callbacks import Callback
from looplab.checkpoint import Policy
from looplab.data import epoch_length
from looplab.errors import ConfigurationError
from looplab.interval import Interval
from looplab.loggers import History
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
    trainer, data = build(config, run_dir)
    write_config(config, run_dir)
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
    name, replicas = config.strategy.name, config.strategy.replicas
    strategy = strategies.simulated(replicas or 2) if name == "simulated" else strategies.build(name)
    data = _data(config)
    models = _factories(config.model, "model", keras.Model)
    optimizers = _factories(config.optimizer, "optimizer", keras.optimizers.Optimizer, _rates(config, data))
    callbacks = [
        _make(section, f"callbacks.{key}", Callback) for key, section in (config.callbacks or {}).items()
    ]
    section = config.trainer or OmegaConf.create({"_target_": "looplab.trainer.Trainer"})
    trainer = _make(
        section,
        "trainer",
        Trainer,
        **_one_or_several("model", models),
        **_one_or_several("optimizer", optimizers),
        loss=_nested(config.loss, "loss", keras.losses.Loss),
        metrics=_nested(config.metrics, "metrics", keras.metrics.Metric),
        strategy=strategy,
        precision=config.precision.policy,
        micro_batches=config.execution.micro_batches,
        seed=config.seed,
        callbacks=callbacks,
        run_dir=run_dir,
        resume="never" if config.resume == "never" else "auto",
        execution=config.execution.mode,
        steps_per_execution=config.execution.steps_per_execution,
        run_eagerly=config.execution.run_eagerly,
        checkpoint=Policy(**config.checkpoint),
        log_every=config.loggers.every,
    )
    return trainer, data


def write_config(config: DictConfig, run_dir: Path) -> None:
    """Writes `config.yaml`: the composed configuration, interpolations unresolved.

    Where the run directory has another one, the keys that differ are said.
    """
    path = run_dir / "config.yaml"
    if path.exists():
        before, now = OmegaConf.load(path), OmegaConf.create(OmegaConf.to_yaml(config))
        changed = [
            key for key in sorted({*before, *now}) if before.get(key) != now.get(key)
            and key not in ("run_dir", "resume")
        ]  # fmt: skip
        if changed:
            _log.warning("the configuration differs from that of this run in: %s", ", ".join(changed))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OmegaConf.to_yaml(config), encoding="utf-8")


def _data(config: DictConfig) -> Mapping[str, Any]:
    if config.data.source is None:
        return {}
    data = _make(config.data.source, "data.source", object)
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
        return {"learning_rate": _make(OmegaConf.create(section), "schedule", kind)}

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
        return {slot: lambda: _make(section, slot, base, **more(section))}

    def factory(name: str) -> Callable[[], Any]:
        return lambda: _make(section[name], f"{slot}.{name}", base, **more(section[name]))

    return {str(name): factory(str(name)) for name in section}


def _one_or_several(slot: str, factories: dict[str, Any]) -> dict[str, Any]:
    if set(factories) <= {slot}:
        return {slot: factories.get(slot)}
    return {f"{slot}s": factories}


def _nested(section: Any, slot: str, base: type) -> Any:
    """Makes what a loss or metrics section describes: names stay, targets are made."""
    if OmegaConf.is_list(section):
        return [_nested(item, f"{slot}[{index}]", base) for index, item in enumerate(section)]
    if OmegaConf.is_dict(section):
        if "_target_" in section:
            return _make(section, slot, base)
        return {str(key): _nested(item, f"{slot}.{key}", base) for key, item in section.items()}
    return section


def _make(section: Any, slot: str, base: type, **more: Any) -> Any:
    """Calls what a section's `_target_` names, if it fits the slot.

    Raises:
        ConfigurationError: If there is no target, it cannot be imported, is of another kind than
            the slot takes, or refuses its arguments.
    """
    target = section.get("_target_") if OmegaConf.is_dict(section) else None
    if not target:
        raise ConfigurationError(f"{slot}: expected a section with a _target_, got {section!r}.")
    try:
        found = hydra.utils.get_object(target)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"{slot}._target_: cannot import {target!r}: {reason}") from None
    if not callable(found) or (isinstance(found, type) and not issubclass(found, base)):
        raise ConfigurationError(
            f"{slot}._target_: {target} is not a {base.__module__}.{base.__name__}, which this slot takes."
        )
    words = sorted(str(key) for key in section if str(key).startswith("_") and key != "_target_")
    if words:
        raise ConfigurationError(f"{slot}: {', '.join(words)} cannot be used here.")
    arguments = {
        str(key): hydra.utils.instantiate(value, _convert_="all") if OmegaConf.is_config(value) else value
        for key, value in section.items()
        if key != "_target_"
    }
    try:
        inspect.signature(found).bind(**{**arguments, **more})
    except TypeError as error:
        raise ConfigurationError(f"{slot}: {target} refuses its arguments: {error}.") from None
    made = found(**{**arguments, **more})
    if not isinstance(made, base):
        raise ConfigurationError(f"{slot}: {target} returned a {type(made).__name__}, not a {base.__name__}.")
    return made
