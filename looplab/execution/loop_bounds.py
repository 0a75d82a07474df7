"""Finds loops and arrays that XLA cannot compile, before XLA tries.

The gradient of a loop keeps the results of each turn in lists. In XLA these have a fixed size, so it must
know a bound on the number of turns. If values decide that number, XLA raises an error, or aborts if a list
holds lists (a `tf.TensorArray` in the loop). An array that grows does not grow in XLA: values written behind
its end are lost silently.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from looplab.execution.graph_operations import graph_of, operations
from looplab.runs import cause

_OF_SHAPES = {"Const", "Shape", "ShapeN", "Size", "Rank"}
_COMPILED = "_XlaMustCompile"


class NotForXla(tf.errors.InvalidArgumentError):
    """XLA is to compile a loop or an array that it cannot compile; the class is that of XLA's own errors.

    Attributes:
        what: The loop or array, and where it was created.
        remedy: What to write instead: a sentence without its end, to which alternatives are added.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(None, None, f"XLA cannot compile the step: {what}")
        self.what, self.remedy = what, remedy


def refuse_unbounded(graph: tf.Graph, *, compiled: bool = False) -> None:
    """Refuses a trace for XLA if a loop's gradient has no bound, or if an array grows.

    Args:
        graph: A trace.
        compiled: Whether XLA compiles all of it; otherwise only the functions in it that are marked for XLA.

    Raises:
        NotForXla: If there is such a loop or array.
    """
    for operation, within in operations(graph):
        if not compiled and not any(map(_is_compiled, within)):
            continue
        if operation.type == "EmptyTensorList" and not _is_known(operation.inputs[1]):
            users = operation.outputs[0].consumers()
            loop = next((user for user in users if user.type.endswith("While")), operation)
            raise without_bound(_place(loop, within))
        if operation.type == "TensorListSetItem" and operation.get_attr("resize_if_index_out_of_bounds"):
            raise NotForXla(
                f"a tf.TensorArray grows (dynamic_size=True), but in XLA its size is fixed "
                f"({_place(operation, within)})",
                "Give it the largest size that it may have (tf.TensorArray(dtype, size=...))",
            )


def without_bound(where: str) -> NotForXla:
    """Returns the error of a loop whose gradient has no bound.

    Args:
        where: Its node, and the line of the user's code that created it, if these are known.
    """
    return NotForXla(
        "a tf.while_loop (or a while over tensors, a for over a range of tensors, or a TensorArray in one) "
        f"has no bound, which its gradient needs in XLA ({where})",
        "Give it one (tf.while_loop(..., maximum_iterations=...); in a while over tensors "
        "tf.autograph.experimental.set_loop_options(maximum_iterations=...); a for over a range of fixed "
        "length that is left by break)",
    )


def _is_compiled(operation: tf.Operation) -> bool:
    return _COMPILED in operation.node_def.attr and bool(operation.get_attr(_COMPILED))


def _is_known(most: tf.Tensor) -> bool:
    """Whether XLA knows, or may know, a number, and it is at least zero."""
    value = tf.get_static_value(most)
    return _is_of_shapes(most) if value is None else bool(value >= 0)


def _is_of_shapes(tensor: tf.Tensor) -> bool:
    """Whether a tensor is computed from constants and shapes alone, which XLA knows."""
    known, todo = set[tuple[int, str]](), [tensor]
    while todo:
        one = todo.pop()
        operation, key = one.op, (id(one.graph), one.name)
        if key in known or operation.type in _OF_SHAPES:
            continue
        known.add(key)
        if operation.type == "Placeholder":
            outer = [own for own, inner in getattr(one.graph, "captures", ()) if inner is one]
            if not outer or not hasattr(outer[0], "op"):
                return False
            todo += outer
        elif not operation.inputs:
            return False
        todo += operation.inputs
    return True


def turns(loop: tf.Operation) -> tuple[Any, ...] | None:
    """Returns what determines how often a loop turns; None if it is not only constants and shapes.

    Args:
        loop: An operation that calls a condition and a body, of `tf.while_loop`.

    Returns:
        The initial values that its condition depends on, with None for a value that only shapes determine.
    """
    condition, body = (graph_of(loop.graph, loop.get_attr(name).name) for name in ("cond", "body"))
    if condition is None or body is None:
        return None
    places, todo = set[int](), _inputs_of(condition, condition.outputs[0])
    while todo:
        if None in todo:
            return None
        new = {place for place in todo if place is not None} - places
        places |= new
        todo = {own for place in new for own in _inputs_of(body, body.outputs[place])}
    first = [loop.inputs[place] for place in sorted(places)]
    if not all(map(_is_of_shapes, first)):
        return None
    return tuple(None if (value := tf.get_static_value(one)) is None else value.tolist() for one in first)


def _inputs_of(graph: tf.Graph, tensor: tf.Tensor) -> set[int | None]:
    """Returns the inputs of a function that a value in it depends on; None for state."""
    at = {id(own): place for place, own in enumerate(graph.inputs)}
    found, known, todo = set[int | None](), set[str](), [tensor]
    while todo:
        one = todo.pop()
        if one.name in known:
            continue
        known.add(one.name)
        if id(one) in at:
            found.add(at[id(one)])
        elif one.op.op_def.is_stateful:
            found.add(None)
        todo += one.op.inputs
    return found


def _place(operation: tf.Operation, within: Iterable[tf.Operation]) -> str:
    """Returns an operation's node, and the line of the user's code that created it, if it is known."""
    for one in (operation, *within):
        frames = [cause.Frame(frame.filename, frame.lineno, frame.name) for frame in one.traceback or ()]
        if (frame := cause.own(frames)) is not None:
            return f"node {operation.name}, made in {frame}"
    return f"node {operation.name}"
