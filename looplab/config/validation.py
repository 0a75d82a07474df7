"""Checks a configuration by itself: unknown keys, wrong values, contradictions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from looplab.config import environment, hydra_values
from looplab.config.contradictions import contradictions
from looplab.config.environment import SHOWN, FromEnvironment, texts_in
from looplab.config.said import Said
from looplab.config.schema import NO_KEY, Config
from looplab.errors import Problem, Refused, as_written, nearest
from looplab.options.value_types import Anything, BySet, Kind, Text
from looplab.secret import Secret, is_secret

_SLIPS = {  # names that users write for other keys, or in another section
    "data._target_": ("data.source._target_",),
    "learning_rate": ("optimizer.learning_rate",),
    "lr": ("optimizer.learning_rate",),
}
_FALLBACK = re.compile(r"\$\{oc\.env:[^,}]+,(?!\s*null\s*\})")  # config.yaml would contain this text


def check(composed: DictConfig, said: Said | None = None, run_dir: Path | None = None) -> Config:
    """Checks a composed configuration.

    Args:
        composed: A configuration composed by Hydra.
        said: The user's settings in it; None for none.
        run_dir: The value of `${hydra:runtime.output_dir}`, if it is known.

    Returns:
        Its settings, with defaults filled in and interpolations resolved.

    Raises:
        Refused: With everything that is wrong with it.
    """
    hydra_values.stand_for(run_dir)
    config, problems = look(composed, said)
    if not problems:
        problems = list(contradictions(config))
    if problems:
        raise Refused(problems)
    return config


def look(composed: DictConfig, said: Said | None = None) -> tuple[Config, list[Problem]]:
    """Reads a composed configuration key by key.

    Args:
        composed: A configuration composed by Hydra.
        said: The user's settings in it; None for none.

    Returns:
        The settings, with defaults in place of values that cannot be read; and the problems.
    """
    problems: list[Problem] = []
    with environment.marked():
        given = _resolved(composed, "", problems)
    if "hydra:runtime.output_dir" in str(OmegaConf.to_container(composed).get("run_dir")):  # type: ignore[union-attr]
        problems.append(
            Problem("run_dir", "${hydra:runtime.output_dir} is this directory itself: name another one.")
        )
    if isinstance(given.get("experiment"), dict):
        del given["experiment"]
        problems.append(
            Problem(
                "experiment",
                "its keys do not belong to the whole configuration. Begin the experiment's file with the "
                "line '# @package _global_'.",
            )
        )
    config = _section(Config, given, "", problems)
    config.said = said or Said()
    return config, problems


def unknown(key: str, name: str, valid: Iterable[str]) -> Problem:
    """Returns the problem that a name is not a key, with the valid keys and the nearest one.

    Args:
        key: Its whole path.
        name: Its last part.
        valid: The valid keys.
    """
    parents = key.removesuffix(name).removesuffix(".")
    listed = list(valid)
    hint = _elsewhere(key)
    if not hint:
        hint = nearest(name, listed)
        hint += "" if parents else f" Your own values belong under vars: vars.{name}=..."
    return Problem(
        key,
        f"there is no such key in {parents or 'the configuration'}; valid are {', '.join(listed) or 'none'}."
        + hint,
    )


def _elsewhere(key: str) -> str:
    """Returns a question that names the right section of a key in a wrong one; empty if there is none."""
    parents, _, name = key.rpartition(".")
    if parents and parents not in keys_of(Config):  # among the arguments of a user's class
        return ""
    if not is_dataclass(keys_of(Config).get(parents, Config)):
        return ""
    sections: dict[str, type] = {"": Config}
    sections |= {own: kind for own, kind in keys_of(Config).items() if isinstance(kind, type)}
    places = [
        f"{section}.{name}".lstrip(".")
        for section, kind in sections.items()
        if name in keys_of(kind) and section != parents
    ]
    places += _SLIPS.get(key, ())
    return f" Did you mean {' or '.join(map(repr, places))}?" if places else ""


@cache
def keys_of(section: type) -> Mapping[str, Any]:
    """Returns the type of each key of a section, with its marks."""
    hints = get_type_hints(section, include_extras=True)
    return {name: hint for name, hint in hints.items() if NO_KEY not in get_args(hint)}


def kind_of(annotation: Any) -> tuple[Kind, bool]:
    """Returns the kind of value that a key takes, and whether it may be null."""
    plain, kind, *_ = get_args(annotation)
    return kind, plain is Any or (type(None) in get_args(plain) and get_origin(plain) is not list)


def _section(section: Any, given: Any, key: str, problems: list[Problem]) -> Any:
    known = keys_of(section)
    if not isinstance(given, dict):
        problems.append(
            Problem(key, f"expected a section with the keys {', '.join(known)}, got {as_written(given)}.")
        )
        return section()
    values = {}
    for name, value in given.items():
        path = f"{key}.{name}" if key else name
        if name not in known:
            problem = unknown(path, name, known)
            if name.split(".")[0] in known:  # Hydra's words nest at dots, but YAML does not
                message = (
                    "a dot in a key of a file does not make a nested key: write "
                    + name.replace(".", ": {", 1)
                    + ": ...}."
                )
                problem = Problem(path, message)
            problems.append(problem)
        elif is_dataclass(known[name]):
            values[name] = _section(known[name], value, path, problems)
        else:
            _read(known[name], value, path, name, values, problems)
    return section(**values)


def _read(
    annotation: Any, value: Any, path: str, name: str, values: dict[str, Any], problems: list[Problem]
) -> None:
    kind, may_be_null = kind_of(annotation)
    if isinstance(kind, BySet) and isinstance(value, dict):
        by_set: dict[str, Any] = {}
        values[name] = by_set
        for own, each in value.items():
            _read_as(kind.each, may_be_null, each, f"{path}.{own}", own, by_set, problems)
    else:
        _read_as(kind, may_be_null, value, path, name, values, problems)


def _read_as(
    kind: Kind,
    may_be_null: bool,
    value: Any,
    path: str,
    name: str,
    values: dict[str, Any],
    problems: list[Problem],
) -> None:
    if isinstance(value, _Unreadable):
        return
    if value is None and may_be_null:
        values[name] = None
        return
    try:
        from_environment = isinstance(value, FromEnvironment)
        if isinstance(kind, Anything) and path not in ("initialize_from", "vars"):
            texts = texts_in(value, path)
            problems += [Problem(where, SHOWN) for text, where in texts if isinstance(text, FromEnvironment)]
        elif from_environment and isinstance(kind, Text):
            problems.append(Problem(path, SHOWN))
        plain = from_environment and not isinstance(kind, Anything)
        values[name] = kind.read(value.reveal() if plain else value)
    except ValueError as error:
        hint = f" {error!s}" if str(error) and not str(error).startswith("could not convert") else ""
        or_null = " or null" if may_be_null else ""
        problems.append(Problem(path, f"expected {kind.describe()}{or_null}, got {as_written(value)}.{hint}"))


class _Unreadable:
    """Stands for a value that could not be resolved, which is already reported."""


def _resolved(node: Any, key: str, problems: list[Problem], hidden: bool = False) -> Any:
    """Returns nested dicts and lists with interpolations resolved and secrets typed."""
    if isinstance(node, DictConfig):
        paths = {name: ".".join(filter(None, (key, str(name)))) for name in node}
        return {str(name): _value(node, name, path, problems, hidden) for name, path in paths.items()}
    if isinstance(node, ListConfig):
        return [_value(node, index, f"{key}[{index}]", problems, hidden) for index in range(len(node))]
    return node


def _of_ones_own(said: str, node: Any) -> str:
    """Returns where a user's own value belongs, if an interpolation names a key that does not exist."""
    missing = re.search(r"Interpolation key '([\w.]+)' not found", said)
    if not missing:
        return ""
    first, _, rest = missing[1].partition(".")
    if first == "vars":
        return nearest(rest, OmegaConf.select(node._get_root(), "vars") or ())
    return "" if first in keys_of(Config) else f" Your own values belong under vars: ${{vars.{first}}}."


