"""Keras objects that are created again from their configuration, if that gives the same object.

`from_config(get_config())` restores only what a class reports: an option that it does not report gets its
default. So the two objects are compared, field by field.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from types import FunctionType, MethodType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab.errors import ConfigurationError
from looplab.optimization.follow_step import FollowStep

# Fields in which Keras or looplab keeps internal records of an object.
_BOOKS = (
    "_tracker",
    "_lock",
    "_auto",
    "_distribution_strategy",
    "_obj",
    "_self_",
    "_tf_",
    "_path",
    "_name",
    "_looplab",
)
_DEPTH = 12  # of the nested objects that are compared
_EXCLUSIONS = (
    "_exclude_from_weight_decay",
    "_exclude_from_weight_decay_pattern",
)  # which no configuration has
_KNOWN_DIGITS = 6  # a number with so many digits is recovered from its float32

_log = logging.getLogger("looplab")


def remade(given: Any, what: str) -> Any:
    """Creates an object, such as a metric, again from its configuration.

    Args:
        given: The object.
        what: The argument in which it was given, for messages: `metrics`.

    Raises:
        ConfigurationError: If the new object differs, or cannot be created; the message shows the factory
            form.
    """
    return _the_same(given, what, lambda: type(given).from_config(given.get_config()))


def another_optimizer(optimizer: keras.optimizers.Optimizer, what: str) -> keras.optimizers.Optimizer:
    """Creates an optimizer with the settings of another one; it is not built yet.

    Args:
        optimizer: The other optimizer, which may have served a trainer.
        what: The argument in which it was given, for messages.

    Raises:
        ConfigurationError: As in `remade`; or if it excludes variables from weight decay as objects, which
            may belong to another model.
    """
    excluded = {name: value for name, value in vars(optimizer).items() if name in _EXCLUSIONS}
    if excluded.get("_exclude_from_weight_decay"):
        raise ConfigurationError(
            f"{what}: {type(optimizer).__name__} excludes variables from weight decay as objects "
            "(var_list=), and it is created again here, for other variables. Name them instead: "
            "exclude_from_weight_decay(var_names=['bias']); or give parameter_groups."
        )

    def make() -> keras.optimizers.Optimizer:
        config = optimizer.get_config()
        if "learning_rate" in config:
            config["learning_rate"] = given_rate(optimizer)
        made = type(optimizer).from_config(config)
        vars(made).update(excluded)
        return made

    made: keras.optimizers.Optimizer = _the_same(optimizer, what, make, ignored=("_learning_rate",))
    return made


def another_model(model: keras.Model, what: str) -> keras.Model:
    """Creates a model with the layers, weights, frozen parts and paths of another; they share nothing.

    Args:
        model: The other model.
        what: The argument in which it was given, for messages.

    Raises:
        ConfigurationError: If Keras cannot clone it, or a layer differs; the message shows the factory form.
    """
    kind, compiled = type(model).__name__, model.compiled
    try:
        model.compiled = False  # otherwise Keras creates its optimizer and losses again
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        why = unlike(model, clone)
    except (ValueError, TypeError, NotImplementedError):
        why = "Keras cannot create it with its weights"
    finally:
        model.compiled = compiled
    if why is not None:
        raise ConfigurationError(
            f"{what}: Keras cannot clone {kind} for use here (several replicas, or another trainer, need "
            f"their own): {why}. Give a function instead of the object: Trainer(lambda: {kind}(...))."
        )
    layers = zip(clone._flatten_layers(), model._flatten_layers(), strict=True)
    # Outer layers first, because Keras also sets it for all inner layers; then the weights.
    for own, other in (*layers, *zip(clone.weights, model.weights, strict=True)):
        if own.trainable != other.trainable:
            own.trainable = other.trainable
    for own, other in zip(clone.variables, model.variables, strict=True):
        own._path = other.path  # Keras leaves out the names of inner models
    return clone


def given_rate(optimizer: keras.optimizers.Optimizer) -> Any:
    """Returns the learning rate that an optimizer was given: a number, or a schedule.

    Keras keeps a number as a variable of the float type at that time. In float64, a number that was rounded
    to float32 is recovered as the shortest decimal number that rounds to it; that is exact if it has at most
    6 digits.
    """
    rate = optimizer._learning_rate
    if isinstance(rate, FollowStep):  # the optimizer served another trainer before
        return rate.kept()
    if callable(rate) or isinstance(rate, float):
        return rate
    if keras.config.floatx() != "float64" or rate.dtype == "float64":
        return float(rate.numpy())
    shortest = str(rate.numpy())
    if len(Decimal(shortest).normalize().as_tuple().digits) > _KNOWN_DIGITS:
        _log.warning(
            "optimizer %s: with precision='float64' its learning rate is %s, but it may have been given "
            "another number, which Keras has rounded to float32 before the trainer was created. Give a "
            "function instead of the object: Trainer(optimizer=lambda: %s(...)).",
            optimizer.name,
            shortest,
            type(optimizer).__name__,
        )
    return float(shortest)


def _the_same(given: Any, what: str, make: Callable[[], Any], ignored: Collection[str] = ()) -> Any:
    """Creates an object again and returns it, if it is the same."""
    kind = type(given).__name__
    try:
        again = make()
        why = difference(given, again, ignored)
    except Exception as error:  # an error in the class
        why = f"its from_config(get_config()) fails: {str(error).strip().splitlines()[0]}"
    if why is None:
        return again
    raise ConfigurationError(
        f"{what}: the object {kind} {_label(given)}cannot be used as it is here (several replicas, or "
        "another trainer, need their own), and created again from its configuration it is not the same: "
        f"{why}. Give a function that returns it, lambda: {kind}(...); or make get_config return all "
        "arguments of __init__."
    )


def difference(one: Any, other: Any, ignored: Collection[str] = ()) -> str | None:
    """Returns the field in which two Keras objects differ, as text, or None if no difference is found.

    Variables are compared by shape and dtype, because their values are what an object has seen. Variables
    that an object created later, at its first use, are ignored.

    Args:
        one: The object that was given.
        other: The object that was created from it.
        ignored: The fields that may differ.
    """
    if type(one) is not type(other):
        return f"it is a {type(other).__name__}"
    fields, again = (
        {name: value for name, value in _own_fields(each).items() if name not in ignored}
        for each in (one, other)
    )
    return _difference(fields, again, "", {(id(one), id(other))})


def unlike(model: keras.Model, clone: keras.Model) -> str | None:
    """Returns a difference between a model and its clone, or None; Keras' own layers report all options."""
    for one, other in zip(model._flatten_layers(), clone._flatten_layers(), strict=True):
        own = not type(one).__module__.startswith("keras.")
        if own and (why := difference(one, other)) is not None:
            return f"of the layer {one.name!r} ({type(one).__name__}) {why}"
    return None


