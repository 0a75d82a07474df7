"""Converts `call` of a user's layers and models with AutoGraph while a step is traced.

Keras does not convert what it calls, so an `if`, `for` or `while` over tensors in `call` would fail in every
graph. Within looplab's traces it becomes operations, as in a step. Elsewhere, in other threads and
afterwards, the layer is unchanged. Keras' own layers, and those of other installed packages, are never
converted, because they are written for graphs.

With `LOOPLAB_PATCHES=off` nothing is converted: `call` behaves as in `model.fit`.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx

from looplab.compat import patches
from looplab.execution import recomputed_calls
from looplab.execution.branch_masks import carried
from looplab.execution.branching import may_branch
from looplab.execution.control_flow import explained
from looplab.execution.inline_functions import is_within
from looplab.runs import cause

_lock = threading.Lock()
_ABSENT = object()
# By a layer's id and attribute: the number of calls in progress, and the original value.
_replaced: dict[tuple[int, str], tuple[int, Any]] = {}


@contextmanager
def translating() -> Iterator[None]:
    """Converts the user's layers within the block while looplab traces a step."""
    with patches.patched("keras.Layer.__call__", keras.Layer, _with_translated), carried():
        yield


def _with_translated(original: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a `Layer.__call__` in which a user's function is converted, and chosen layers run twice."""

    @functools.wraps(original)
    def converted(self: Any, *arguments: Any, **keywords: Any) -> Any:
        name = _name_of_own(self) if is_within() else None
        if name is None:
            return original(self, *arguments, **keywords)
        with _replacing(self, name):
            return original(self, *arguments, **keywords)

    @functools.wraps(original)
    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return recomputed_calls.called(self, converted, *arguments, **keywords)

    return call


def _name_of_own(layer: Any) -> str | None:
    """Returns the attribute of a layer that is a user's function which may have control flow, or None."""
    name = "function" if type(layer) is keras.layers.Lambda else "call"
    function = getattr(layer, name)
    inner = inspect.unwrap(function)  # the user's, perhaps inside a library's decorator
    code = getattr(inner, "__code__", None)  # a tf.function has none, and is converted when called
    if code is None or not cause.is_made_in(code.co_filename):
        return None
    branches = may_branch(inner, layer) or (function is not inner and may_branch(function, layer))
    return name if branches else None


@contextmanager
def _replacing(layer: Any, name: str) -> Iterator[None]:
    """Replaces an attribute of a layer by the converted function within the block, for all replicas."""
    own, key = vars(layer), (id(layer), name)
    with _lock:
        within, before = _replaced.get(key, (0, own.get(name, _ABSENT)))
        if not within:
            own[name] = _translated(getattr(layer, name))
        _replaced[key] = within + 1, before
    try:
        yield
    finally:
        with _lock:
            within, before = _replaced.pop(key)
            if within > 1:
                _replaced[key] = within - 1, before
            elif before is _ABSENT:
                del own[name]
            else:
                own[name] = before


def _translated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that runs converted in looplab's traces, and unchanged elsewhere."""
    context = ag_ctx.ControlStatusCtx(status=ag_ctx.Status.ENABLED)
    converted = tf.__internal__.autograph.tf_convert(function, context)
    status = tf.__internal__.autograph.control_status_ctx

    @functools.wraps(function, assigned=("__name__", "__qualname__", "__doc__"), updated=())
    def call(*arguments: Any, **keywords: Any) -> Any:
        if tf.executing_eagerly() or not is_within() or status().status is ag_ctx.Status.DISABLED:
            return function(*arguments, **keywords)
        with explained():
            return converted(*arguments, **keywords)

    return call
