"""Checks which of Hydra's own settings may be changed.

Hydra calls what its section names (launcher, sweeper, callbacks, log handlers), sets environment variables
and makes directories, all before any check of a run. A configuration that was copied from elsewhere must not
reach any of that.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from looplab.errors import Problem, as_written, nearest

# The words that the command gives to Hydra before the user's words.
WORDS = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra.job.chdir=false",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)
SWEEP = "+hydra.callbacks.sweep._target_=looplab.cli.sweep.Begin"  # one more word for a sweep
_SILENT = {"version": 1, "root": None, "disable_existing_loggers": False}
_FIXED: dict[str, tuple[Any, str]] = {
    "run.dir": (".", "run_dir sets the directory of a run"),
    "output_subdir": (None, "config.yaml in the run directory holds the composed configuration"),
    "job.chdir": (False, "paths are relative to the directory in which the command starts"),
    "job.env_set": ({}, "set environment variables in the shell"),
    "job_logging": (_SILENT, "the log of a run is log.txt in its directory"),
}
_CHOICE = re.compile(r"\$\{hydra:runtime\.choices\.([\w/@]+)\}")
_CALLBACKS: tuple[Any, ...] = ({}, {"sweep": {"_target_": "looplab.cli.sweep.Begin"}})
# Arguments of a plug-in that a file may set: counts, times, the direction. Other arguments may name files,
# hosts and functions.
_FREE = {"_target_", "params", "n_trials", "n_jobs", "direction", "max_failure_rate", "sampler"}
_FREE |= {"max_batch_size", "batch_size", "verbose", "pre_dispatch", "timeout"}
_SWEEP_DIRS = (("runs",), ("multirun",))  # looplab's and Hydra's own folders
# Keys that no file may set, since they choose what is written or reached; with their defaults.
OF_USER: dict[str, Any] = {"run_dir": None, "resume": "auto", "allow_change": [], "strategy.address": None}
_SAMPLERS = "optuna.samplers."


def problems(part: DictConfig, words: Sequence[str]) -> Iterator[Problem]:
    """Finds changes in the composed `hydra` section that are not allowed.

    Args:
        part: The section inside the composed configuration, so that it can be resolved.
        words: The user's words. Only they may give a plug-in addresses, and paths outside the working
            directory.
    """
    written = OmegaConf.to_container(part, resolve=False)
    known = OmegaConf.to_container(OmegaConf.structured(HydraConf))
    assert isinstance(known, dict)
    yield from _unknown(written, {**known, "env": None}, "hydra")
    for key, (fixed, instead) in _FIXED.items():
        given = _at(written, key)
        if given != fixed:
            yield Problem(
                f"hydra.{key}",
                f"got {as_written(given)}, but looplab decides this instead of Hydra: {instead}.",
            )
    if _at(written, "callbacks") not in _CALLBACKS:
        yield Problem("hydra.callbacks", "the callbacks of a run belong in the section callbacks.")
    if not _levels_only(_at(written, "hydra_logging")):
        yield Problem(
            "hydra.hydra_logging", "only its levels may be set; the log of a run is log.txt in its directory."
        )
    for key in ("sweep.dir", "sweep.subdir"):
        given = str(_at(written, key))
        plain = re.sub(r"\$\{(now:[^${}/]*|hydra[.:]job\.num)\}", "_", given)
        parts = PurePath(plain).parts
        outside = "${" in plain or ".." in parts or PurePath(plain).is_absolute()
        if outside or (key == "sweep.dir" and parts[:1] not in _SWEEP_DIRS):
            message = f"{given!r} is not inside runs/; give a path such as runs/sweeps/${{now:%j}}."
            yield Problem(f"hydra.{key}", message)
    for key, kind in (("launcher", Launcher), ("sweeper", Sweeper)):
        yield from _plugin(part, key, kind, {word.lstrip("+").partition("=")[0] for word in words})


@contextmanager
def kept() -> Iterator[None]:
    """Restores Hydra's state after the block, if the process uses Hydra with another configuration."""
    before = HydraConfig.instance().cfg
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def with_choices(written: Any) -> Any:
    """Returns a written configuration with the chosen options in place of `${hydra:runtime.choices...}`.

    These interpolations have no value when a run is loaded again, since `config.yaml` has no groups.
    """
    if isinstance(written, dict):
        return {key: with_choices(item) for key, item in written.items()}
    if isinstance(written, list):
        return [with_choices(item) for item in written]
    if not isinstance(written, str) or not HydraConfig.initialized():
        return written
    choices = HydraConfig.get().runtime.choices
    return _CHOICE.sub(lambda found: str(choices.get(found[1], found[0])), written)


