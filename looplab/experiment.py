"""From a configuration to a trainer and its data, in a fixed order.

Seed, precision and strategy first, then data (a schedule needs its length), then, inside the
strategy's scope, models and optimizers, then callbacks and the trainer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from omegaconf import OmegaConf

from looplab import slots
from looplab import strategy as strategies
from looplab.callbacks import Callback, Event
from looplab.checkpoint import Policy
from looplab.config import Config, changes, schema
from looplab.data import epoch_length, first_batches
from looplab.errors import ConfigurationError
from looplab.interval import Interval
from looplab.loggers import History
from looplab.protocols import Controls, Summary
from looplab.run_directory import ending, read_outcome, write_outcome, write_text
from looplab.trainer import Trainer

_log = logging.getLogger("looplab")


_KINDS = {"looplab.Callback": Callback, "looplab.Trainer": Trainer}


def run(config: Config, run_dir: Path, written: Mapping[str, Any]) -> History:
    """Trains what a configuration describes.

    Args:
        config: From `looplab.config.check`.
        run_dir: Where to record it.
        written: What to write into `config.yaml`, from `looplab.config.changes.written`.

    Returns:
        The values of every epoch.

    Raises:
        LooplabError: As `Trainer.fit`.
    """
    try:
        trainer, data = build(config, run_dir, [WriteConfig(written, run_dir)])
        return trainer.fit(**_arguments(config, data), verbose=config.loggers.verbose)
    except ConfigurationError:
        raise
    except Exception as error:  # perhaps before there was anything to record
        if not (run_dir / "config.yaml").exists():
            write_config(written, run_dir)
        if read_outcome(run_dir) is None:
            write_outcome(run_dir, ending(error))
        raise


def rehearse(config: Config) -> Summary:
    """Runs one step and one evaluation batch of what a configuration describes; writes nothing.

    Args:
        config: From `looplab.config.check`.

    Returns:
        What `run` would do, and what the step gave; see `looplab.rehearsal`.

    Raises:
        LooplabError: As `Trainer.rehearse`.
    """
    trainer, data = build(config, None)
    return trainer.rehearse(**_arguments(config, data))


def build(
    config: Config, run_dir: Path | None, callbacks: Sequence[Callback] = ()
) -> tuple[Trainer, Mapping[str, Any]]:
    """Makes the trainer and the data that a configuration describes.

    Args:
        config: From `looplab.config.check`.
        run_dir: Where the run is to be recorded, or None.
        callbacks: Notified after those of the configuration.

    Returns:
        The trainer, and its data by split: `"train"` and perhaps `"validation"`.

    Raises:
        Refused: If sections name what does not fit their slots; nothing is made then.
        ConfigurationError: If what is made does not serve.
    """
    slots.check(config, _KINDS)
    replicas = config.strategy.replicas  # of simulated only
    strategy = strategies.simulated(replicas) if replicas else strategies.build(config.strategy.name)
    data = _data(config)
    models = _factories(config.model, "model", keras.Model)
    optimizers = _factories(config.optimizer, "optimizer", keras.optimizers.Optimizer, _rates(config, data))
    own = [
        slots.make(section, f"callbacks.{key}", Callback)
        for key, section in (config.callbacks or {}).items()
        if section is not None
    ]
    arguments = {
        **_one_or_several("model", models),
        **_one_or_several("optimizer", optimizers),
        "loss": slots.make_nested(config.loss, "loss", keras.losses.Loss),
        "metrics": slots.make_nested(config.metrics, "metrics", keras.metrics.Metric),
        "strategy": strategy,
        "precision": config.precision.policy,
        "micro_batches": config.execution.micro_batches,
        "seed": config.seed,
        "callbacks": [*own, *callbacks],
        "run_dir": run_dir,
        "resume": "never" if config.resume == "never" else "auto",
        "execution": config.execution.mode,
        "steps_per_execution": config.execution.steps_per_execution,
        "run_eagerly": config.execution.run_eagerly,
        "checkpoint": Policy(**vars(config.checkpoint)),
        "log_every": config.loggers.every,
    }
    section = config.trainer or {"_target_": "looplab.trainer.Trainer"}
    return slots.make(section, "trainer", Trainer, **arguments), data


class WriteConfig(Callback):
    """Writes `config.yaml` when training begins: a start that is refused leaves the file alone."""

    def __init__(self, written: Mapping[str, Any], run_dir: Path) -> None:
        """Keeps what to write, and where."""
        self._written, self._run_dir = written, run_dir

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`."""
        write_config(self._written, self._run_dir)


