"""Reads the user's settings for a project: `[tool.looplab]` of `pyproject.toml`, and installed plug-ins.

No configuration can set them, since configurations are copied from elsewhere.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from looplab.config.signatures import module_folders
from looplab.errors import Problem, Refused, as_written, nearest

FILE = "pyproject.toml"
TABLE = f"[tool.looplab] of {FILE}"
PLUGINS = "looplab.plugins"  # the group of entry points
RUN_KEYS = ("run_dir", "resume", "allow_change")  # keys of a configuration that only the user may set
_LISTS = ("allow_change", "trust", "read", "addresses")


@dataclass(frozen=True)
class ProjectSettings:
    """The settings in `[tool.looplab]`.

    Attributes:
        run_keys: `run_dir`, `resume` and `allow_change`, if they are set.
        trust: Installed packages whose classes and functions a configuration may name.
        read: Folders outside the project that a configuration may read, absolute.
        addresses: Addresses that a configuration may name; also those that begin with one of them and `/`.
    """

    run_keys: Mapping[str, Any]
    trust: tuple[str, ...] = ()
    read: tuple[Path, ...] = ()
    addresses: tuple[str, ...] = ()


def project_settings() -> ProjectSettings:
    """Reads `pyproject.toml` of the working directory.

    Raises:
        Refused: If `[tool.looplab]` has an unknown key or a wrong value.
    """
    path = Path.cwd() / FILE
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return ProjectSettings({})
    return _settings(path, changed)


@cache
def _settings(path: Path, changed: int) -> ProjectSettings:
    """Reads a file; `changed`, its time of change, makes the cache read a changed file again."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused([Problem(FILE, f"cannot be read: {error}.")]) from None
    tool = content.get("tool")
    table = tool.get("looplab", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise Refused([Problem("tool.looplab", f"expected a table, got {as_written(table)}.", FILE)])
    if problems := list(_problems(table)):
        raise Refused(problems)
    return ProjectSettings(
        run_keys={key: table[key] for key in RUN_KEYS if key in table},
        trust=tuple(table.get("trust", ())),
        read=tuple(
            Path(os.path.abspath(os.path.expandvars(os.path.expanduser(folder))))
            for folder in table.get("read", ())
        ),
        addresses=tuple(table.get("addresses", ())),
    )


def _problems(table: Mapping[str, Any]) -> Iterator[Problem]:
    valid = (*RUN_KEYS, "trust", "read", "addresses")
    for key, value in table.items():
        whole = f"tool.looplab.{key}"
        if key not in valid:
            message = f"there is no such key; valid are {', '.join(valid)}.{nearest(key, valid)}"
            yield Problem(whole, message, FILE)
        elif key in _LISTS:
            if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
                yield Problem(whole, f"expected a list of strings, got {as_written(value)}.", FILE)
            elif key == "trust":
                yield from _untrustworthy(value, whole)
        elif not isinstance(value, str):
            yield Problem(whole, f"expected a string, got {as_written(value)}.", FILE)


def _untrustworthy(names: list[str], key: str) -> Iterator[Problem]:
    import sys

    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            yield Problem(key, f"{name!r} is not the name of a package, such as 'keras_hub'.", FILE)
        elif name.split(".")[0] in sys.stdlib_module_names:
            message = (
                f"{name!r} is part of Python, and its functions may run anything. Write your own function "
                "that calls what you need, and mark it with looplab.configurable."
            )
            yield Problem(key, message, FILE)


@cache
def plugins() -> tuple[str, ...]:
    """Returns the modules that installed packages declare as plug-ins of looplab."""
    return tuple(dict.fromkeys(entry.module for entry in entry_points(group=PLUGINS)))


def trusted() -> tuple[str, ...]:
    """Returns the packages whose classes and functions a configuration may name, beside Keras and looplab."""
    return tuple(dict.fromkeys((*project_settings().trust, *plugins())))


def is_trusted(module: str) -> bool:
    """Returns whether a module belongs to a trusted package."""
    return any(module == name or module.startswith(f"{name}.") for name in trusted())


def trusted_folders() -> dict[str, tuple[Path, ...]]:
    """Returns the folders of each installed trusted package; imports nothing."""
    return {name: tuple(map(Path, module_folders(name))) for name in trusted()}
