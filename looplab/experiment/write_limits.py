"""Keeps what a configuration's targets write inside the run directory, even if it contains links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from looplab.config import Config, foreign_targets
from looplab.config.components import Slot
from looplab.config.components import slots as all_slots
from looplab.config.environment import FromEnvironment
from looplab.config.target_limits import limit_problems
from looplab.errors import Problem, Refused
from looplab.experiment import instantiate
from looplab.loggers import Csv, csv_table
from looplab.options.paths import is_within
from looplab.targets import Limits, limits_of


def check(config: Config, run_dir: Path | None) -> None:
    """Refuses, before anything is made, reads, writes and addresses that only the user may set.

    Args:
        config: A configuration whose targets `instantiate.check` has passed.
        run_dir: The run directory; None if there is none.

    Raises:
        Refused: With all of them.
    """
    problems: list[Problem] = []
    for slot in all_slots(config):
        if isinstance(slot, Slot):
            found = instantiate.locate(slot.target, f"{slot.key}._target_")
            limits = _limits(found)
            signature = instantiate.signature(found)
            problems += limit_problems(limits, signature, slot, config.said, run_dir)
            problems += _links(found, limits, slot, run_dir)
    if problems:
        raise Refused(problems)


def placed(config: Config, run_dir: Path | None) -> Config:
    """Returns a configuration in which files that targets write are inside the run directory.

    The files of callbacks are in its `callbacks/`, others in its `files/`. looplab's own loggers place their
    files themselves. The values of environment variables that may be used become plain text.

    Args:
        config: A configuration that `check` has passed.
        run_dir: The run directory; None leaves paths unchanged.
    """
    config = deepcopy(config)
    for slot in all_slots(config):
        assert isinstance(slot, Slot)
        section: Any = slot.section
        found = instantiate.locate(slot.target, f"{slot.key}._target_")
        limits = _limits(found)
        for name, value in slot.given.items():
            if name in limits.reads or config.said.has(f"{slot.key}.{name}"):
                section[name] = _revealed(value)
        for name, path in _written(found, limits, slot, run_dir) if run_dir is not None else ():
            section[name] = path if found is Csv or run_dir is None else str(_folder(slot, run_dir) / path)
    return config


def _revealed(value: Any) -> Any:
    """Returns nested values with environment variables as plain text, except in targets among them."""
    if isinstance(value, list):
        return [_revealed(each) for each in value]
    if isinstance(value, dict) and "_target_" not in value:
        return {name: _revealed(each) for name, each in value.items()}
    return value.reveal() if isinstance(value, FromEnvironment) else value


def _limits(found: Any) -> Limits:
    """Returns the limits of a target and of its bases."""
    definitions = found.__mro__ if isinstance(found, type) else (found,)
    limits = foreign_targets.limits(f"{own.__module__}.{own.__qualname__}" for own in definitions)
    for own in definitions:
        limits |= limits_of(own) or Limits()
    return limits


def _written(found: Any, limits: Limits, slot: Slot, run_dir: Path | None) -> Iterator[tuple[str, str]]:
    """Yields the arguments that are paths to write: relative, unless the user set another place."""
    parameters = instantiate.signature(found).parameters
    for name in sorted(limits.writes):
        default = parameters[name].default if name in parameters else None
        path = slot.given.get(name, default)
        if isinstance(path, str):
            if run_dir is not None and path.startswith(inside := f"{run_dir.absolute()}{os.sep}"):
                # A path that starts with `${hydra:runtime.output_dir}` is as good as a relative one.
                path = path.removeprefix(inside).removeprefix(f"{_folder(slot, run_dir).name}{os.sep}")
            yield name, path


def _folder(slot: Slot, run_dir: Path) -> Path:
    return run_dir / ("callbacks" if slot.key.startswith("callbacks") else "files")


def _links(found: Any, limits: Limits, slot: Slot, run_dir: Path | None) -> Iterator[Problem]:
    """Finds symbolic links of an earlier run through which a path would lead out of the run directory."""
    if found is Csv:
        _, path = next(_written(found, limits, slot, run_dir), ("", csv_table.FILENAME))
        if why := csv_table.refusal(path, run_dir):
            yield Problem(f"{slot.key}.filename", why)
        return
    for name, path in _written(found, limits, slot, run_dir):
        if run_dir is None or os.path.isabs(path):  # the user set an absolute path
            continue
        # A placeholder may stand for any name, so no link in the folder may lead out.
        folder = _folder(slot, run_dir)
        links = [each for each in (folder, *folder.rglob("*")) if each.is_symlink()]
        if out := next((link for link in links if not is_within(link, run_dir)), None):
            why = f"{out} is a symbolic link that leads out of the run directory. Remove it."
            yield Problem(f"{slot.key}.{name}", why)
