"""Where replicas cannot meet: in what only some of them may come to.

The replicas of a `MirroredStrategy` are threads that trace a step side by side. What they exchange, all of
them must come to, which TensorFlow knows of the step itself but not of a branch or a loop within it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from looplab.errors import LossError

WITHIN = "inside a tf.while_loop, a tf.cond or a tf.function within the step"
_APART = (
    "inside a condition or loop of the graph (an if, for or while over tensors, a tf.cond, a tf.while_loop) "
    "or in a tf.function within the step, where replicas cannot meet"
)
_GATED = (
    "minimize(..., when=condition) always computes, and makes the update where the condition is true; a loop "
    "in Python (over a range) can make several"
)
_CHOSEN = "compute always, and choose with tf.where; a loop in Python (over a range) can do it several times"


def refusal(name: str) -> LossError:
    """Returns the error of a method that exchanges values and is called where replicas cannot meet."""
    remedy = _GATED if name in ("minimize", "apply_gradients") else _CHOSEN
    return LossError(
        f"{name} is called on several replicas {_APART}. Call it outside of that: {remedy}. Or train on one "
        "device."
    )


@contextmanager
def explained() -> Iterator[None]:
    """Says it likewise of what is exchanged by other code than looplab's, such as a layer.

    Raises:
        LossError: In the place of TensorFlow's error about a `merge_call`.
    """
    try:
        yield
    except RuntimeError as error:
        if "`merge_call` called while defining a new graph" not in str(error):
            raise
        raise LossError(
            "values are exchanged between replicas (as synchronised BatchNormalization, an optimizer's apply "
            f"and tf.distribute's all_reduce do) {_APART}. Do it outside of that: {_CHOSEN}. Or train on one "
            "device."
        ) from error
