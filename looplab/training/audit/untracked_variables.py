"""Finds variables that a training step assigns and no checkpoint holds, from its graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import tensorflow as tf
from tensorflow.python.framework import auto_control_deps_utils as resources

from looplab import strategy as replication
from looplab.checkpoint import state
from looplab.errors import ConfigurationError
from looplab.execution.graph_operations import line_of


@dataclass(frozen=True)
class Stray:
    """A variable that a step assigns, but that no checkpoint enumerates.

    Attributes:
        name: Its name.
        where: The line that assigns it, if it is known.
    """

    name: str
    where: str

    def __str__(self) -> str:
        """Returns a description."""
        return f"{self.name}{self.where and ' at '}{self.where}"


def strays(graph: tf.Graph, variables: state.Variables) -> list[Stray]:
    """Returns the variables that a step assigns beyond the known ones, in branches and loops too.

    A variable that is only read does not change: for example a table in a closure is fine. Under several
    replicas, variables that are assigned on all of them at once (`MirroredVariable`s) are not in the first
    trace.

    Args:
        graph: The trace of a step.
        variables: Everything that a checkpoint holds, by path.
    """
    known = {id(part.handle) for variable in variables.values() for part in state.parts(variable)}
    names = dict(_names(graph))
    return [
        Stray(names[id(handle)], line_of(writes[0]))
        for handle, inside in graph.captures
        if id(handle) in names and id(handle) not in known and (writes := _writes(inside))
    ]


def refuse_strays(graph: tf.Graph | None, variables: state.Variables) -> None:
    """Refuses a step that assigns variables which no checkpoint holds.

    Args:
        graph: The trace of a training step; None if it was not traced.
        variables: Everything that a checkpoint holds, by path.

    Raises:
        ConfigurationError: With every such variable, and the right place for it.
    """
    found = [] if graph is None else strays(graph, variables)
    if found:
        first = found[0].name.split("/")[-1].split(":")[0]
        raise ConfigurationError(
            f"the training step assigns {', '.join(map(str, found))}, which no checkpoint would hold: it is "
            "in no model of the trainer and in none of its attributes. Create it in setup and keep it on "
            f"the trainer (self.{_word(first)} = ...), or in a list or dict there; in a Keras layer create "
            "it with self.add_weight(..., trainable=False), because Keras does not track a tf.Variable."
        )


def refuse_outsiders(
    graph: tf.Graph | None, variables: state.Variables, strategy: tf.distribute.Strategy
) -> None:
    """Refuses a step that changes variables which several replicas share, as seed generators are changed.

    Args:
        graph: The trace of a training step; None if it was not traced.
        variables: Everything that a checkpoint holds, by path.
        strategy: The strategy under which steps run.

    Raises:
        ConfigurationError: With every variable that was created outside of the strategy's scope.
    """
    if graph is None or strategy.num_replicas_in_sync == 1:
        return
    outside = {
        id(part.handle): path
        for path, variable in variables.items()
        if not strategy.extended.variable_created_in_scope(replication.unwrapped(variable))
        for part in state.parts(variable)
    }
    found = [
        Stray(outside[id(handle)], line_of(writes[0]))
        for handle, inside in graph.captures
        if id(handle) in outside and (writes := _writes(inside))
    ]
    if found:
        raise ConfigurationError(
            f"the training step changes {', '.join(map(str, found))}, which was created outside of the "
            f"strategy's scope: each of {strategy.num_replicas_in_sync} replicas would change it in every "
            "step, and random numbers would differ from those of one device. Create it, or the layer that "
            "has it, in setup instead of __init__, or in the function that returns the model."
        )


def _writes(handle: tf.Tensor) -> list[tf.Operation]:
    """Returns the operations that change a resource; a call counts if its function changes it."""
    return [
        operation
        for operation in handle.consumers()
        if any(handle is written for written in resources.get_read_write_resource_inputs(operation)[1])
    ]


def _names(graph: tf.Graph) -> Iterator[tuple[int, str]]:
    try:
        for variable in graph.variables:
            yield id(variable.handle), variable.name.split(":")[0]
    except AssertionError:  # a variable existed during the trace, and no longer
        return


def _word(name: str) -> str:
    return name if name.isidentifier() else "counter"
