"""From a section with a `_target_` to an object, if it fits the slot that it stands in.

What a target may be is judged by the object that its name leads to, not by the name: what is marked with
`looplab.configurable`, a class of the slot's kind that Keras or the project defines, or whatever a trusted
package defines. So a configuration from elsewhere runs nothing but what was written for configurations.
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
from looplab.callbacks import Callback
from looplab.config import Config, targets
from looplab.config.components import CALLBACK, LOSS, METRIC, PART, PARTIAL, SOURCE, Slot, slots
from looplab.config.project_code import set_aside
from looplab.config.project_settings import is_trusted
from looplab.data.indexed_source import IndexedSource
from looplab.data.stream import Stream
from looplab.errors import ConfigurationError, Problem, Refused, nearest
from looplab.protocols import Logger
from looplab.targets import limits_of
from looplab.trainer import Trainer

_KERAS = {
    "keras.Model": keras.Model,
    "keras.optimizers.Optimizer": keras.optimizers.Optimizer,
    "keras.optimizers.schedules.LearningRateSchedule": keras.optimizers.schedules.LearningRateSchedule,
    "keras.losses.Loss": keras.losses.Loss,
    "keras.metrics.Metric": keras.metrics.Metric,
    "keras.callbacks.Callback": keras.callbacks.Callback,
}
_PARTS = (
    *(kind for kind in _KERAS.values() if kind is not keras.callbacks.Callback),
    keras.Layer,
    keras.Initializer,
    keras.Regularizer,
    keras.constraints.Constraint,
    keras.dtype_policies.DTypePolicy,
)
_SOURCES = IndexedSource, Stream, keras.utils.PyDataset
CALLBACKS = Callback, keras.callbacks.Callback
_KINDS: dict[str, type | tuple[type, ...]] = {
    **_KERAS,
    CALLBACK: CALLBACKS,
    "looplab.Logger": Logger,
    "looplab.Trainer": Trainer,
}
_ALSO_FUNCTIONS = (_KERAS[LOSS], _KERAS[METRIC])


def check(config: Config) -> None:
    """Imports what a configuration names, and checks it and its arguments; calls nothing.

    Args:
        config: From `looplab.config.check`.

    Raises:
        Refused: For all that does not fit.
        Exception: What the project's own modules raise when they are imported.
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
        if unfit := _misfit(found, slot):
            problems.append(Problem(f"{slot.key}._target_", unfit))
        else:
            problems += targets.argument_problems(signature(found), slot, isinstance(found, type))
    problems += _names(config.optimizer, "optimizer", _check_optimizer)
    problems += _names(config.loss, "loss", optimization.as_keras_loss)
    problems += _names(config.metrics, "metrics", metrics.check_name)
    if problems:
        raise Refused(problems)


