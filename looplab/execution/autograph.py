"""The code that AutoGraph converts when a step is traced: the user's Python, not looplab's.

AutoGraph converts `if` and `while` over tensors into operations, function by function, and takes some 50
milliseconds for each. looplab's own code has none of these, so a step starts seconds earlier if looplab's
code is left alone, like TensorFlow's and Keras'. The user's functions (a training step, a loss, a metric) are
converted where looplab calls them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx, config, config_lib

from looplab.compat import patches
from looplab.execution import recomputed_calls
from looplab.execution.control_flow import explained
from looplab.execution.inline_functions import inlined
from looplab.execution.model_calls import translating
from looplab.runs.interrupt_noise import NotConverted

# The first matching rule counts. The examples are treated as user code.
_OURS = (config_lib.Convert("looplab.examples"), config_lib.DoNotConvert("looplab"))
patches.patch(
    "tensorflow.python.autograph.core.config.CONVERSION_RULES", config, (*_OURS, *config.CONVERSION_RULES)
)
logging.getLogger("tensorflow").addFilter(NotConverted())


def translated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a user's function in the form in which a step calls it; eagerly it runs unconverted.

    Each `tf.function` in it becomes part of the step; see `looplab.execution.inline_functions`.
    """
    converted = tf.__internal__.autograph.tf_convert(function, status(), convert_by_default=False)

    def call(*arguments: Any, **keywords: Any) -> Any:
        if tf.executing_eagerly():
            with inlined(), translating() if recomputed_calls.is_on() else nullcontext():
                return converted(*arguments, **keywords)
        with inlined(), translating(), explained():
            return converted(*arguments, **keywords)

    return call


def status() -> Any:
    """Returns whether this thread converts functions, to be passed to the thread of a replica."""
    return tf.__internal__.autograph.control_status_ctx()


def as_with(before: Any) -> Any:
    """Returns a context that gives this thread the `status` of another thread."""
    return ag_ctx.ControlStatusCtx(status=before.status, options=before.options)


def left_alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns one of looplab's own functions in the form in which to trace it, without conversion.

    `tf.function` always converts its argument: here this is one line. The result is a new function each time,
    because TensorFlow warns of retracing if many trainers trace the same function.
    """

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


def trace(function: Callable[..., Any], *specs: Any) -> Any:
    """Traces one of looplab's own functions for arguments of these `tf.TensorSpec`s."""
    return tf.function(left_alone(function)).get_concrete_function(*specs)
