"""Operations of a traced step, those of the functions it calls included, and whose line made them."""

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
    """Gives each operation with those that call the function it stands in (a branch, a loop), inner first.

    Operations of a function without a graph are left out; see `graph_of`.

    Args:
        graph: The trace.
        within: What calls it.
    """
    for operation in graph.get_operations():
        yield operation, within
        for name in called(operation):
            if (inner := graph_of(graph, name)) is not None:
                yield from operations(inner, (operation, *within))


def graph_of(graph: tf.Graph, function: str) -> tf.Graph | None:
    """Returns the graph of a function that an operation calls; None where TensorFlow keeps none.

    It keeps none of functions made as in TensorFlow 1, such as the loop in `tf.nn.ctc_loss`.

    Args:
        graph: Which has the operation.
        function: Its name.
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
    """Returns the line of the person's own code that made an operation, as `file:line`, or nothing.

    Takes some 0.1 ms. Inside a function operations may know no line; then that of who calls it is taken.
    """
    for one in (operation, *within):
        own = [frame for frame in one.traceback or () if not _LIBRARIES.search(frame.filename)]
        if own:
            file = own[-1].filename
            return f"{os.path.relpath(file) if file.startswith(os.getcwd()) else file}:{own[-1].lineno}"
    return ""


_SMALL = 256  # bytes of a constant


def digest(graph: tf.Graph, *, constants: bool = False) -> str:
    """Returns what identifies a trace: its operations without their names, and the shapes they give.

    The same in every process.

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
