"""From a configuration to a trainer and its data, in a fixed order.

Seed, precision and strategy first, then data (a schedule needs its length), then, inside the
strategy's scope, models and optimizers, then callbacks and the trainer.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra.utils
import keras
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from looplab import strategy as strategies
from looplab.callbacks import Callback, Event
from looplab.checkpoint import Policy
from looplab.data import epoch_length
from looplab.errors import ConfigurationError, nearest
from looplab.interval import Interval
from looplab.loggers import History
from looplab.protocols import Controls
from looplab.run_directory import ending, read_outcome, redacted, write_outcome, write_text
from looplab.trainer import Trainer

_log = logging.getLogger("looplab")

_KINDS = {
    keras.Model: "keras.Model",
    keras.optimizers.Optimizer: "keras.optimizers.Optimizer",
    keras.optimizers.schedules.LearningRateSchedule: "keras.optimizers.schedules.LearningRateSchedule",
    keras.losses.Loss: "keras.losses.Loss",
    keras.metrics.Metric: "keras.metrics.Metric",
    Callback: "looplab.Callback",
    Trainer: "looplab.Trainer",
}


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
        _make(section, f"callbacks.{key}", Callback) for key, section in (config.callbacks or {}).items()
    ]
    if run_dir is not None:
        callbacks.append(WriteConfig(config, run_dir))
    section = config.trainer or OmegaConf.create({"_target_": "looplab.trainer.Trainer"})
    arguments = {
        **_one_or_several("model", models),
        **_one_or_several("optimizer", optimizers),
        "loss": _nested(config.loss, "loss", keras.losses.Loss),
        "metrics": _nested(config.metrics, "metrics", keras.metrics.Metric),
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
    return _make(section, "trainer", Trainer, **arguments), data


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
    found = _locate(target, f"{slot}._target_")
    if not callable(found) or (isinstance(found, type) and not issubclass(found, base)):
        kind = _KINDS.get(base, "class or function")
        raise ConfigurationError(f"{slot}._target_: {target} is not a {kind}, which this slot takes.")
    words = sorted(str(key) for key in section if str(key).startswith("_") and key != "_target_")
    if words:
        raise ConfigurationError(f"{slot}: {', '.join(words)} cannot be used here.")
    given = {str(key): _argument(section[key], f"{slot}.{key}") for key in section if key != "_target_"}
    made = _call(found, slot, target, given, more)
    if not isinstance(made, base):
        kind = _KINDS.get(base, base.__name__)
        raise ConfigurationError(f"{slot}: {target} returned a {type(made).__name__}, not a {kind}.")
    return made


def _locate(target: Any, slot: str) -> Any:
    """Imports what a dotted name names; an exception in the imported code goes through."""
    first, *rest = str(target).split(".")
    if not all(part.isidentifier() for part in (first, *rest)):
        raise ConfigurationError(f"{slot}: {target!r} is not a dotted name such as 'mymodule.MyClass'.")
    if importlib.util.find_spec(first) is None:
        likely = ["keras", "looplab", *(path.stem for path in Path.cwd().glob("*.py"))]
        raise ConfigurationError(
            f"{slot}: cannot import {target!r}: there is no module {first!r}." + nearest(first, likely)
        )
    found, inside = importlib.import_module(first), first
    for part in rest:
        if not hasattr(found, part) and hasattr(found, "__path__"):
            module = f"{found.__name__}.{part}"
            if importlib.util.find_spec(module) is not None:
                importlib.import_module(module)
        if not hasattr(found, part):
            names = [name for name in dir(found) if not name.startswith("_")]
            raise ConfigurationError(
                f"{slot}: cannot import {target!r}: {inside} has no {part!r}." + nearest(part, names)
            )
        found, inside = getattr(found, part), f"{inside}.{part}"
    return found


def _argument(value: Any, slot: str) -> Any:
    """Returns an argument in plain types, what its own `_target_`s name made."""
    if not OmegaConf.is_config(value):
        return value
    try:
        return hydra.utils.instantiate(value, _convert_="all")
    except InstantiationException as error:
        if error.__cause__ is not None and str(error).startswith("Error in call"):
            raise error.__cause__ from None
        raise ConfigurationError(f"{slot}: {error}") from None


def _call(found: Callable[..., Any], slot: str, target: str, given: dict[str, Any], more: Any) -> Any:
    """Calls with arguments given in the configuration and more that looplab adds."""
    try:
        signature = inspect.signature(found)
    except ValueError:  # written in C
        return found(**{**given, **more})
    parameters = signature.parameters.values()
    variable = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    valid = [name for name in names if name not in more]
    extra = [name for name in given if name not in names]

    def refused(name: str) -> ConfigurationError:
        return ConfigurationError(
            f"{slot}.{name}: {target} takes no argument {name!r}; valid are {', '.join(valid) or 'none'}."
            + nearest(name, valid)
        )

    if extra and not variable:
        raise refused(extra[0])
    try:
        signature.bind(**{**given, **more})
    except TypeError as error:
        raise ConfigurationError(f"{slot}: {target} refuses its arguments: {error}.") from None
    try:
        return found(**{**given, **more})
    except (TypeError, ValueError) as error:
        for name in extra:
            if repr(name) in str(error):  # swallowed by **kwargs, and refused further down
                raise refused(name) from None
        if str(getattr(found, "__module__", "")).startswith("keras."):
            raise ConfigurationError(f"{slot}: {target} refuses its arguments: {error}") from None
        raise
