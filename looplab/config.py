"""The schema of a configuration: sections, types, defaults; and where configurations are found.

Imports neither TensorFlow nor Keras: what can be known from a configuration alone is refused before
they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from looplab.errors import ConfigurationError, nearest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass
class Data:
    """Where examples come from.

    Attributes:
        source: `_target_` of a function that returns `{"train": ..., "validation": ...}`, each as
            the data of `Trainer.fit`, and its arguments.
        batch_size: Examples of a global batch of arrays; null for a `tf.data.Dataset`.
        shuffle: Whether arrays come in a new order each epoch.
        steps_per_epoch: Steps of an epoch of a dataset or of `make_batch`; null for all there is.
    """

    source: Any = None
    batch_size: int | None = 32
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
    try:
        config = OmegaConf.merge(OmegaConf.structured(Config), composed)
        OmegaConf.to_container(config, resolve=True)
    except ConfigKeyError as error:
        raise ConfigurationError(_unknown_key(error)) from None
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise ConfigurationError(f"{error.full_key}: {first}.") from None
    assert isinstance(config, DictConfig)
    if (config.epochs is None) == (config.steps is None):
        raise ConfigurationError(f"epochs={config.epochs} and steps={config.steps}: give one of the two.")
    if config.resume not in ("auto", "latest", "never"):
        raise ConfigurationError(
            f"resume: {config.resume!r} is not one of auto, latest, never."
            + nearest(str(config.resume), ("auto", "latest", "never"))
        )
    if config.strategy.replicas is not None and config.strategy.name != "simulated":
        raise ConfigurationError(
            f"strategy.replicas={config.strategy.replicas} goes with strategy=simulated only; the "
            f"strategy is {config.strategy.name!r}."
        )
    return config


def run_directory(config: DictConfig, experiment: str, runs: Path = Path("runs")) -> Path:
    """Returns the run directory that a configuration means; makes nothing.

    Args:
        config: A checked configuration.
        experiment: The experiment's name.
        runs: The folder of all runs.

    Raises:
        ConfigurationError: If the experiment's name cannot be a folder's.
    """
    if config.run_dir is not None:
        return Path(config.run_dir)
    if not _NAME.fullmatch(experiment):
        raise ConfigurationError(
            f"experiment: {experiment!r} cannot name a folder; give run_dir=..., or use letters, "
            "digits, '.', '_' and '-'."
        )
    folder = runs / experiment
    if config.resume == "latest":
        earlier = sorted(path for path in folder.glob("*") if path.is_dir())
        if earlier:
            return earlier[-1]
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    names = [stamp, *(f"{stamp}_{number}" for number in range(1, 1000))]
    return next(folder / name for name in names if not (folder / name).exists())


def _unknown_key(error: ConfigKeyError) -> str:
    key = str(error.full_key or error.key)
    *parents, last = key.split(".")
    kind: Any = error.object_type if isinstance(error.object_type, type) else Config
    valid = [f.name for f in fields(kind)] if hasattr(kind, "__dataclass_fields__") else []
    where = ".".join(parents) or "the configuration"
    return f"{key}: there is no such key in {where}; valid are {', '.join(valid)}." + nearest(last, valid)
