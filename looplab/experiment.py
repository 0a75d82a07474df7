"""From a configuration to a trainer and its data, in a fixed order.

Seed, precision and strategy first, then data (a schedule needs its length), then, inside the
strategy's scope, models and optimizers, then callbacks and the trainer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from omegaconf import OmegaConf

from looplab import confined, devices, slots
from looplab import strategy as strategies
from looplab.callbacks import Callback, Event
from looplab.checkpoint import Policy
from looplab.config import Config, diff, schema
from looplab.config.components import CALLBACK
from looplab.data import (
    Source,
    Validation,
    as_source,
    build_feed,
    epoch_length,
    first_batches,
    split_and_weigh,
    training_table,
    with_classes,
)
from looplab.errors import ConfigurationError, EndRequested, Problem, Refused, nearest
from looplab.interval import Interval
from looplab.loggers import History
from looplab.optimization import SpikeDetection
from looplab.protocols import Controls, Feed, Logger, Summary
from looplab.runs import crash_report, wall_time
from looplab.runs.directory import attempted, ending, outcome_of, read_outcome, write_outcome, write_text
from looplab.strategy import precision as dtypes
from looplab.trainer import Trainer

_log = logging.getLogger("looplab")
_SLIPS = {  # what else a split is called elsewhere
    "train": ("training", "Train", "train_set", "train_data"),
    "validation": ("val", "valid", "validate", "Validation", "validation_set", "validation_data"),
}

_CALLBACKS = Callback, keras.callbacks.Callback
_KINDS: dict[str, type | tuple[type, ...]] = {
    CALLBACK: _CALLBACKS,
    "looplab.Logger": Logger,
    "looplab.Trainer": Trainer,
}


def run(config: Config, run_dir: Path, written: Mapping[str, Any]) -> History:
    """Trains what a configuration describes.

    Args:
        config: From `looplab.config.check`.
        run_dir: Where to record it.
        written: What to write into `config.yaml`, from `looplab.config.diff.written`.

    Returns:
        The values of every epoch.

    Raises:
        LooplabError: As `Trainer.fit`, and `EndRequested`.
    """
    try:
        with wall_time.starting() as start:
            with start.time("start/build"):
                trainer, data = _built(config, run_dir, written)
            return trainer.fit(**arguments(config, data), verbose=config.loggers.verbose)
    except ConfigurationError:
        raise
    except (Exception, EndRequested) as error:  # perhaps before there was anything to record
        with attempted(run_dir):
            if not (run_dir / "config.yaml").exists():
                write_config(written, run_dir)
            if read_outcome(run_dir) is None:
                write_outcome(run_dir, ending(error))
        raise


def _built(config: Config, run_dir: Path, written: Mapping[str, Any]) -> tuple[Trainer, Mapping[str, Any]]:
    """Builds a trainer that records its run; what fails before it can is reported here."""
    said: list[logging.LogRecord] = []
    own = [WriteConfig(written, run_dir), Say(said)]
    try:
        with _heard(said):
            return build(config, run_dir, own, diff.compared(written))
    except ConfigurationError:
        raise
    except Exception as error:
        crash_report.write(run_dir, error, outcome_of(run_dir, error))
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
    return trainer.rehearse(**arguments(config, data))


def feeds(config: Config) -> dict[str, Feed]:
    """Returns the data that a configuration describes, by split, as a run reads it.

    Args:
        config: From `looplab.config.check`.

    Raises:
        Refused: If sections name what does not fit their slots.
        ConfigurationError: If there is no data but what the trainer makes.
        DataError: If data cannot be read.
    """
    slots.check(config, _KINDS)
    confined.check(config, None)
    devices.configure(**vars(config.devices))
    with dtypes.scope(config.precision.policy):
        data = _limited(config, _data(config))
        if not data:
            raise ConfigurationError(
                "data.source is null: the trainer makes its batches, which looplab.check looks at."
            )
        per_epoch = _steps_per_epoch(config, data)
        found = {}
        for split, own in data.items():
            train = split == "train"
            given = Validation(own) if train else validation_set(config, split, own)
            source = as_source(given.data)
            found[split] = build_feed(
                source,
                batch_size=config.data.batch_size if train or not source.batched else None,
                shuffle=train and config.data.shuffle,
                seed=config.seed,
                steps_per_epoch=per_epoch if train else given.steps,
            )
        return found


def build(
    config: Config,
    run_dir: Path | None,
    callbacks: Sequence[Callback] = (),
    hyperparameters: Mapping[str, Any] | None = None,
) -> tuple[Trainer, Mapping[str, Any]]:
    """Makes the trainer and the data that a configuration describes.

    Args:
        config: From `looplab.config.check`.
        run_dir: Where the run is to be recorded, or None.
        callbacks: Notified after those of the configuration.
        hyperparameters: What loggers compare the run with others by.

    Returns:
        The trainer, and its data by split: `"train"` and perhaps `"validation"`.

    Raises:
        Refused: If sections name what does not fit their slots; nothing is made then.
        ConfigurationError: If what is made does not serve.
    """
    slots.check(config, _KINDS)
    confined.check(config, run_dir)
    callback_sections = {
        f"callbacks.{name}": confined.placed(section, f"callbacks.{name}", run_dir)
        for name, section in (config.callbacks or {}).items()
        if section is not None
    }
    devices.configure(**vars(config.devices))
    strategy = _strategy(config.strategy)
    with dtypes.scope(config.precision.policy):  # sources keep its float type
        whole = _data(config)
        data = _limited(config, whole)
    models = _factories(config.model, "model", keras.Model)
    optimizers = _factories(config.optimizer, "optimizer", keras.optimizers.Optimizer, _rates(config, whole))
    own = [slots.make(section, key, _CALLBACKS) for key, section in callback_sections.items()]
    loggers = [
        slots.make(section, f"loggers.more.{key}", Logger)
        for key, section in (config.loggers.more or {}).items()
        if section is not None
    ]
    arguments = {
        **_one_or_several("model", models),
        **_one_or_several("optimizer", optimizers),
        "loss": slots.make_nested(config.loss, "loss", keras.losses.Loss),
        "loss_weights": config.loss_weights,
        "metrics": slots.make_nested(config.metrics, "metrics", keras.metrics.Metric),
        "parameter_groups": config.parameter_groups,
        "strategy": strategy,
        "batch_norm": config.strategy.batch_norm,
        "precision": config.precision.policy,
        "micro_batches": config.execution.micro_batches,
        "seed": config.seed,
        "callbacks": [*own, *callbacks],
        "run_dir": run_dir,
        "resume": "never" if config.resume == "never" else "auto",
        "initialize_from": config.initialize_from,
        "execution": config.execution.mode,
        "steps_per_execution": config.execution.steps_per_execution,
        "run_eagerly": config.execution.run_eagerly,
        "on_nonfinite": config.on_nonfinite,
        "spikes": SpikeDetection(**vars(config.spikes)),
        # Of the configuration every key was compared already.
        "allow_change": [n for n in config.allow_change if n in schema.OF_A_CHECKPOINT] + ["config"],
        "hang_timeout": config.hang_timeout,
        "checkpoint": Policy(**vars(config.checkpoint)),
        "log_every": config.loggers.every,
        "loggers": loggers,
        "hyperparameters": hyperparameters,
    }
    section = config.trainer or {"_target_": "looplab.trainer.Trainer"}
    return slots.make(section, "trainer", Trainer, **arguments), data


def _strategy(section: schema.Strategy) -> tf.distribute.Strategy:
    if section.replicas:  # of simulated only
        return strategies.simulated(section.replicas)
    return strategies.tpu(section.address) if section.name == "tpu" else strategies.build(section.name)


class Say(Callback):
    """Says when training begins what was said while data was read: on the console, and in its log."""

    def __init__(self, said: Sequence[logging.LogRecord]) -> None:
        """Keeps the list, which may be filled later."""
        self._said = said

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`."""
        for record in self._said:
            _log.handle(record)


