"""Makes a `tf.function` that a step calls run inline, because looplab compiles the whole step.

TensorFlow keeps the trace of a `tf.function` and uses it again for arguments of the same types. Such a trace
fixes facts that are not arguments: whether layers train or evaluate, which layers are frozen, the replica on
which it ran, and the phase of looplab (creating variables, training, evaluating). Keras calls layers on
placeholders to infer their shapes, with random numbers in place of weights, and a trace from there never uses
a weight. Also, replicas cannot communicate within a `tf.function`. So within a step, and while Keras infers
shapes, the function is called in the present trace, and no other trace is kept.

With `LOOPLAB_PATCHES=off` TensorFlow's own switch, `tf.config.run_functions_eagerly`, does it within a step.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import tensorflow as tf
from keras.src.backend.common.stateless_scope import in_stateless_scope
from tensorflow.python.autograph.core import ag_ctx

from looplab.compat import patches

_log = logging.getLogger("looplab")

_FUNCTION = type(tf.function(lambda: None))
_with_trace = _FUNCTION.__call__
# Their functions keep their traces: TensorFlow's own (as in tf.vectorized_map) always need a graph.
_LIBRARIES = ("tensorflow", "keras", "looplab")

_thread = threading.local()  # each replica has its own thread


@contextmanager
def inlined() -> Iterator[None]:
    """Makes each `tf.function` that this thread calls within the block run as plain Python function."""
    before = is_within()
    _thread.within = True
    try:
        with nullcontext() if patches.are_on() else _untranslated():
            yield
    finally:
        _thread.within = before


@contextmanager
def _untranslated() -> Iterator[None]:
    """Uses TensorFlow's switch: it applies to all threads, and AutoGraph converts none of the functions."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def is_within() -> bool:
    """Whether this thread is within a step that looplab traces, or runs in Python."""
    return getattr(_thread, "within", False)


def _call(self: Any, *arguments: Any, **keywords: Any) -> Any:
    if not (is_within() or in_stateless_scope()) or _is_of_a_library(self):
        return _with_trace(self, *arguments, **keywords)
    arguments, keywords = _as_signed(self, arguments, keywords)
    if self._jit_compile and is_within():
        _tell_of_jit(self)
    if tf.executing_eagerly():
        return self.python_function(*arguments, **keywords)
    if not self._autograph:
        with ag_ctx.ControlStatusCtx(ag_ctx.Status.DISABLED):
            return self.python_function(*arguments, **keywords)
    translating = ag_ctx.ControlStatusCtx(ag_ctx.Status.ENABLED)
    convert = tf.__internal__.autograph.tf_convert
    return convert(self.python_function, translating, user_requested=True)(*arguments, **keywords)


def _is_of_a_library(function: Any) -> bool:
    """Whether a function belongs to a library, or to a SavedModel, which has only traces."""
    inner = _inner(function)
    if type(function) is not _FUNCTION:
        return True
    written = inspect.isfunction(inner) or inspect.ismethod(inner)  # not an object, such as a model
    return written and inner.__module__.split(".")[0] in _LIBRARIES


def _inner(function: Any) -> Any:
    return inspect.unwrap(function.python_function)


def _as_signed(
    function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Converts arguments to tensors of an input signature, if there is one, as TensorFlow does."""
    if function.input_signature is None:
        return arguments, keywords

    def converted(spec: Any, value: Any) -> Any:
        plain = isinstance(spec, tf.TensorSpec) and not tf.is_tensor(value)
        return tf.convert_to_tensor(value, spec.dtype) if plain else value

    bound = inspect.signature(function.python_function).bind(*arguments, **keywords)
    for name, spec in zip(list(bound.arguments), function.input_signature, strict=False):
        value = bound.arguments[name]
        bound.arguments[name] = tf.nest.map_structure(converted, spec, value, check_types=False)
    return bound.args, bound.kwargs


def _tell_of_jit(function: Any) -> None:
    inner = _inner(function)
    code = getattr(inner, "__code__", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    if not vars(function).setdefault("_looplab_told", False):
        function._looplab_told = True
        _log.info(
            "jit_compile=True of the tf.function %s%s has no effect within a step, which is compiled as a "
            "whole: execution='xla_step' compiles it with XLA",
            getattr(inner, "__qualname__", type(inner).__name__),
            where,
        )


patches.patch(
    "tensorflow.python.eager.polymorphic_function.polymorphic_function.Function.__call__", _FUNCTION, _call
)