def write_config(written: Mapping[str, Any], run_dir: Path) -> None:
    """Writes `config.yaml`, and says what has changed where the run directory has another one."""
    changed = changes.since(run_dir, written)
    if changed:
        quiet = all(change.mark is schema.FREE for change in changed)
        _log.log(
            logging.INFO if quiet else logging.WARNING,
            "the configuration of this run changes: %s",
            ", ".join(map(str, changed)),
        )
    write_text(run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(written))))


def _arguments(config: Config, data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `Trainer.fit`."""
    return {
        "x": data.get("train"),
        "validation_data": data.get("validation"),
        "batch_size": config.data.batch_size if "train" in data else None,
        "shuffle": config.data.shuffle,
        "steps_per_epoch": _steps_per_epoch(config, data),
        "epochs": config.epochs,
        "steps": config.steps,
    }


def _steps_per_epoch(config: Config, data: Mapping[str, Any]) -> int | None:
    """Returns what was asked for; `make_batch` has no end, so a limit is all it has."""
    asked: int | None = config.data.steps_per_epoch
    return asked if asked or "train" in data else config.data.limit


def _data(config: Config) -> Mapping[str, Any]:
    if config.data.source is None:
        return {}
    target = config.data.source["_target_"]
    data = slots.make(config.data.source, "data.source")
    if not isinstance(data, Mapping) or "train" not in data:
        raise ConfigurationError(
            f"data.source: {target} returned {type(data).__name__}; expected a "
            "dict with 'train' and perhaps 'validation'."
        )
    unknown = sorted(set(data) - {"train", "validation"})
    if unknown:
        raise ConfigurationError(
            f"data.source: {target} returned the splits {unknown}; valid are 'train' and 'validation'."
        )
    if config.data.limit:
        data = {
            split: first_batches(own, config.data.limit, config.data.batch_size)
            for split, own in data.items()
        }
    if config.data.validation == "train" and "validation" in data:
        data = {**data, "validation": data["train"]}
    return data


def _rates(config: Config, data: Mapping[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns what gives an optimizer its schedule, which runs as long as training does."""
    if not config.schedule:
        return lambda section: {}
    per_epoch = _steps_per_epoch(config, data)
    if per_epoch is None and "train" in data:
        per_epoch = epoch_length(data["train"], config.data.batch_size)
    total = config.steps or (config.epochs * per_epoch if config.epochs and per_epoch else None)

    def schedule(optimizer: dict[str, Any]) -> dict[str, Any]:
        section = dict(config.schedule)
        for key, value in section.items():
            if key.endswith("_steps") and value:  # "2ep" is as good as a number of steps
                interval = Interval.parse(value, what=f"schedule.{key}")
                section[key] = interval.next_step(0, per_epoch or 1, lambda _: None)
        if str(section.get("_target_")).startswith("looplab."):
            peak = optimizer.get("learning_rate", 0.001)
            section = {"total_steps": total, "learning_rate": peak} | section
        kind = keras.optimizers.schedules.LearningRateSchedule
        return {"learning_rate": slots.make(section, "schedule", kind)}

    return schedule


def _factories(
    section: Any,
    slot: str,
    base: type,
    more: Callable[[dict[str, Any]], dict[str, Any]] = lambda section: {},
) -> dict[str, Any]:
    """Returns a Keras name or a factory for each thing a section describes: one, or several by name."""
    if not section:
        return {}
    if isinstance(section, str):
        return {slot: section}
    if "_target_" in section:
        return {slot: lambda: slots.make(section, slot, base, **more(section))}

    def factory(name: str) -> Callable[[], Any]:
        return lambda: slots.make(section[name], f"{slot}.{name}", base, **more(section[name]))

    return {name: own if isinstance(own, str) else factory(name) for name, own in section.items()}


def _one_or_several(slot: str, factories: dict[str, Any]) -> dict[str, Any]:
    if set(factories) <= {slot}:
        return {slot: factories.get(slot)}
    return {f"{slot}s": factories}