def make(section: Mapping[str, Any], key: str, kind: type | tuple[type, ...] = object, **more: Any) -> Any:
    """Calls what a section's `_target_` names, and before it those among its arguments.

    With `_partial_: true` a function that is a loss or a metric stays one, with the arguments of the section.
    Everything else is a factory, which is called.

    Args:
        section: One that `check` has passed.
        key: Where it stands, for messages.
        kind: The class, or the classes, that what is made must be of.
        **more: Arguments that looplab adds to those of the section.

    Raises:
        ConfigurationError: If it is of another class, or Keras refuses the arguments.
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
            raise Refused([Problem(key, f"{target} refuses its arguments: {error}")]) from None
        raise
    if not isinstance(made, kind):
        message = f"{target} returned a {type(made).__name__}, not a {_kind_name(kind)}."
        raise Refused([Problem(key, message)])
    return made


def _bound(section: Mapping[str, Any], key: str, more: Mapping[str, Any]) -> partial[Any]:
    """Returns what a section names, with its arguments, not called yet."""
    found = locate(section["_target_"], f"{key}._target_")
    given = {
        name: _argument(value, f"{key}.{name}")
        for name, value in section.items()
        if name not in ("_target_", PARTIAL)
    }
    return partial(found, **_with_floats({**given, **more}, found))


def _is_function(bound: partial[Any]) -> bool:
    """Whether a partial is a function whose first arguments are missing, as those of a loss."""
    if not isinstance(bound.func, FunctionType):
        return False
    try:
        inspect.signature(bound.func).bind(**bound.keywords)
    except TypeError:
        return True
    return False


def _with_floats(given: Mapping[str, Any], found: Any) -> dict[str, Any]:
    """Returns arguments with 1.0 for 1 where Keras takes nothing but floating point numbers."""
    if not str(getattr(found, "__module__", "")).startswith("keras."):
        return dict(given)
    floats = {name for name, own in signature(found).parameters.items() if isinstance(own.default, float)}
    if isinstance(found, type) and issubclass(found, keras.optimizers.schedules.LearningRateSchedule):
        floats |= {"initial_learning_rate", "decay_rate", "warmup_target", "values"}  # without defaults

    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [number(each) for each in value]
        return float(value) if type(value) is int else value

    return {name: number(value) if name in floats else value for name, value in given.items()}


def parameters(target: str, key: str) -> list[str]:
    """Returns the names of the arguments that a target takes; see `make`."""
    return list(signature(locate(target, key)).parameters)


def make_nested(section: Any, key: str, kind: type) -> Any:
    """Makes what a loss or metrics section describes: names stay, targets are made."""
    if isinstance(section, list):
        return [make_nested(item, f"{key}[{index}]", kind) for index, item in enumerate(section)]
    if isinstance(section, dict):
        if "_target_" in section:
            return make(section, key, kind)
        return {name: make_nested(item, f"{key}.{name}", kind) for name, item in section.items()}
    return section


def _kind_name(kind: type | tuple[type, ...]) -> str:
    if isinstance(kind, tuple):
        return " or ".join(map(_kind_name, kind))
    return next((name for name, known in _KERAS.items() if known is kind), f"looplab.{kind.__name__}")


def _argument(value: Any, key: str) -> Any:
    """Returns an argument, what `_target_`s in it name made."""
    if isinstance(value, list):
        return [_argument(item, f"{key}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict):
        if "_target_" in value:
            return _bound(value, key, {}) if value.get(PARTIAL) else make(value, key)
        return {name: _argument(item, f"{key}.{name}") for name, item in value.items()}
    return value


def locate(target: str, key: str) -> Any:
    """Imports what a dotted name names; an exception in the imported code goes through.

    Args:
        target: Of a section that `check` has passed, or is checking.
        key: Where it stands, for messages.

    Raises:
        Refused: If it names nothing that a configuration may name.
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


def _misfit(found: Any, slot: Slot) -> str | None:
    """Says why an object may not be called in a slot, or nothing."""
    target = slot.target
    wanted = f"{target} is not a {slot.kind}, which this slot takes."
    is_class = isinstance(found, type)
    if not is_class and not _is_callable(found):
        return f"{target} is neither a class nor a function, but a {type(found).__name__}."
    path = f"{found.__module__}.{found.__qualname__}"
    marked = limits_of(found) is not None
    foreign = is_trusted(path)
    if is_class:
        if outside := targets.refusal(path, target):
            return outside
        if slot.kind in (SOURCE, PART):
            fits = foreign or marked or issubclass(found, _PARTS if slot.kind == PART else _SOURCES)
        else:
            fits = issubclass(found, _KINDS[slot.kind])
        if not fits and slot.kind in (SOURCE, PART) and _of_project(found.__module__):
            return f"{wanted} Write @looplab.configurable above the class if a configuration may make it."
        if not fits:
            return wanted
    elif not foreign and not path.startswith(("keras.", "looplab.")):
        file = (getattr(inspect.unwrap(found), "__code__", None) or found.__code__).co_filename
        if not targets.in_project(file):
            return f"{target} is the function {path}, which is none of this project."
        if aside := set_aside(file):
            return f"{target!r}, which is {path}, {aside}"
    elif outside := targets.refusal(path, target):
        return outside
    return targets.unmarked(path, is_class, marked, slot)


def _is_callable(found: Any) -> bool:
    """Whether it is a function, or of a trusted package anything else that is called: a class method."""
    if isinstance(found, FunctionType):
        return True
    module = getattr(found, "__module__", None)
    return callable(found) and isinstance(module, str) and is_trusted(module)


def _of_project(module: str) -> bool:
    return module.split(".")[0] not in ("looplab", "keras")


def signature(found: Any) -> inspect.Signature:
    """Returns what a class or function takes: anything, where it is written in C and does not say."""
    try:
        return inspect.signature(found)
    except ValueError:
        return inspect.Signature([inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)])


def _names(value: Any, key: str, check_name: Callable[[str], Any]) -> Iterator[Problem]:
    """Finds names that Keras does not know, in a loss or metrics section."""
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
