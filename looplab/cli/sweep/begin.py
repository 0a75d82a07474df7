"""Begins a sweep: chooses its directory, and records what its jobs have in common."""

from __future__ import annotations

import hashlib
import math
import sys
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from looplab.cli.sweep.lifeline import Lifeline
from looplab.errors import ConfigurationError, LooplabError
from looplab.runs.directory import experiment_folder, holds_run, write_sealed


class Sweep:
    """The sweep of this process.

    Attributes:
        directory: The directory with the folders of its jobs.
        lifeline: Ends its jobs together with the sweep.
    """

    present: Sweep | None = None

    def __init__(self, directory: Path, facts: dict[str, Any]) -> None:
        """Creates the directory, and writes the facts of the sweep into it."""
        self.directory = directory
        write_sealed(directory / "sweep.json", facts)
        self.lifeline = Lifeline()


class Begin(Callback):
    """Sets the directory of the sweep when Hydra has composed the sweep."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See Hydra's `Callback`. Hydra only warns if a callback raises, so a refusal exits."""
        try:
            Sweep.present = _begin(config)
        except (LooplabError, OSError) as error:
            print(f"looplab: {error}", file=sys.stderr)
            raise SystemExit(getattr(error, "exit_code", 2)) from None


def quoted(path: Path) -> str:
    """Returns a path as a value that Hydra reads back unchanged."""
    return QuotedString(str(path), Quote.single).with_quotes()


def without_options(words: list[str]) -> list[str]:
    """Returns words without `+sweep=...`, which only sets how a sweep is run."""
    return [word for word in words if word.lstrip("+").partition("=")[0] != "sweep"]


def digest(*contents: Any) -> str:
    """Returns 8 hexadecimal digits that identify configurations and texts."""
    texts = [OmegaConf.to_yaml(item) if OmegaConf.is_config(item) else repr(item) for item in contents]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]


def composition(config: DictConfig) -> DictConfig:
    """Returns the part of a composed configuration that is about the run itself."""
    return _without(config, "hydra", "run_dir", "resume")


def _without(config: DictConfig, *left_out: str) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key not in left_out])


def _begin(config: DictConfig) -> Sweep:
    hydra = config.hydra
    words = without_options(list(hydra.overrides.task))
    overrides = OverridesParser.create().parse_overrides(words)
    if any(word.partition("=")[0] == "hydra.sweep.dir" for word in hydra.overrides.hydra):
        raise ConfigurationError(
            "hydra.sweep.dir: use run_dir=... instead; its folders 0, 1, ... are the jobs."
        )
    for override in overrides:
        if override.key_or_group == "run_dir" and override.is_sweep_override():
            raise ConfigurationError(
                "run_dir: a sweep has one directory; its folders 0, 1, ... are the jobs."
            )
    _check_direction(config)
    directory = _directory(config, overrides)
    if holds_run(directory):
        raise ConfigurationError(
            f"run_dir: {directory} already holds a single run. Choose another directory for the sweep."
        )
    hydra.sweep.dir = str(directory)
    hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(directory)}")  # since jobs compose again
    facts = {
        "words": words,
        "fixed": [o.get_key_element().lstrip("+~") for o in overrides if not o.is_sweep_override()],
        "jobs": _number_of_jobs(hydra.sweeper, overrides),
    }
    return Sweep(directory, facts)


def _check_direction(config: DictConfig) -> None:
    """Refuses a search for the worst value."""
    from looplab.checkpoint import Policy  # loads NumPy, which other commands do not need

    direction = config.hydra.sweeper.get("direction")
    policy = Policy(monitor=config.checkpoint.monitor, mode=config.checkpoint.mode)
    rises = policy.better(1.0, 0.0)
    if direction in ("minimize", "maximize") and rises != (direction == "maximize"):
        better = "higher" if rises else "lower"
        raise ConfigurationError(
            f"hydra.sweeper.direction: {direction}, but for checkpoint.monitor={policy.monitor} a {better} "
            f"value is better: set hydra.sweeper.direction={'maximize' if rises else 'minimize'}."
        )


def _directory(config: DictConfig, overrides: list[Override]) -> Path:
    """Returns the sweep's directory: the given one, or one derived from what the sweep computes.

    The order of words does not matter, except for swept words, whose order numbers the jobs.
    """
    if config.run_dir is not None:
        return Path(config.run_dir).expanduser()
    fixed = sorted(o.input_line or "" for o in overrides if not o.is_sweep_override())
    swept = [o.input_line for o in overrides if o.is_sweep_override()]
    sweeper = _without(config.hydra.sweeper, "n_trials")  # a sweep may continue with more trials
    choice = config.hydra.runtime.choices.get("experiment")
    experiment = str(choice or "train").replace("/", "_")
    return experiment_folder(experiment) / f"sweep_{digest(fixed, swept, sweeper, composition(config))}"


def _number_of_jobs(sweeper: DictConfig, overrides: list[Override]) -> int | None:
    if "n_trials" in sweeper:
        return int(sweeper.n_trials)
    if not str(sweeper._target_).endswith(".BasicSweeper"):
        return None
    params = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in (sweeper.params or {}).items()])
    by_key = {override.get_key_element(): override for override in [*params, *overrides]}
    swept = [override for override in by_key.values() if override.is_discrete_sweep()]
    return math.prod(len(list(override.sweep_string_iterator())) for override in swept)
