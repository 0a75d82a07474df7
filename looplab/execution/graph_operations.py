"""The operations of a traced step and of the functions it calls, and the user's lines that created them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator

import tensorflow as tf

_LIBRARIES = re.compile(r"[/\\](tensorflow|keras|looplab)[/\\](?!examples)")


def operations(
    graph: tf.Graph, within: tuple[tf.Operation, ...] = ()
) -> Iterator[tuple[tf.Operation, tuple[tf.Operation, ...]]]:
    """Yields each operation with the operations that call its function (a branch, a loop), inner first.

    Operations of a function without a graph are left out; see `graph_of`.

    Args:
        graph: The trace.
        within: The operations that call it.
    """
    for operation in graph.get_operations():
        yield operation, within
        for name in called(operation):
            if (inner := graph_of(graph, name)) is not None:
                yield from operations(inner, (operation, *within))


def graph_of(graph: tf.Graph, function: str) -> tf.Graph | None:
    """Returns the graph of a function that an operation calls; None if TensorFlow keeps none.

    TensorFlow keeps no graph of functions made as in TensorFlow 1, such as the loop in `tf.nn.ctc_loss`.

    Args:
        graph: The graph that has the operation.
        function: The name of the function.
    """
    found: tf.Graph | None = getattr(graph._get_function(function), "graph", None)
    return found


def called(operation: tf.Operation) -> list[str]:
    """Returns the names of the functions that an operation calls."""
    names: list[str] = []
    if operation.type == "Const":  # may be large, and calls nothing
        return names
    for attribute in operation.node_def.attr.values():
        functions = attribute.list.func if attribute.HasField("list") else ()
        names += [function.name for function in (attribute.func, *functions) if function.name]
    return names


def line_of(operation: tf.Operation, within: tuple[tf.Operation, ...] = ()) -> str:
    """Returns the user's line that created an operation, as `file:line`, or an empty string.

    Takes some 0.1 ms. Operations inside a function may have no line; then the caller's line is used.
    """
    for one in (operation, *within):
        own = [frame for frame in one.traceback or () if not _LIBRARIES.search(frame.filename)]
        if own:
            file = own[-1].filename
            return f"{os.path.relpath(file) if file.startswith(os.getcwd()) else file}:{own[-1].lineno}"
    return ""


_SMALL = 256  # bytes of a constant


def digest(graph: tf.Graph, *, constants: bool = False) -> str:
    """Returns a digest of a trace: of its operations without their names, and of their output shapes.

    It is the same in every process.

    Args:
        graph: The trace.
        constants: Whether the values of small constants count too.
    """
    found = hashlib.sha256()
    for operation in graph.get_operations():
        outputs = [(str(output.shape), output.dtype.name) for output in operation.outputs]
        found.update(f"{operation.type} {outputs}\n".encode())
        if constants and operation.type == "Const":
            value = operation.get_attr("value")
            if value.ByteSize() <= _SMALL:
                found.update(value.SerializeToString(deterministic=True))
    return found.hexdigest()
