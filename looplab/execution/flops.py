"""The work for one example, tokens and floating point operations, for comparable rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from looplab.execution.graph_operations import called, graph_of, operations
from looplab.strategy import tree

_ROWS = 32  # for a batch of unknown size; the count is divided by it again
_READS = frozenset(("ReadVariableOp", "ResourceGather", "ResourceGatherNd"))
_BACKWARD = 2  # times the forward pass


def of_example(
    graph: tf.Graph | None, spec: Any, models: Mapping[str, keras.Model], rows: int | None
) -> dict[str, int]:
    """Returns the number of tokens in an example, and of the floating point operations that it needs.

    `tokens` is the length of sequences of integers `[batch, length]`, padding included, if a model has an
    `Embedding`. `flops` is three times the count for matrix products and convolutions of the forward pass:
    once for it, twice for its gradients (model FLOPs: Chowdhery et al. 2022, PaLM, appendix B). A count that
    shapes do not determine, as in a recurrent loop, is left out.

    Args:
        graph: The trace of a training step up to its losses; None if there is none.
        spec: The spec of a batch from the data: nested `tf.TensorSpec`.
        models: The models by name, built.
        rows: The number of rows in a batch, except perhaps the last; None if that is not known.
    """
    inputs = spec[0] if isinstance(spec, tuple) else spec
    lengths = [
        part.shape[1]
        for part in tree.flatten(inputs)
        if part.dtype.is_integer and part.shape.rank == 2 and part.shape[1]
    ]
    layers = [layer for model in models.values() for layer in model._flatten_layers()]
    found: dict[str, int] = {}
    if lengths and any(isinstance(layer, keras.layers.Embedding) for layer in layers):
        found["tokens"] = max(lengths)
    if graph is not None and (forward := _forward(graph, spec, rows or _ROWS)):
        found["flops"] = round((1 + _BACKWARD) * forward)
    return found


def of_operations(graph: tf.Graph, chosen: Iterable[tf.Operation]) -> float | None:
    """Returns the operations of products and convolutions; a loop counts once.

    Args:
        graph: The graph of the operations.
        chosen: Some operations of it.

    Returns:
        The number; None if shapes do not determine it.
    """
    counts = [
        _COUNTS[each.type](each) for one in chosen for each in _within(graph, one) if each.type in _COUNTS
    ]
    return None if any(count is None for count in counts) else float(sum(filter(None, counts)))


def _within(graph: tf.Graph, operation: tf.Operation) -> Iterator[tf.Operation]:
    """Yields an operation, and those of the functions that it calls."""
    yield operation
    for name in called(operation):
        if (inner := graph_of(graph, name)) is not None:
            yield from (each for each, _ in operations(inner))


def _forward(graph: tf.Graph, spec: Any, rows: int) -> float | None:
    """Returns the operations of a traced forward pass per example; None if some are not known."""
    counted = [(operation, within) for operation, within in operations(graph) if operation.type in _COUNTS]
    if not counted or any(within for _, within in counted):  # the number of turns of a loop is not known
        return None
    fixed = tree.first(spec).shape[0]
    try:
        sized = graph if fixed else _sized(graph, rows)
    except ValueError:  # the step cannot run on batches of this size; the right size is not known
        return None
    counts = [_COUNTS[o.type](o) for o in sized.get_operations() if o.type in _COUNTS]
    if any(count is None for count in counts):
        return None
    return sum(filter(None, counts)) / (fixed or rows)


def _sized(graph: tf.Graph, rows: int) -> tf.Graph:
    """Returns a trace with batches of a fixed size, whose shapes TensorFlow infers again.

    Raises:
        ValueError: If some operation does not accept a batch of this size.
    """
    sized = tf.Graph()
    with sized.as_default():
        known = {}
        for operation in graph.get_operations():
            given = operation.type == "Placeholder" and operation.outputs[0].dtype != tf.resource
            if (given or operation.type in _READS) and operation.outputs[0].shape.rank is not None:
                output = operation.outputs[0]
                shape = [rows if n is None and not axis else n for axis, n in enumerate(output.shape)]
                known[output.name] = tf.compat.v1.placeholder(output.dtype, shape)
        tf.graph_util.import_graph_def(graph.as_graph_def(), input_map=known, name="")
    return sized


def _size(tensor: tf.Tensor) -> int | None:
    return tensor.shape.num_elements()


def _product(operation: tf.Operation) -> int | None:
    """Counts the operations of `MatMul`s: two for each number of the result and each summed index."""
    left, result = operation.inputs[0].shape, _size(operation.outputs[0])
    transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
    summed = left[-2 if transposed else -1] if left.rank else None
    return None if result is None or summed is None else 2 * result * summed


def _einsum(operation: tf.Operation) -> int | None:
    """Counts two operations for each combination of all indices."""
    equation = operation.get_attr("equation").decode()
    lengths: dict[str, int | None] = {}
    for labels, tensor in zip(equation.split("->")[0].split(","), operation.inputs, strict=True):
        if "." in labels or tensor.shape.rank != len(labels):
            return None
        lengths |= {label: lengths.get(label) or n for label, n in zip(labels, tensor.shape, strict=True)}
    known = [length for length in lengths.values() if length is not None]
    return 2 * math.prod(known) if len(known) == len(lengths) else None


def _convolution(operation: tf.Operation) -> int | None:
    """Counts two operations for each number of the result (or transposed input) and each kernel weight."""
    spread = operation.type.endswith("BackpropInput") or operation.type.endswith("BackpropInputV2")
    size = _size(operation.inputs[2] if spread else operation.outputs[0])
    kernel = operation.inputs[1].shape
    if size is None or not kernel.is_fully_defined():
        return None
    met = kernel[:-2] if operation.type.startswith("Depthwise") else kernel[:-1]
    return 2 * size * int(met.num_elements() or 0)


_COUNTS: dict[str, Callable[[tf.Operation], int | None]] = {
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2"), _product),
    "Einsum": _einsum,
    **dict.fromkeys(
        (
            "Conv2D",
            "Conv3D",
            "DepthwiseConv2dNative",
            "Conv2DBackpropInput",
            "Conv3DBackpropInputV2",
        ),
        _convolution,
    ),
}
