"""The memory that a step needs: exact for its state, a bound for what it computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from looplab.checkpoint.state import size_of
from looplab.execution.graph_operations import called, graph_of

_LOOPS = frozenset(("While", "StatelessWhile"))
_NO_BYTES = frozenset((tf.resource, tf.variant, tf.string))


@dataclass
class Outputs:
    """The tensors that one step computes, in total.

    Attributes:
        size: Their bytes, as if all existed at once.
        unknown: The number of tensors without a static shape, which are not in `size`.
        loops: The number of loops; tensors in a loop are counted for one turn.
    """

    size: int = 0
    unknown: int = 0
    loops: int = 0


def of_state(
    models: Mapping[str, keras.Model],
    optimizers: Mapping[str, keras.optimizers.Optimizer],
    trained: Mapping[str, Iterable[Any]],
) -> dict[str, int]:
    """Returns the exact bytes of weights, optimizers and gradients on one replica.

    Args:
        models: The models by name, built.
        optimizers: The optimizers by name, built.
        trained: The variables that each optimizer trains, whose gradients an update needs at once; of several
            optimizers the largest counts, because they run one after the other. (Loss terms that are divided
            by different weights each have gradients.)
    """
    weights = {id(variable): variable for model in models.values() for variable in model.variables}
    return {
        "weights": sum(map(size_of, weights.values())),
        "optimizer": sum(size_of(v) for optimizer in optimizers.values() for v in optimizer.variables),
        "gradients": max((sum(map(size_of, own)) for own in trained.values()), default=0),
    }


def of_step(graph: tf.Graph) -> Outputs:
    """Adds up the outputs of all operations of a traced step, including those of nested functions.

    The sum is an upper bound for what is computed, not a measurement: a runtime frees most tensors before the
    step is over, and XLA never creates many of them. It leaves out variables (see `of_state`), the scratch
    space of kernels, tensors of unknown size, and what a loop keeps of each turn for its gradient (`While`,
    as in a recurrent layer that is not unrolled).

    Args:
        graph: The graph of a concrete function whose batch has its real size.
    """
    return of_operations(graph, graph.get_operations())


def of_operations(graph: tf.Graph, operations: Iterable[tf.Operation]) -> Outputs:
    """Adds up the outputs of some operations of a graph; see `of_step`."""
    found = Outputs()
    for operation in operations:
        found.loops += operation.type in _LOOPS
        for output in operation.outputs:
            if output.dtype in _NO_BYTES:
                continue
            count = output.shape.num_elements()
            if count is None:
                found.unknown += 1
            else:
                found.size += count * int(output.dtype.size)
        for name in called(operation):
            function = graph_of(graph, name)
            if function is None:  # a loop of TensorFlow 1
                found.loops += 1
                continue
            inner = of_step(function)
            found.size += inner.size
            found.unknown += inner.unknown
            found.loops += inner.loops
    return found


def peaks() -> dict[str, int]:
    """Returns the most bytes that each GPU has held in this process so far, including weights."""
    devices = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
    return {name: int(tf.config.experimental.get_memory_info(name)["peak"]) for name in devices}
