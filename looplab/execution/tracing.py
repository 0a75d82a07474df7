"""The first trace of a step, before it runs, which creates every variable that it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from looplab.checkpoint import state
from looplab.errors import ConfigurationError, LooplabError
from looplab.execution.autograph import trace
from looplab.execution.model_calls import translating
from looplab.runs import cause
from looplab.strategy import tree


def symbolically(function: Callable[..., Any], strategy: tf.distribute.Strategy, *specs: Any) -> tf.Graph:
    """Traces a step on placeholders, which creates every variable that it needs.

    Nothing is computed, so no variable changes. Variables that are created on the way (of layers that are
    built when they are first called) are created outside of the trace, with their initial values.

    Args:
        function: A step, as it runs on a replica.
        strategy: Its strategy, in whose scope this is called.
        *specs: Nested structures of `tf.TensorSpec`, the arguments of the step.

    Returns:
        The trace.
    """

    def lifted(create: Callable[..., tf.Variable], **wanted: Any) -> tf.Variable:
        initial = wanted.get("initial_value")
        if tf.is_tensor(initial) and not hasattr(
            initial, "numpy"
        ):  # zeros in this trace, such as an RNN's state
            known = tf.get_static_value(initial)
            wanted["initial_value"] = initial if known is None else known
        with tf.init_scope():
            return create(**{**wanted, "experimental_enable_variable_lifting": False})

    def traced(*arguments: Any) -> None:
        with (
            tf.variable_creator_scope(lifted),
            _LonelyReplica(strategy, replica_id_in_sync_group=0),
        ):
            function(*arguments)

    return trace(traced, *specs).graph


def eagerly(function: Callable[..., Any], known: state.Variables, spec: Any) -> None:
    """Runs a step in Python on a batch of zeros, for the same purpose, and restores all variables.

    Args:
        function: A step that makes no update.
        known: The variables that exist already.
        spec: A nested structure of `tf.TensorSpec`; an open number of rows becomes two.
    """
    batch = tree.map_structure(
        lambda part: tf.zeros([2 if length is None else length for length in part.shape], part.dtype), spec
    )
    before = state.read(known)
    made: list[tuple[tf.Variable, Any]] = []

    def noted(create: Callable[..., tf.Variable], **wanted: Any) -> tf.Variable:
        variable = create(**wanted)
        made.append((variable, variable.numpy()))
        return variable

    # Python takes one branch of a layer. Keras builds it on placeholders, and so finds all branches.
    with tf.variable_creator_scope(noted), translating():
        function(batch)
    state.assign(known, before, "the state before the step was traced")
    for variable, value in made:
        variable.assign(value)


def until_known(once: Callable[[], None], again: Callable[[], bool]) -> None:
    """Makes a first trace, and a second one if the first has built an object that was read before.

    Args:
        once: Makes a trace.
        again: Whether another trace finds more; called after the first.

    Raises:
        LooplabError: The original error with which the step was refused: Keras wraps it in another one.
    """
    refused: LooplabError | None = None
    try:
        once()
        if again():
            once()
    except Exception as error:
        own = cause.origin(error)
        refused = own if isinstance(own, LooplabError) and own is not error else _of_unbuilt_layer(error)
        if refused is None:
            raise
    if refused is not None:  # outside of the handler, which would become its context
        raise refused


def _of_unbuilt_layer(error: Exception) -> ConfigurationError | None:
    """Returns what to say of a step that reads a variable of a layer that has none yet."""
    found = cause.of(error)
    if found.kind != "AttributeError" or "must build the layer" not in found.message:
        return None
    return ConfigurationError(
        f"the step reads a variable of a layer that is not built yet: {found.sentence}{found.place()}. Build "
        "the model before: begin it with a keras.Input, or call its build or the model itself in setup. "
        "Lists (layer.trainable_variables) need no building: looplab traces the step again."
    )


class _LonelyReplica(tf.distribute.ReplicaContext):
    """The first replica without the others: exchanges return its own values.

    The real replicas cannot be used: the first would build a layer's variables and wait for the second to do
    the same, but the second finds the layer built.
    """

    def all_reduce(self, reduce_op: Any, value: Any, options: Any = None) -> Any:
        return value

    def all_gather(self, value: Any, axis: int, options: Any = None) -> Any:
        return value

    def merge_call(self, merge_fn: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if args else None