class _Listener(logging.Handler):
    def __init__(self, said: list[logging.LogRecord]) -> None:
        super().__init__(logging.INFO)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(record)


@contextmanager
def _heard(said: list[logging.LogRecord]) -> Iterator[None]:
    """Collects what looplab's rooms say within the block, where nobody else would hear it."""
    listener = _Listener(said)
    level, propagate = _log.level, _log.propagate
    _log.setLevel(min(level or logging.INFO, logging.INFO))
    _log.propagate = False
    _log.addHandler(listener)
    try:
        yield
    finally:
        _log.removeHandler(listener)
        _log.propagate = propagate
        _log.setLevel(level)


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
    changed = diff.since(run_dir, written)
    if changed:
        quiet = all(change.mark is schema.FREE for change in changed)
        _log.log(
            logging.INFO if quiet else logging.WARNING,
            "the configuration of this run changes: %s",
            ", ".join(map(str, changed)),
        )
    write_text(run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(written))))


def arguments(config: Config, data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `Trainer.fit`, given the data that `build` returned."""
    sets = {split: validation_set(config, split, own) for split, own in data.items() if split != "train"}
    return {
        "x": data.get("train"),
        "validation_data": sets or None,
        "batch_size": config.data.batch_size if "train" in data else None,
        "shuffle": config.data.shuffle,
        "class_weight": config.data.class_weight,
        **_length(config, data),
    }


def validation_set(config: Config, split: str, own: Any) -> Validation:
    """Returns a validation set with the interval and the number of batches that are meant for it.

    Those of a mapping that names the set hold, then those of the source's own `looplab.Validation`, then a
    value that is given for all sets.

    Args:
        config: From `looplab.config.check`.
        split: Its name.
        own: What the source has under it: data, or a `looplab.Validation`.
    """
    freq, steps = config.data.validation_freq, config.data.validation_steps
    if not isinstance(own, Validation):
        every = Validation.every if isinstance(freq, dict) else freq
        own = Validation(own, every, None if isinstance(steps, dict) else steps)
    by_set = {"every": freq, "steps": steps}
    named = {
        field: value[split] for field, value in by_set.items() if isinstance(value, dict) and split in value
    }
    return replace(own, **named)


def _refuse_unknown_sets(config: Config, data: Mapping[str, Any]) -> None:
    """Refuses names of validation sets that the source's data, or what takes its place, does not have."""
    sets = [split for split in data if split != "train"]
    if config.data.validation == "train" and "validation" not in sets:
        sets.append("validation")
    there_are = f"there are {', '.join(sets)}" if sets else "it has none"
    problems = [
        Problem(
            f"data.{key}.{name}",
            f"the data has no validation set {name!r}; {there_are}." + nearest(name, sets),
        )
        for key, value in (
            ("validation_freq", config.data.validation_freq),
            ("validation_steps", config.data.validation_steps),
        )
        for name in (value if isinstance(value, dict) else ())
        if name not in sets
    ]
    if problems:
        raise Refused(problems)


def _length(config: Config, data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how long to train."""
    per_epoch, epochs, steps = _steps_per_epoch(config, data), config.epochs, config.steps
    most = config.data.limit_epochs
    if most is not None:
        if config.data.limit:  # an epoch is one pass over what is left of the data
            per_epoch = None if "train" in data else config.data.limit
        length = per_epoch or epoch_length(data["train"], config.data.batch_size)
        if steps is None or length is None:
            epochs, steps = min(epochs or most, most), None
        else:
            steps = min(steps, most * length)
    return {"steps_per_epoch": per_epoch, "epochs": epochs, "steps": steps}


def _steps_per_epoch(config: Config, data: Mapping[str, Any]) -> int | None:
    """Returns what was asked for; `make_batch` has no end, so a limit is all it has."""
    asked: int | None = config.data.steps_per_epoch
    return asked if asked or "train" in data else config.data.limit


def _data(config: Config) -> Mapping[str, Any]:
    """Returns the data of the source by split; nothing where the trainer makes its own."""
    data = _of_source(config) if config.data.source is not None else {}
    if config.data.validation_split and data:
        train, held_out = split_and_weigh(
            data["train"], data.get("validation"), config.data.validation_split, None
        )
        data = {**data, "train": train, "validation": held_out}
    _refuse_unknown_sets(config, data)
    return data


def _of_source(config: Config) -> Mapping[str, Any]:
    target = config.data.source["_target_"]
    source = with_classes(config.data.source, training_table(config.data.source))
    data = slots.make(source, "data.source")
    if isinstance(data, Source | tuple):
        data = {"train": data}
    if isinstance(data, Mapping):
        _refuse_slips(data, target)
    if not isinstance(data, Mapping) or "train" not in data:
        raise ConfigurationError(
            f"data.source: {target} returned {_kind(data)}; expected a dict with 'train' and perhaps "
            "'validation', or training data alone."
        )
    return data


def _refuse_slips(data: Mapping[str, Any], target: str) -> None:
    """Refuses what people call a split instead of its name; as a set of its own it would mean less."""
    for split in data:
        meant = next((name for name, slips in _SLIPS.items() if split in slips and name not in data), None)
        if meant or split == "val":  # whose monitors would be those of `validation`
            raise ConfigurationError(
                f"data.source: {target} returned the split {split!r}; call it {meant or 'validation'!r}."
            )


def _kind(data: Any) -> str:
    return f"the splits {list(data)}" if isinstance(data, Mapping) else type(data).__name__


def _limited(config: Config, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns what is left of the data under the limits."""
    if limit := config.data.limit:
        data = {
            split: _exchanged(own, lambda rows: first_batches(rows, limit, config.data.batch_size))
            for split, own in data.items()
        }
    if config.data.validation == "train" and len(data) > 1:
        data = {"train": data["train"], "validation": data["train"]}
    if config.data.validation == "none":
        data = {split: own for split, own in data.items() if split == "train"}
    return data


def _exchanged(own: Any, change: Callable[[Any], Any]) -> Any:
    """Returns data, or a `Validation` of them, with other data in their place."""
    return replace(own, data=change(own.data)) if isinstance(own, Validation) else change(own)


def _rates(config: Config, data: Mapping[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns what gives an optimizer its schedule, which runs as long as training does."""
    if not config.schedule:
        return lambda section: {}
    per_epoch = _steps_per_epoch(config, data)
    if per_epoch is None and "train" in data:
        per_epoch = epoch_length(data["train"], config.data.batch_size)
    total = config.steps or (config.epochs * per_epoch if config.epochs and per_epoch else None)

    def schedule(optimizer: dict[str, Any]) -> dict[str, Any]:
        section = _completed(config.schedule, total, per_epoch, optimizer.get("learning_rate", 0.001))
        kind = keras.optimizers.schedules.LearningRateSchedule
        return {"learning_rate": slots.make(section, "schedule", kind)}

    return schedule


def _completed(
    section: Mapping[str, Any], total: int | None, per_epoch: int | None, rate: Any, key: str = "schedule"
) -> dict[str, Any]:
    """Returns the section of a schedule with steps for intervals, and what follows from the rest."""

    def steps(value: Any, name: str) -> int:
        interval = Interval.parse(value, what=f"{key}.{name}")
        return interval.next_step(0, per_epoch or 1, lambda _: None)

    found = dict(section)
    for name, value in section.items():
        if isinstance(value, dict) and "_target_" in value:
            found[name] = _completed(value, total, per_epoch, rate, f"{key}.{name}")
        elif name.endswith("_steps") and value:  # "2ep" is as good as a number of steps
            found[name] = steps(value, name)
        elif name == "boundaries":
            found[name] = [steps(each, name) for each in value]
    supplied = {
        "total_steps": total,
        "decay_steps": total,
        "learning_rate": rate,
        "initial_learning_rate": rate,
    }
    taken = slots.parameters(section["_target_"], f"{key}._target_")
    own = {name: value for name, value in supplied.items() if name in taken and found.get(name) is None}
    return found | own


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