def _own_fields(given: Any) -> dict[str, Any]:
    """Returns the fields of a Keras object without the internal records of Keras and looplab."""
    books = set[str]()
    if isinstance(given, keras.Layer):
        books = {*vars(keras.Layer())}
    elif isinstance(given, keras.optimizers.Optimizer):  # only one of the two may be built
        books = {name for name, value in vars(given).items() if isinstance(value, list | dict)} | {"built"}
    elif isinstance(given, keras.Metric):
        books = {"_built", "built"}
    return {
        name: value
        for name, value in vars(given).items()
        if name not in books
        and not name.startswith(_BOOKS)
        and not (
            hasattr(type(given), name) and callable(getattr(type(given), name))
        )  # a method that was replaced
    }


def _label(given: Any) -> str:
    name = getattr(given, "name", None)
    return f"{name!r} " if isinstance(name, str) else ""


def _difference(one: Any, other: Any, path: str, seen: set[tuple[int, int]]) -> str | None:
    if one is other or (id(one), id(other)) in seen or path.count(".") > _DEPTH:
        return None
    seen.add((id(one), id(other)))
    numbers = isinstance(one, float) and isinstance(other, float)  # looplab's own number types too
    if type(one) is not type(other) and not numbers:
        return f"{path[1:] or 'it'} is {_short(one)}, not {_short(other)}"
    parts = _parts(one, other)
    if parts is None:
        return None if _equal(one, other) else f"{path[1:] or 'it'} is {_short(one)}, not {_short(other)}"
    left, right = parts
    for name in left.keys() | right.keys():
        if name not in right and isinstance(left[name], keras.Variable):
            continue
        if name not in left or name not in right:
            return f"{path[1:]}{name} is only in one of the two"
        if (found := _difference(left[name], right[name], f"{path}.{name}", seen)) is not None:
            return found
    return None


def _parts(one: Any, other: Any) -> tuple[Mapping[Any, Any], Mapping[Any, Any]] | None:
    """Returns the parts of two objects of one type, by name; None if they are plain values."""
    match one:
        case tf.Variable() | keras.Variable() | tf.Tensor() | np.ndarray() | np.generic():
            return None
        case Mapping():
            return one, other
        case list() | tuple():
            return dict(enumerate(one)), dict(enumerate(other))
        case functools.partial():
            return tuple({"func": p.func, "args": p.args, "keywords": p.keywords} for p in (one, other))  # type: ignore
        case MethodType():
            return tuple({"function": m.__func__, "owner": m.__self__} for m in (one, other))  # type: ignore
        case FunctionType():
            return tuple(  # type: ignore
                {"code": f.__code__, "defaults": f.__defaults__, **inspect.getclosurevars(f).nonlocals}
                for f in (one, other)
            )
    if isinstance(one, type) or not hasattr(one, "__dict__"):
        return None
    return _own_fields(one), _own_fields(other)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, tf.Variable | keras.Variable):
        return bool(one.shape == other.shape and one.dtype == other.dtype)
    if isinstance(one, tf.Tensor | np.ndarray | np.generic):
        left, right = np.asarray(one), np.asarray(other)
        return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=left.dtype.kind in "fc")
    if not any("__eq__" in vars(kind) for kind in type(one).__mro__[:-1]):
        return True  # a lock, a file: the type is all that can be compared
    is_nan = one != one and other != other
    return bool(one == other) or bool(is_nan)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
