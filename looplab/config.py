"""The schema of a configuration: sections, types, defaults; and where configurations are found.

Imports neither TensorFlow nor Keras: what can be known from a configuration alone is refused before
they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from looplab.errors import ConfigurationError, nearest
from looplab.interval import Interval
from looplab.run_directory import holds_run, refuse_run

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

# What the rooms refuse too, said here so that it takes no TensorFlow to find out.
NAMES: Mapping[str, Sequence[str | int]] = {
    "resume": ("auto", "latest", "never"),
    "strategy.name": ("auto", "one_device", "mirrored", "simulated"),
    "precision.policy": ("float32", "float64", "mixed_bfloat16"),
    "execution.mode": ("graph", "xla_step"),
    "checkpoint.mode": ("auto", "min", "max"),
    "loggers.verbose": ("auto", 0, 1, 2),
}
_RANGES = {
    "epochs": (1, None),
    "steps": (1, None),
    "seed": (0, 2**32 - 1),
    "data.batch_size": (1, None),
    "data.steps_per_epoch": (1, None),
    "strategy.replicas": (1, None),
    "execution.micro_batches": (1, None),
    "checkpoint.keep_last": (1, None),
}


@dataclass
class Data:
    """Where examples come from.

    Attributes:
        source: `_target_` of a function that returns `{"train": ..., "validation": ...}`, each as
            the data of `Trainer.fit`, and its arguments.
        batch_size: Examples of a global batch of arrays (32 if null); null for a `tf.data.Dataset`.
        shuffle: Whether arrays come in a new order each epoch.
        steps_per_epoch: Steps of an epoch of a dataset or of `make_batch`; null for all there is.
    """

    source: Any = None
    batch_size: int | None = None
    shuffle: bool = True
    steps_per_epoch: int | None = None


@dataclass
class Strategy:
    """How a step is spread over devices.

    Attributes:
        name: `auto`, `one_device`, `mirrored` or `simulated`.
        replicas: Number of replicas, for `simulated` only.
    """

    name: str = "auto"
    replicas: int | None = None


@dataclass
class Precision:
    """The dtypes of computation.

    Attributes:
        policy: `float32`, `float64` or `mixed_bfloat16`.
    """

    policy: str = "float32"


@dataclass
class Execution:
    """How steps run.

    Attributes:
        mode: `graph` or `xla_step`.
        steps_per_execution: Steps in one call, or `auto`; no result depends on it.
        run_eagerly: Whether steps run in Python, for a debugger.
        micro_batches: In how many pieces an update computes its gradients.
    """

    mode: str = "graph"
    steps_per_execution: Any = "auto"
    run_eagerly: bool = False
    micro_batches: int = 1


@dataclass
class Checkpoint:
    """When to save and what to keep; see `looplab.CheckpointPolicy`.

    Attributes:
        every: Interval, such as `1ep`, `500st`, `10min`.
        keep_last: How many of the newest to keep.
        monitor: The value that says which is best.
        mode: `min`, `max` or `auto`.
    """

    every: Any = "1ep"
    keep_last: int = 2
    monitor: str = "val_loss"
    mode: str = "auto"


@dataclass
class Loggers:
    """What is logged.

    Attributes:
        every: Interval of the steps whose own values are logged.
        verbose: 0 nothing, 1 a progress bar, 2 a line per epoch, or `auto`.
    """

    every: Any = "10st"
    verbose: Any = "auto"


@dataclass
class Config:
    """A whole configuration.

    Attributes:
        epochs: The last epoch of the run.
        steps: The last step of the run, instead of `epochs`.
        seed: Decides initial weights, masks and the order of data; 0 to 2**32 - 1.
        run_dir: Where the run is recorded; `runs/<experiment>/<date_time>` if null.
        resume: `auto` continues what is in `run_dir`, `latest` the newest run of the experiment,
            `never` refuses a directory that holds a run.
        loss: A Keras name, or `_target_` of a loss; a dict of these by output.
        metrics: A list of Keras names and of `_target_`s; a dict of lists by output.
        data: See `Data`.
        model: `_target_` of a Keras model; or several by name.
        trainer: `_target_` of a `looplab.Trainer` and arguments of its own.
        optimizer: `_target_` of a Keras optimizer; or several by name.
        schedule: `_target_` of a learning-rate schedule; empty for a constant rate.
        strategy: See `Strategy`.
        precision: See `Precision`.
        execution: See `Execution`.
        checkpoint: See `Checkpoint`.
        callbacks: `_target_`s of callbacks, by any name.
        loggers: See `Loggers`.
    """

    epochs: int | None = None
    steps: int | None = None
    seed: int = 0
    run_dir: str | None = None
    resume: str = "auto"
    loss: Any = None
    metrics: Any = None
    data: Data = field(default_factory=Data)
    model: Any = None
    trainer: Any = None
    optimizer: Any = None
    schedule: Any = None
    strategy: Strategy = field(default_factory=Strategy)
    precision: Precision = field(default_factory=Precision)
    execution: Execution = field(default_factory=Execution)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    callbacks: Any = None
    loggers: Loggers = field(default_factory=Loggers)


def directory() -> Path:
    """Returns the configuration tree shipped with looplab: in a wheel `looplab/conf`, else `conf`."""
    inside = Path(__file__).resolve().parent / "conf"
    return inside if inside.is_dir() else inside.parent.parent / "conf"


def check(composed: DictConfig) -> DictConfig:
    """Checks a composed configuration against the schema and fills in defaults.

    Args:
        composed: As Hydra composed it.

    Returns:
        The same with every section of the schema present, interpolations unresolved.

    Raises:
        ConfigurationError: For an unknown key, a wrong type, or values that contradict each other.
    """
    for own in fields(Config):
        kind: Any = own.default_factory
        if is_dataclass(kind) and own.name in composed and not OmegaConf.is_dict(composed[own.name]):
            keys = ", ".join(key.name for key in fields(kind))
            raise ConfigurationError(
                f"{own.name}: expected a section with the keys {keys}, got {composed[own.name]!r}."
            )
    try:
        config = OmegaConf.merge(OmegaConf.structured(Config), composed)
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except ConfigKeyError as error:
        raise ConfigurationError(unknown_key(error)) from None
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise ConfigurationError(f"{error.full_key}: {first}.") from None
    assert isinstance(config, DictConfig)
    _check_values(config)
    return config


def unknown_key(error: OmegaConfBaseException) -> str:
    """Says which key there is not, which there are, and the nearest of them."""
    *parents, last = str(error.full_key or error.key).split(".")
    where = ".".join(parents)
    section = error.parent_node
    known = list(section) if isinstance(section, DictConfig) else []
    valid = [str(key) for key in known if key not in ("_target_", "hydra")]
    if not parents and last == "experiment":
        return (
            "experiment: its keys are not those of the whole configuration. Begin the experiment's file "
            "with the line '# @package _global_'."
        )
    message = f"{'.'.join([*parents, last])}: there is no such key in {where or 'the configuration'}; "
    return message + f"valid are {', '.join(valid) or 'none'}." + nearest(last, valid)


def is_free(key: str) -> bool:
    """Whether a key stands in a section that takes any: the arguments of someone's class."""
    kind: Any = Config
    for part in key.split(".")[:-1]:
        found = {own.name: own for own in fields(kind)}.get(part)
        if found is None:
            return False
        if not is_dataclass(found.default_factory):
            return found.type == "Any"
        kind = found.default_factory
    return False


