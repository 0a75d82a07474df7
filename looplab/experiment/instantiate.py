"""Makes an object from a section with a `_target_`, if it fits the slot of the section.

The whole configuration is checked before any of it is made; `slot_kinds` decides what a slot takes.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FunctionType
from typing import Any

import keras

from looplab import metrics, optimization
from looplab.config import Config, components, targets
from looplab.config.components import LOSS, METRIC, PARTIAL, slots
from looplab.errors import ConfigurationError, Problem, Refused, nearest
from looplab.experiment.slot_kinds import KERAS, kind_name, misfit

_ALSO_FUNCTIONS = (KERAS[LOSS], KERAS[METRIC])


def check(config: Config) -> None:
    """Imports what a configuration names, and checks it and its arguments; calls nothing.

    Args:
        config: From `looplab.config.check`.

    Raises:
        Refused: With everything that does not fit.
        Exception: Any exception of the project's own modules during their import.
    """
    problems: list[Problem] = []
    for slot in slots(config):
        if isinstance(slot, Problem):
            problems.append(slot)
            continue
        try:
            found = locate(slot.target, f"{slot.key}._target_")
        except Refused as error:
            problems += error.problems
            continue
        if unfit := misfit(found, slot):
            problems.append(Problem(f"{slot.key}._target_", unfit))
        else:
            problems += targets.argument_problems(signature(found), slot, isinstance(found, type))
    for key, own in components.optimizers(config.optimizer).items():
        if isinstance(own, str):
            problems += _names(own, key, _check_optimizer)
    problems += _names(config.loss, "loss", optimization.as_keras_loss)
    problems += _names(config.metrics, "metrics", metrics.check_name)
    problems += _names(config.weighted_metrics, "weighted_metrics", metrics.check_name)
    if problems:
        raise Refused(problems)


def make(section: Mapping[str, Any], key: str, kind: type | tuple[type, ...] = object, **more: Any) -> Any:
    """Calls what a section's `_target_` names, after it has made the targets among the arguments.

    With `_partial_: true`, a function that is a loss or a metric stays a function, with the section's
    arguments. Everything else is a factory, which is called.

    Args:
        section: A section that `check` has passed.
        key: The key of the section, for messages.
        kind: The class, or the classes, of which the result must be an instance.
        **more: Arguments that looplab adds to those of the section.

    Raises:
        ConfigurationError: If the result is of another class, or Keras refuses the arguments.
    """
    target = section["_target_"]
    bound = _bound(section, key, more)
    if section.get(PARTIAL) and kind in _ALSO_FUNCTIONS and _is_function(bound):
        return bound
    try:
        made = bound()
    except (TypeError, ValueError) as error:
        unknown = next((name for name in section if repr(name) in str(error)), None)
        accepted = signature(bound.func)
        if unknown and unknown not in accepted.parameters:
            raise _not_taken(f"{key}.{unknown}", target, unknown, accepted) from None
        if str(getattr(bound.func, "__module__", "")).startswith("keras."):
            raise Refused([Problem(key, f"{target} refused its arguments: {error}")]) from None
        raise
    if not isinstance(made, kind):
        message = f"{target} returned a {type(made).__name__}, not a {kind_name(kind)}."
        raise Refused([Problem(key, message)])
    return made


def _bound(section: Mapping[str, Any], key: str, more: Mapping[str, Any]) -> partial[Any]:
    """Returns what a section names with its arguments, not called yet."""
    found = locate(section["_target_"], f"{key}._target_")
    given = {
        name: _argument(value, f"{key}.{name}")
        for name, value in section.items()
        if name not in ("_target_", PARTIAL)
    }
    return partial(found, **_with_floats({**given, **more}, found))


def _is_function(bound: partial[Any]) -> bool:
    """Returns whether a partial is a function whose first arguments are missing, as those of a loss are."""
    if not isinstance(bound.func, FunctionType):
        return False
    try:
        inspect.signature(bound.func).bind(**bound.keywords)
    except TypeError:
        return True
    return False


def _with_floats(given: Mapping[str, Any], found: Any) -> dict[str, Any]:
    """Returns arguments with 1.0 for 1 where Keras takes only floating-point numbers."""
    if not str(getattr(found, "__module__", "")).startswith("keras."):
        return dict(given)
    floats = {name for name, own in signature(found).parameters.items() if isinstance(own.default, float)}
    if isinstance(found, type) and issubclass(found, keras.optimizers.schedules.LearningRateSchedule):
        floats |= {"initial_learning_rate", "decay_rate", "warmup_target", "values"}  # they have no defaults

    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [number(each) for each in value]
        return float(value) if type(value) is int else value

    return {name: number(value) if name in floats else value for name, value in given.items()}


def parameters(target: str, key: str) -> list[str]:
    """Returns the names of the arguments that a target takes; see `make`."""
    return list(signature(locate(target, key)).parameters)


def make_nested(section: Any, key: str, kind: type) -> Any:
    """Makes the targets in a loss or metrics section; names stay."""
    if isinstance(section, list):
        return [make_nested(item, f"{key}[{index}]", kind) for index, item in enumerate(section)]
    if isinstance(section, dict):
        if "_target_" in section:
            return make(section, key, kind)
        return {name: make_nested(item, f"{key}.{name}", kind) for name, item in section.items()}
    return section


def _argument(value: Any, key: str) -> Any:
    """Returns an argument in which each `_target_` is replaced by what it makes."""
    if isinstance(value, list):
        return [_argument(item, f"{key}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict):
        if "_target_" in value:
            return _bound(value, key, {}) if value.get(PARTIAL) else make(value, key)
        return {name: _argument(item, f"{key}.{name}") for name, item in value.items()}
    return value


def locate(target: str, key: str) -> Any:
    """Imports what a dotted name names; an exception in the imported code is not caught.

    Args:
        target: The target of a section that `check` has passed, or is checking.
        key: The key of the section, for messages.

    Raises:
        Refused: If it names something that a configuration may not name.
    """

    def refuse(why: str) -> Refused:
        return Refused([Problem(key, why)])

    first, *rest = target.split(".")
    if outside := targets.refusal(target):
        raise refuse(outside)
    found, inside = importlib.import_module(first), first
    for part in rest:
        if not hasattr(found, part) and hasattr(found, "__path__"):
            module = f"{found.__name__}.{part}"
            if importlib.util.find_spec(module) is not None:
                importlib.import_module(module)
        if not hasattr(found, part):
            names = [name for name in dir(found) if not name.startswith("_")]
            raise refuse(f"cannot import {target!r}: {inside} has no {part!r}." + nearest(part, names))
        found, inside = getattr(found, part), f"{inside}.{part}"
    return found


def signature(found: Any) -> inspect.Signature:
    """Returns the arguments of a class or function; any arguments if it has no signature, as in C code."""
    try:
        return inspect.signature(found)
    except ValueError:
        return inspect.Signature([inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)])


def _names(value: Any, key: str, check_name: Callable[[str], Any]) -> Iterator[Problem]:
    """Finds names in a loss or metrics section that Keras does not know."""
    if isinstance(value, str):
        try:
            check_name(value)
        except ConfigurationError as error:
            yield Problem(key, str(error).partition(": ")[2])
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _names(item, f"{key}[{index}]", check_name)
    elif isinstance(value, dict) and "_target_" not in value:
        for name, item in value.items():
            yield from _names(item, f"{key}.{name}", check_name)


def _check_optimizer(name: str) -> None:
    try:
        keras.optimizers.get(name)
    except ValueError:
        valid = [known.lower() for known in dir(keras.optimizers) if known[0].isupper()]
        raise ConfigurationError(
            f"optimizer: {name!r} is not a Keras optimizer.{nearest(name, valid)}"
        ) from None


def _not_taken(key: str, target: str, name: str, signature: inspect.Signature) -> Refused:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    valid = [p.name for p in signature.parameters.values() if p.kind in kinds]
    message = f"{target} takes no argument {name!r}; valid are {', '.join(valid) or 'none'}."
    return Refused([Problem(key, message + nearest(name, valid))])