def _value(parent: Any, name: Any, key: str, problems: list[Problem], hidden: bool) -> Any:
    hidden = hidden or is_secret(str(name))
    if OmegaConf.is_missing(parent, name):
        problems.append(Problem(key, "a value is required (it is ???)."))
        return _Unreadable()
    try:
        value = parent[name]
    except (OmegaConfBaseException, RecursionError) as error:
        said = (str(error).splitlines() or ["it refers to itself"])[0].rstrip(".")
        said = said.removeprefix("KeyError raised while resolving interpolation: ").strip('"')
        said = environment.told(said)
        problems.append(Problem(key, f"cannot be resolved: {said}.{_of_ones_own(said, parent)}"))
        return _Unreadable()
    value = environment.unmarked(value)
    if not hidden or value is None or isinstance(value, bool) or OmegaConf.is_config(value):
        return _resolved(value, key, problems, hidden)
    if not OmegaConf.is_interpolation(parent, name) or _FALLBACK.search(str(parent._get_node(name)._value())):
        variable = re.sub(r"\W", "", key.rpartition(".")[2]).upper()
        problems.append(
            Problem(
                key,
                "do not write a secret into a configuration, because every run keeps a copy. Put it into "
                f"the environment and write ${{oc.env:{variable}}}.",
            )
        )
    return Secret(value.reveal() if isinstance(value, Secret) else value)