def _check_values(config: DictConfig) -> None:
    if config.epochs is not None and config.steps is not None:
        raise ConfigurationError(
            f"epochs={config.epochs} and steps={config.steps}: give one of the two. Where an "
            "experiment has the other, make that null (epochs=null)."
        )
    if config.epochs is None and config.steps is None:
        raise ConfigurationError("neither epochs nor steps: say how long to train, epochs=N or steps=N.")
    for key, names in NAMES.items():
        value = OmegaConf.select(config, key)
        if value not in names:
            listed = [str(name) for name in names]
            raise ConfigurationError(
                f"{key}: {value!r} is not one of {', '.join(listed)}." + nearest(str(value), listed)
            )
    for key, (least, most) in _RANGES.items():
        value = OmegaConf.select(config, key)
        if value is not None and (value < least or (most is not None and value > most)):
            limits = f"at least {least}" if most is None else f"from {least} to {most}"
            raise ConfigurationError(f"{key}: must be {limits}, got {value}.")
    for key in ("checkpoint.every", "loggers.every"):
        interval = Interval.parse(OmegaConf.select(config, key), what=key)
        if interval.wall_clock and key == "loggers.every":
            raise ConfigurationError(
                f"{key}: {interval} is wall-clock time, and what is logged must be reproducible. Use "
                "steps, epochs or examples."
            )
    at_once = config.execution.steps_per_execution
    if at_once != "auto" and (not isinstance(at_once, int) or isinstance(at_once, bool) or at_once < 1):
        raise ConfigurationError(
            f"execution.steps_per_execution: must be 'auto' or at least 1, got {at_once!r}."
        )
    if config.strategy.replicas is not None and config.strategy.name != "simulated":
        raise ConfigurationError(
            f"strategy.replicas={config.strategy.replicas} goes with strategy=simulated only; the "
            f"strategy is {config.strategy.name!r}."
        )


def run_directory(config: DictConfig, experiment: str, runs: Path = Path("runs")) -> Path:
    """Returns the run directory that a configuration means; makes nothing.

    Args:
        config: A checked configuration.
        experiment: The experiment's name.
        runs: The folder of all runs.

    Raises:
        ConfigurationError: If the experiment's name cannot be a folder's, or the directory cannot
            be one, or holds a run and `resume` is `never`.
    """
    if config.run_dir is not None:
        chosen = Path(config.run_dir).expanduser()
        there = next(path for path in (chosen, *chosen.parents) if path.exists())
        if not there.is_dir():
            raise ConfigurationError(f"run_dir: {chosen} cannot be a folder, since {there} is a file.")
        if config.resume == "never":
            refuse_run(chosen)
        return chosen
    if not _NAME.fullmatch(experiment):
        raise ConfigurationError(
            f"experiment: {experiment!r} cannot name a folder; give run_dir=..., or use letters, "
            "digits, '.', '_' and '-'."
        )
    folder = runs / experiment
    if config.resume == "latest":
        earlier = [path for path in folder.glob("*") if holds_run(path)]
        if earlier:  # a second run within one second is called _1, the eleventh _10
            return max(earlier, key=lambda path: (path.name[:19], len(path.name), path.name))
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    names = [stamp, *(f"{stamp}_{number}" for number in range(1, 1000))]
    return next(folder / name for name in names if not (folder / name).exists())
