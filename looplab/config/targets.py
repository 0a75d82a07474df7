"""Checks `_target_`s without importing them: that they exist, and their arguments.

Nothing that a configuration names is imported unless it belongs to looplab, to Keras, to the project in the
working directory, or to a package that the user trusts, since an import runs code.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

from looplab.config import foreign_targets
from looplab.config.components import PART, SOURCE, Slot, slots
from looplab.config.left_over import UnknownArgument
from looplab.config.project_code import project_folders, set_aside
from looplab.config.project_settings import PLUGINS, TABLE, is_trusted, trusted
from looplab.config.said import Said
from looplab.config.schema import Config
from looplab.config.signatures import Found, Missing, find
from looplab.config.target_limits import limit_problems
from looplab.errors import Problem, nearest

_READABLE = ("keras", "looplab")
_CALLBACK = "keras.src.callbacks.callback.Callback"  # it acts by itself, so it is no part of another object
_SEVERAL = " Several by name need '- override /{}: none' in the experiment's defaults."
_LOOPLAB, _STANDARD = Path(__file__).resolve().parents[1], Path(sysconfig.get_path("stdlib")).resolve()


def check(config: Config) -> list[Problem]:
    """Returns all errors in a configuration's `_target_`s that their source shows.

    Args:
        config: A configuration with valid keys and values. Paths and addresses that the user set are allowed.
    """
    problems: list[Problem] = []
    for slot in slots(config):
        problems += [slot] if isinstance(slot, Problem) else _read(slot, config.said)
    return problems


def _read(slot: Slot, said: Said) -> Iterator[Problem]:
    key, target = f"{slot.key}._target_", slot.target
    if outside := refusal(target):
        yield Problem(key, outside)
        return
    found = find(target)
    if isinstance(found, Missing):
        yield Problem(
            key,
            f"cannot import {target!r}: {found.inside} has no {found.name!r}."
            + nearest(found.name, found.valid),
        )
    elif found is not None:
        if outside := refusal(found.path, target):
            yield Problem(key, outside)
        elif _is_of_another_kind(found, slot):
            yield Problem(key, f"{target} is not a {slot.kind}, which is expected here.")
        elif closed := unmarked(found.path, found.kind == "class", found.is_marked, slot):
            yield Problem(key, closed)
        else:
            yield from argument_problems(found.signature, slot, found.kind == "class")
            limits = found.limits | foreign_targets.limits((found.path, *found.ancestors))
            yield from limit_problems(limits, found.signature, slot, said)


def unmarked(path: str, is_class: bool, is_marked: bool, slot: Slot) -> str | None:
    """Returns why a configuration may not name a class or function in an allowed place, or None if it may.

    Args:
        path: The place of its definition.
        is_class: Whether it is a class; otherwise it is a function.
        is_marked: Whether it is marked with `looplab.configurable`.
        slot: The slot that names it.
    """
    target, root = slot.target, path.split(".")[0]
    if path in foreign_targets.REFUSED:
        return f"{target} {foreign_targets.REFUSED[path]}."
    if is_marked or is_trusted(path):
        return None
    if root == "keras":
        fits = is_class or (path.startswith(foreign_targets.APPLICATIONS) and slot.kind == "keras.Model")
        fits = fits or (path.startswith(foreign_targets.PURE) and not slot.is_called(is_class=False))
        return None if fits else f"{target} is the function {path}, which configurations may not call."
    if root == "looplab":
        kind = "class" if is_class else "function"
        return f"{target} is the {kind} {path}, which configurations may not name."
    if is_class:
        return None
    return (
        f"{target} is the function {path}, which configurations may not call. To allow it, write "
        "@looplab.configurable above it."
    )


def _is_of_another_kind(found: Found, slot: Slot) -> bool:
    """Returns whether a Keras or looplab class with readable bases is not of the kind that a slot takes."""
    if found.kind != "class":
        return False
    if not found.ancestors and not found.is_marked and not is_trusted(found.path):
        return True  # a class without bases is of no slot's kind
    if slot.kind == SOURCE or found.path.split(".")[0] not in _READABLE:
        return False
    if slot.kind == PART:
        return _CALLBACK in (found.path, *found.ancestors)
    wanted = [find(kind) for kind in slot.kind.split(" or ")]
    paths = {kind.path for kind in wanted if isinstance(kind, Found)}
    return len(paths) == len(wanted) and not paths & {found.path, *found.ancestors}


def refusal(path: str, written: str | None = None) -> str | None:
    """Returns why what a dotted name names may not be called, because of its origin; or None.

    Args:
        path: The place of its definition.
        written: Its name in the configuration, if that differs.
    """
    first, *rest = path.split(".")
    if first in ("looplab", "keras") or (first == "tensorflow" and rest[:1] == ["keras"]):
        return None
    name = f"{written!r}, which is {path}," if written else repr(path)
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        likely = ["keras", "looplab", *trusted(), *(file.stem for file in Path.cwd().glob("*.py"))]
        return f"cannot import {name}: there is no module {first!r}." + nearest(first, likely)
    places = [spec.origin] if spec.has_location and spec.origin else spec.submodule_search_locations or ()
    if any(in_project(place) for place in places):
        aside = set_aside(_place(spec, rest))
        return f"{name} {aside}" if aside else None
    if is_trusted(path):
        return None
    return (
        f"{name} belongs neither to looplab, nor to Keras, nor to this project ({Path.cwd()}), and a "
        f"configuration may run nothing else. {_how_to_trust(first)}"
    )


def _how_to_trust(package: str) -> str:
    if package in sys.stdlib_module_names:
        return "Write your own function that calls it, and mark it with looplab.configurable."
    return (
        f'To trust an installed package, write trust = ["{package}"] under {TABLE}; a package for '
        f"looplab declares the entry point {PLUGINS} instead. Or write your own function that calls it."
    )


def _place(spec: ModuleSpec, rest: Sequence[str]) -> Path | None:
    """Returns the file, or the folder, of the innermost module in a dotted name; imports nothing."""
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    place = Path(spec.origin) if spec.has_location and spec.origin else next(iter(folders), None)
    for part in rest:
        places = [folder / name for folder in folders for name in (part, f"{part}.py")]
        inner = next((path for path in places if path.is_dir() or (path.suffix and path.is_file())), None)
        if inner is None:
            break
        place, folders = inner, [inner] if inner.is_dir() else []
    return place


def in_project(place: str) -> bool:
    """Returns whether a file is research code: in the working directory or `PYTHONPATH`, not installed."""
    if not Path(place).is_absolute():  # <frozen os>, built-in, <string>
        return False
    path = Path(place).resolve()
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    if installed or any(path.is_relative_to(folder) for folder in (_LOOPLAB, _STANDARD)):
        return False  # so it is for a clone of looplab, too
    return any(path.is_relative_to(folder) for folder in project_folders())


def _is_another(slot: Slot, name: str) -> bool:
    value = slot.given[name]
    return slot.key in ("optimizer", "model") and isinstance(value, dict) and "_target_" in value


def argument_problems(signature: inspect.Signature, slot: Slot, is_class: bool) -> Iterator[Problem]:
    """Finds arguments that a target does not take, and required arguments that are missing.

    Args:
        signature: The arguments of the target, without self.
        slot: The slot with the given arguments.
        is_class: Whether the target is a class.
    """
    parameters = signature.parameters.values()
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    valid = [name for name in named if name not in slot.reserved]
    for name in slot.given:
        if name in slot.reserved:
            yield Problem(
                f"{slot.key}.{name}",
                "looplab sets this argument from the rest of the configuration; leave it out.",
            )
        elif name not in named and not open_ended:
            yield UnknownArgument(
                f"{slot.key}.{name}",
                f"{slot.target} takes no argument {name!r}; valid are {', '.join(valid) or 'none'}."
                + nearest(name, valid)
                + (_SEVERAL.format(slot.key) if _is_another(slot, name) else ""),
                slot=slot.key,
            )
    for name, parameter in named.items() if slot.is_called(is_class) else ():
        if parameter.default is parameter.empty and name not in {*slot.given, *slot.supplied}:
            yield Problem(slot.key, f"{slot.target} needs the argument {name!r}, which is missing.")
