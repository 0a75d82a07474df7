"""Explains calls that need all replicas at a place which only some of them may reach.

The replicas of a `MirroredStrategy` are threads that trace a step in parallel. All of them must reach every
exchange of values. TensorFlow ensures this for the step itself, but not for a branch or a loop within it.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from looplab.errors import LossError
from looplab.runs import cause

_NOT_THERE = re.compile(r"[/\\]tensorflow[/\\]python[/\\]ops[/\\]variables\.py$")  # methods without code
WITHIN = "inside a tf.while_loop, a tf.cond or a tf.function within the step"
_APART = (
    "inside a condition or loop of the graph (an if, for or while over tensors, a tf.cond, a tf.while_loop) "
    "or in a tf.function within the step, where replicas cannot communicate"
)
_GATED = (
    "minimize(..., when=condition) always computes, and makes the update where the condition is true; a loop "
    "in Python (over a range) can make several"
)
_CHOSEN = "compute always, and choose with tf.where; a loop in Python (over a range) can do it several times"


def refusal(name: str) -> LossError:
    """Returns the error of a method that exchanges values where replicas cannot communicate."""
    remedy = _GATED if name in ("minimize", "apply_gradients") else _CHOSEN
    return LossError(
        f"{name} is called on several replicas {_APART}. Call it outside of that: {remedy}. Or train on one "
        "device."
    )


@contextmanager
def explained() -> Iterator[None]:
    """Explains the same for values that other code than looplab's exchanges, such as a layer's.

    It explains methods of variables that TensorFlow does not have on replicas, too.

    Raises:
        LossError: In place of TensorFlow's error about a `merge_call` or about such a method.
    """
    try:
        yield
    except NotImplementedError as error:
        first = cause.origin(error)
        *_, (last, _) = traceback.walk_tb(first.__traceback__)
        if str(first) or not _NOT_THERE.search(last.f_code.co_filename):
            raise
        raise LossError(
            f"{last.f_code.co_name} of a variable is called on several replicas{cause.of(error).place()}, "
            "and TensorFlow has none there. Compute the new value and assign it: variable.assign("
            "tf.tensor_scatter_nd_update(variable, indices, updates)), and read with tf.gather_nd(variable, "
            "indices). Or train on one device."
        ) from error
    except RuntimeError as error:
        if "`merge_call` called while defining a new graph" not in str(error):
            raise
        raise LossError(
            "values are exchanged between replicas (by synchronised BatchNormalization, an optimizer's "
            f"apply or tf.distribute's all_reduce) {_APART}. Do it outside of that: {_CHOSEN}. Or train on "
            "one "
            "device."
        ) from error
