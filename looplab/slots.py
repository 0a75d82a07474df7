"""From a section with a `_target_` to an object, if it fits the slot that it stands in."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra.utils
import keras
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from looplab.errors import ConfigurationError, nearest

_KERAS = {
    keras.Model: "keras.Model",
    keras.optimizers.Optimizer: "keras.optimizers.Optimizer",
    keras.optimizers.schedules.LearningRateSchedule: "keras.optimizers.schedules.LearningRateSchedule",
    keras.losses.Loss: "keras.losses.Loss",
    keras.metrics.Metric: "keras.metrics.Metric",
}


def make(section: Any, slot: str, base: type, **more: Any) -> Any:
    """Calls what a section's `_target_` names, if it fits the slot.

    Args:
        section: A section of a configuration.
        slot: Its key, for messages.
        base: The class that what is made must be of.
        **more: Arguments that looplab adds to those of the section.

    Raises:
        ConfigurationError: If there is no target, it cannot be imported, is of another kind than
            the slot takes, or refuses its arguments.
    """
    target = section.get("_target_") if OmegaConf.is_dict(section) else None
    if not target:
        raise ConfigurationError(f"{slot}: expected a section with a _target_, got {section!r}.")
    found = _locate(target, f"{slot}._target_")
    if not callable(found) or (isinstance(found, type) and not issubclass(found, base)):
        kind = "class or function" if base is object else _kind(base)
        raise ConfigurationError(f"{slot}._target_: {target} is not a {kind}, which this slot takes.")
    words = sorted(str(key) for key in section if str(key).startswith("_") and key != "_target_")
    if words:
        raise ConfigurationError(f"{slot}: {', '.join(words)} cannot be used here.")
    given = {str(key): _argument(section[key], f"{slot}.{key}") for key in section if key != "_target_"}
    made = _call(found, slot, target, given, more)
    if not isinstance(made, base):
        raise ConfigurationError(f"{slot}: {target} returned a {type(made).__name__}, not a {_kind(base)}.")
    return made


def make_nested(section: Any, slot: str, base: type) -> Any:
    """Makes what a loss or metrics section describes: names stay, targets are made."""
    if OmegaConf.is_list(section):
        return [make_nested(item, f"{slot}[{index}]", base) for index, item in enumerate(section)]
    if OmegaConf.is_dict(section):
        if "_target_" in section:
            return make(section, slot, base)
        return {str(key): make_nested(item, f"{slot}.{key}", base) for key, item in section.items()}
    return section


def _locate(target: Any, slot: str) -> Any:
    """Imports what a dotted name names; an exception in the imported code goes through."""
    first, *rest = str(target).split(".")
    if not all(part.isidentifier() for part in (first, *rest)):
        raise ConfigurationError(f"{slot}: {target!r} is not a dotted name such as 'mymodule.MyClass'.")
    if importlib.util.find_spec(first) is None:
        likely = ["keras", "looplab", *(path.stem for path in Path.cwd().glob("*.py"))]
        raise ConfigurationError(
            f"{slot}: cannot import {target!r}: there is no module {first!r}." + nearest(first, likely)
        )
    found, inside = importlib.import_module(first), first
    for part in rest:
        if not hasattr(found, part) and hasattr(found, "__path__"):
            module = f"{found.__name__}.{part}"
            if importlib.util.find_spec(module) is not None:
                importlib.import_module(module)
        if not hasattr(found, part):
            names = [name for name in dir(found) if not name.startswith("_")]
            raise ConfigurationError(
                f"{slot}: cannot import {target!r}: {inside} has no {part!r}." + nearest(part, names)
            )
        found, inside = getattr(found, part), f"{inside}.{part}"
    return found


def _argument(value: Any, slot: str) -> Any:
    """Returns an argument in plain types, what its own `_target_`s name made."""
    if not OmegaConf.is_config(value):
        return value
    try:
        return hydra.utils.instantiate(value, _convert_="all")
    except InstantiationException as error:
        if error.__cause__ is not None and str(error).startswith("Error in call"):
            raise error.__cause__ from None
        raise ConfigurationError(f"{slot}: {error}") from None


def _call(found: Callable[..., Any], slot: str, target: str, given: dict[str, Any], more: Any) -> Any:
    """Calls with arguments given in the configuration and more that looplab adds."""
    try:
        signature = inspect.signature(found)
    except ValueError:  # written in C
        return found(**{**given, **more})
    parameters = signature.parameters.values()
    variable = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    valid = [name for name in names if name not in more]
    extra = [name for name in given if name not in names]

    def refused(name: str) -> ConfigurationError:
        return ConfigurationError(
            f"{slot}.{name}: {target} takes no argument {name!r}; valid are {', '.join(valid) or 'none'}."
            + nearest(name, valid)
        )

    if extra and not variable:
        raise refused(extra[0])
    try:
        signature.bind(**{**given, **more})
    except TypeError as error:
        raise ConfigurationError(f"{slot}: {target} refuses its arguments: {error}.") from None
    try:
        return found(**{**given, **more})
    except (TypeError, ValueError) as error:
        for name in extra:
            if repr(name) in str(error):  # swallowed by **kwargs, and refused further down
                raise refused(name) from None
        if str(getattr(found, "__module__", "")).startswith("keras."):
            raise ConfigurationError(f"{slot}: {target} refuses its arguments: {error}") from None
        raise


def _kind(base: type) -> str:
    return _KERAS.get(base, f"looplab.{base.__name__}")