def _unknown(written: Any, known: Any, key: str) -> Iterator[Problem]:
    if (
        isinstance(written, dict)
        and isinstance(known, dict)
        and known
        and not key.endswith(("_logging", "choices"))
    ):
        for name, value in written.items():
            if name in known:
                yield from _unknown(value, known[name], f"{key}.{name}")
            else:
                valid = ", ".join(known)
                message = f"Hydra has no such key in {key}; valid are {valid}.{nearest(str(name), known)}"
                yield Problem(f"{key}.{name}", message)


def _plugin(part: DictConfig, key: str, kind: type[Any], said: Container[str]) -> Iterator[Problem]:
    """Finds targets that are not installed plug-ins of Hydra, and arguments that a file may not set."""
    known = [f"{found.__module__}.{found.__name__}" for found in Plugins.instance().discover(kind)]
    target = _at(OmegaConf.to_container(part, resolve=False), f"{key}._target_")
    if target not in known:
        message = f"{target!r} is not a {key} of Hydra; installed are {', '.join(known)}."
        yield Problem(f"hydra.{key}._target_", message + nearest(str(target), known))
    try:
        arguments = OmegaConf.to_container(part[key], resolve=True)
    except OmegaConfBaseException as error:
        yield Problem(f"hydra.{key}", f"cannot be resolved: {str(error).splitlines()[0]}.")
        return
    written = OmegaConf.to_container(part[key], resolve=False)
    params = (written.get("params") or {}) if key == "sweeper" and isinstance(written, dict) else {}
    if not isinstance(params, dict):
        yield Problem("hydra.sweeper.params", f"expected values by key, got {as_written(params)}.")
        return
    for word, values in params.items():
        name = str(word).lstrip("+~")
        if name.startswith("hydra") or name in OF_USER:
            yield Problem("hydra.sweeper.params", f"a sweep cannot vary {word!r}.")
        elif "${" in str(values):
            yield Problem("hydra.sweeper.params", f"{word!r}: give plain values, without interpolation.")
        elif any(_leads_out(text) for text in str(values).split(",")):
            message = f"{word!r}: give a path outside the working directory on the command line."
            yield Problem("hydra.sweeper.params", message)
    usual = _defaults(key, str(part.runtime.choices.get(f"hydra/{key}")))
    for argument, given in arguments.items() if isinstance(arguments, dict) else ():
        where = f"hydra.{key}.{argument!s}"
        if argument in _FREE or where in said or given == usual.get(argument):
            continue
        yield Problem(where, f"{as_written(given)} is in a file, but only the command line may set it.")
    if isinstance(arguments, dict) and _calls(_without_sampler(arguments)):
        yield Problem(f"hydra.{key}", "a _target_ among its arguments is not called; give plain values.")


def _defaults(key: str, option: str) -> dict[Any, Any]:
    """Returns the defaults of a plug-in's own configuration."""
    try:
        node = ConfigStore.instance().load(f"hydra/{key}/{option}.yaml").node
    except ConfigLoadError:
        return {}
    found = OmegaConf.to_container(node, resolve=False)
    return found if isinstance(found, dict) else {}


def _leads_out(text: str) -> bool:
    plain = text.strip(" '\"[]{}()")
    return plain.startswith(("/", "~", "..")) or "://" in plain


def _without_sampler(arguments: dict[Any, Any]) -> dict[Any, Any]:
    """Returns the arguments of a plug-in without its `_target_` and without that of an Optuna sampler."""
    left = {key: value for key, value in arguments.items() if key != "_target_"}
    sampler = left.get("sampler")
    if isinstance(sampler, dict) and str(sampler.get("_target_")).startswith(_SAMPLERS):
        left["sampler"] = {key: value for key, value in sampler.items() if key != "_target_"}
    return left


def _levels_only(written: Any) -> bool:
    """Returns whether a configuration of logging sets only levels: handlers would be called."""
    if not isinstance(written, dict) or not set(written) <= {*_SILENT, "loggers"}:
        return False
    loggers = [written.get("root"), *(written.get("loggers") or {}).values()]
    return all(own is None or (isinstance(own, dict) and set(own) <= {"level"}) for own in loggers)


def _calls(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(map(_calls, value.values()))
    return isinstance(value, list) and any(map(_calls, value))


def _at(written: Any, key: str) -> Any:
    for part in key.split("."):
        written = written.get(part) if isinstance(written, dict) else None
    return written
