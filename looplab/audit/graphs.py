"""Operations of a traced step, those of the functions it calls included, and whose line made them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import tensorflow as tf

_LIBRARIES = re.compile(r"[/\\](tensorflow|keras|looplab)[/\\](?!examples)")


def operations(graph: tf.Graph, outside: str = "") -> Iterator[tuple[tf.Operation, str]]:
    """Gives each operation with the line of the person's own code that made it, if it is known.

    Args:
        graph: The trace.
        outside: The line that is taken inside a function whose operations know none (a branch, a loop).
    """
    for operation in graph.get_operations():
        where = line_of(operation) or outside
        yield operation, where
        for name in called(operation):
            yield from operations(graph._get_function(name).graph, where)


def called(operation: tf.Operation) -> list[str]:
    """Returns the names of the functions that an operation calls."""
    names: list[str] = []
    if operation.type == "Const":  # may be large, and calls nothing
        return names
    for attribute in operation.node_def.attr.values():
        functions = attribute.list.func if attribute.HasField("list") else ()
        names += [function.name for function in (attribute.func, *functions) if function.name]
    return names


def line_of(operation: tf.Operation) -> str:
    """Returns the line of the person's own code that made an operation, as `file:line`, or nothing."""
    own = [frame for frame in operation.traceback or () if not _LIBRARIES.search(frame.filename)]
    if not own:
        return ""
    file = own[-1].filename
    return f"{os.path.relpath(file) if file.startswith(os.getcwd()) else file}:{own[-1].lineno}"
