"""What TensorFlow translates when it traces a step: a person's Python, not looplab's own.

AutoGraph turns `if` and `while` over tensors into operations, function by function, and takes some 50
milliseconds for each. looplab's own code has none of these, so a step begins to run seconds earlier if
it is left alone, as TensorFlow's and Keras' own is. What a person gives (a training step, a loss, a
metric) is translated where looplab calls it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx, config, config_lib

from looplab.compat import patches
from looplab.execution.control_flow import explained
from looplab.execution.inline_functions import inlined
from looplab.execution.model_calls import translating
from looplab.runs.interrupt_noise import NotConverted

# The first that fits counts. Examples are code as a person writes it.
_OURS = (config_lib.Convert("looplab.examples"), config_lib.DoNotConvert("looplab"))
patches.patch(
    "tensorflow.python.autograph.core.config.CONVERSION_RULES", config, (*_OURS, *config.CONVERSION_RULES)
)
logging.getLogger("tensorflow").addFilter(NotConverted())


def translated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a person's function as it is to be called within a step; in Python it is the function.

    Each `tf.function` in it is part of the step; see `looplab.execution.inline_functions`.
    """
    converted = tf.__internal__.autograph.tf_convert(function, status(), convert_by_default=False)

    def call(*arguments: Any, **keywords: Any) -> Any:
        if tf.executing_eagerly():
            with inlined():
                return converted(*arguments, **keywords)
        with inlined(), translating(), explained():
            return converted(*arguments, **keywords)

    return call


def status() -> Any:
    """Returns whether this thread translates, to be handed on to the thread of a replica."""
    return tf.__internal__.autograph.control_status_ctx()


def as_with(before: Any) -> Any:
    """Returns a context in which this thread translates if another, whose `status` is given, did."""
    return ag_ctx.ControlStatusCtx(status=before.status, options=before.options)


def left_alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns one of looplab's own functions as it is to be traced.

    What `tf.function` is given is always translated: that is this one line. It is a new function each time
    besides, since TensorFlow warns of retracing where many trainers trace one.
    """

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


def trace(function: Callable[..., Any], *specs: Any) -> Any:
    """Returns the trace of one of looplab's own functions for arguments of these types, `tf.TensorSpec`s."""
    return tf.function(left_alone(function)).get_concrete_function(*specs)
