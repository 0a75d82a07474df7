"""Decides what a slot of a configuration takes, from the object that a name leads to.

A slot takes what is marked with `looplab.configurable`, a class of the slot's kind that Keras or the project
defines, or anything that a trusted package defines. So a configuration from elsewhere runs only code that was
written for configurations.
"""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any

import keras

from looplab.callbacks import Callback
from looplab.config import targets
from looplab.config.components import CALLBACK, PART, SOURCE, Slot
from looplab.config.project_code import set_aside
from looplab.config.project_settings import is_trusted
from looplab.data.indexed_source import IndexedSource
from looplab.data.stream import Stream
from looplab.protocols import Logger
from looplab.targets import limits_of
from looplab.trainer import Trainer

KERAS = {
    "keras.Model": keras.Model,
    "keras.optimizers.Optimizer": keras.optimizers.Optimizer,
    "keras.optimizers.schedules.LearningRateSchedule": keras.optimizers.schedules.LearningRateSchedule,
    "keras.losses.Loss": keras.losses.Loss,
    "keras.metrics.Metric": keras.metrics.Metric,
    "keras.callbacks.Callback": keras.callbacks.Callback,
}
_PARTS = (
    *(kind for kind in KERAS.values() if kind is not keras.callbacks.Callback),
    keras.Layer,
    keras.Initializer,
    keras.Regularizer,
    keras.constraints.Constraint,
    keras.dtype_policies.DTypePolicy,
)
_SOURCES = IndexedSource, Stream, keras.utils.PyDataset
CALLBACKS = Callback, keras.callbacks.Callback
_KINDS: dict[str, type | tuple[type, ...]] = {
    **KERAS,
    CALLBACK: CALLBACKS,
    "looplab.Logger": Logger,
    "looplab.Trainer": Trainer,
}


def kind_name(kind: type | tuple[type, ...]) -> str:
    """Returns the name of a class, or of several, in the form that users of configurations know."""
    if isinstance(kind, tuple):
        return " or ".join(map(kind_name, kind))
    return next((name for name, known in KERAS.items() if known is kind), f"looplab.{kind.__name__}")


def misfit(found: Any, slot: Slot) -> str | None:
    """Returns why an object may not be called in a slot, or None.

    Args:
        found: The imported object that a `_target_` names.
        slot: The slot that names it.
    """
    target = slot.target
    wanted = f"{target} is not a {slot.kind}, which is expected here."
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
            return f"{wanted} Write @looplab.configurable above the class to let configurations build it."
        if not fits:
            return wanted
    elif not foreign and not path.startswith(("keras.", "looplab.")):
        file = (getattr(inspect.unwrap(found), "__code__", None) or found.__code__).co_filename
        if not targets.in_project(file):
            return f"{target} is the function {path}, which is not part of this project."
        if aside := set_aside(file):
            return f"{target!r}, which is {path}, {aside}"
    elif outside := targets.refusal(path, target):
        return outside
    return targets.unmarked(path, is_class, marked, slot)


def _is_callable(found: Any) -> bool:
    """Returns whether it is a function, or (in a trusted package) any callable, such as a class method."""
    if isinstance(found, FunctionType):
        return True
    module = getattr(found, "__module__", None)
    return callable(found) and isinstance(module, str) and is_trusted(module)


def _of_project(module: str) -> bool:
    return module.split(".")[0] not in ("looplab", "keras")
