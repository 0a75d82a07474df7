"""Composes and checks the configuration of an existing run again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from looplab.config import config_file, hydra_settings, targets, validation
from looplab.config.compose import compose, refuse_bombs, understood
from looplab.config.contradictions import contradictions
from looplab.config.hydra_errors import options
from looplab.config.schema import Config
from looplab.errors import Problem, Refused

NAME = "of_run"  # the name of the primary configuration, kept in memory
# Settings that belong to the start of that run.
WORDS = ("++run_dir=null", "++resume=auto", "++allow_change=[]", "++from_run=null", "++initialize_from=null")


def keep(run_dir: Path, words: Sequence[str]) -> None:
    """Stores the configuration of a run under `NAME` in Hydra, as a base for composing.

    If a word replaces a section by an option of its group (`data=other`), the section is left out. Otherwise
    the keys that the option does not set would stay.

    Args:
        run_dir: A run directory with a `config.yaml` that the command wrote.
        words: Overrides.

    Raises:
        Refused: If there is no configuration that can be read.
    """
    refuse_bombs([run_dir])
    content = _read(run_dir)
    named = [match[1] for word in words if (match := re.match(r"(\w+)=[\w/.-]+$", word))]
    groups = [name for name in dict.fromkeys(named) if name in content and options(name)]
    for name in groups:
        del content[name]
    content["defaults"] = ["_self_", *({name: None} for name in groups)]
    ConfigStore.instance().store(name=NAME, node=content)


def composed(run_dir: Path, overrides: Sequence[str]) -> Config:
    """Returns the checked configuration of a run, for use in Python.

    Args:
        run_dir: See `keep`.
        overrides: Words as on a command line.

    Raises:
        Refused: With everything that is wrong with it.
    """
    words = [*hydra_settings.WORDS, *WORDS, *understood(overrides)]
    keep(run_dir, words)
    with hydra_settings.kept():
        composition = compose(words, name=NAME, run=run_dir)
        problems = [*composition.problems, *composition.unsafe]
        if composition.config is not None:
            config, found = validation.look(composition.config, composition.said)
            problems += [*found, *targets.check(config)]
            problems += [] if problems else contradictions(config)
    if problems:
        raise Refused(problems)
    return config


def source(run_dir: Path) -> Any:
    """Returns the section `data.source` with which a run was started; unresolved if it cannot be resolved."""
    found = OmegaConf.select(_read(run_dir), "data.source")
    if not OmegaConf.is_config(found):
        return found
    try:
        return OmegaConf.to_container(found, resolve=True)
    except OmegaConfBaseException:
        return OmegaConf.to_container(found)


def _read(run_dir: Path) -> DictConfig:
    path = run_dir / "config.yaml"
    if not path.is_file():
        message = f"{run_dir} has no config.yaml: give the directory of a run that a command started."
        if (run_dir / "checkpoints").is_dir():
            message += (
                " Python started this run: make its trainer there as you did, trainer = Trainer(..., "
                f"run_dir={str(run_dir)!r}), and call trainer.restore('best')."
            )
        raise Refused([Problem("run_dir", message)])
    try:
        return config_file.read(run_dir)
    except OSError as error:
        raise Refused([Problem("run_dir", f"{path} cannot be read: {error.strerror}.")]) from None
