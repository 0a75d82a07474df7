"""Finds out from the shapes of a trace whether the loss of an example depends on other examples.

A loss is traced for a number of rows that no other axis has, so the length of an axis shows whether it is an
axis of examples. Nothing is computed. Shapes do not reveal everything (a softmax over the batch keeps them
all): `looplab.testing.check_step` compares values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from looplab.errors import LossError
from looplab.execution.autograph import trace
from looplab.strategy import tree

_ROWS = (1009, 1013, 1019, 1021, 1031)  # primes, so that flattened rows are recognised too
_CALLS = {"Case", "If", "PartitionedCall", "StatefulPartitionedCall", "StatelessCase", "StatelessIf"}
_CALLS |= {"StatelessWhile", "While"}  # their own graphs hold what they do with rows


class _Probe(NamedTuple):
    """The trace of a loss.

    Attributes:
        rows: The number of rows for which it was traced.
        outputs: The results of the loss, symbolic tensors.
    """

    rows: int
    outputs: Any

    def axes(self, tensor: tf.Tensor) -> list[int]:
        """Returns the axes of a tensor that are axes of examples."""
        lengths = tensor.shape.as_list() if tensor.shape.rank else []
        return [axis for axis, length in enumerate(lengths) if length and length % self.rows == 0]


def dependence(loss: Callable[..., Any], *arguments: Any) -> str | None:
    """Returns how a loss of an example depends on other examples, as far as shapes show it.

    Args:
        loss: A function from `arguments` to values.
        *arguments: Nested structures of tensors that share their first axis.

    Returns:
        A clause without a subject, or None.
    """
    probe = _traced(loss, arguments)
    if probe is None:
        return None
    for operation in _behind(probe.outputs):
        if any(len(probe.axes(tensor)) > 1 for tensor in operation.outputs):
            return f"compares the examples of a batch with each other ({operation.type} gives shape [n, n])"
        before, after = ([t for t in found if t.dtype.is_floating] for found in _ends(operation))
        shrinks = any(map(probe.axes, before)) and after and not any(map(probe.axes, after))
        if shrinks and operation.type not in _CALLS:
            return f"computes a number from all examples of a batch ({operation.type} over axis 0)"
    return None


def crosses_examples(loss: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a loss compares every example with every other one, as far as shapes show it."""
    probe = _traced(loss, arguments)
    if probe is None:
        return False
    return any(len(probe.axes(t)) > 1 for operation in _behind(probe.outputs) for t in operation.outputs)


def refuse_examples_twice(loss: Callable[[Any], Any], batch: Any, result: Any) -> None:
    """Refuses values with two axes of examples: `[n]` was compared with `[n, 1]`.

    Args:
        loss: A function from a batch to its result: values, `(values, weights)`, or a dict of these.
        batch: A nested structure of tensors that share their first axis.
        result: The result for this batch. It is traced once more only if its shapes do not determine the
            axes.

    Raises:
        LossError: With the axes.
    """
    rows = tree.first(batch).shape[0]
    if not any(_is_open(value, rows) for _, value in _named(result)):
        return
    probe = _traced(loss, (batch,))
    if probe is None:
        return
    for name, value in _named(probe.outputs):
        axes = [probe.axes(tensor) for tensor in value]
        twice = next((own for own in axes if len(own) > 1), None)
        if twice:
            raise LossError(
                f"the loss term {name!r} has the examples along two axes, {twice[0]} and {twice[1]}: its "
                "shape is [n, n] for n examples, so each target is compared with every prediction. Most "
                "likely one of the two has shape [n] and the other [n, 1]: give both the same, such as "
                "targets[:, None] or predictions[:, 0]. If the loss is meant to compare the examples with "
                "each other, set separable = False in the trainer's class."
            )
        if len(axes) == 2 and axes[1] == [0] and value[1].shape.rank < value[0].shape.rank:
            raise LossError(
                f"the weights of the loss term {name!r} have shape [n] for n examples, and its values have "
                f"{value[0].shape.rank} axes: broadcasting would align them with the last axis. Give them as "
                "many axes as the values, such as weights[:, None]."
            )


def _named(result: Any) -> Iterator[tuple[str, tuple[tf.Tensor, ...]]]:
    """Yields the tensors of each term that is not yet a sum: values, or values and weights."""
    for name, value in (result if isinstance(result, Mapping) else {"loss": result}).items():
        if type(value) is tuple and len(value) == 2:
            yield name, tuple(tf.convert_to_tensor(part) for part in value if part is not None)
        elif tf.is_tensor(value):
            yield name, (value,)


def _is_open(value: tuple[tf.Tensor, ...], rows: int | None) -> bool:
    """Whether another axis of a term than the first may be one of examples; `rows` of them, if known."""
    ranks = [tensor.shape.rank or 0 for tensor in value]
    if len(value) == 2 and 0 < ranks[1] < ranks[0]:
        return True
    later = [length for tensor in value if tensor.shape.rank for length in tensor.shape[1:]]
    return None in later or (rows is not None and rows in later)


def _traced(loss: Callable[..., Any], arguments: Any) -> _Probe | None:
    lengths = {length for part in tree.flatten(arguments) for length in part.shape[1:]}
    rows = next(prime for prime in _ROWS if not any(length and length % prime == 0 for length in lengths))
    specs = tree.map_structure(lambda part: tf.TensorSpec([rows, *part.shape[1:]], part.dtype), arguments)
    try:
        return _Probe(rows, trace(loss, *specs).structured_outputs)
    except Exception:  # it may need a fixed batch size, or Python
        return None


def _behind(outputs: Any) -> Iterator[tf.Operation]:
    """Yields the operations from which tensors are computed."""
    left = [tensor.op for tensor in tree.flatten(outputs) if tf.is_tensor(tensor)]
    seen = set[tf.Operation]()
    while left:
        operation = left.pop()
        if operation not in seen:
            seen.add(operation)
            yield operation
            # A bool only selects a branch (an `if` on a number of the batch); it is no part of a value.
            left += [tensor.op for tensor in operation.inputs if tensor.dtype != tf.bool]


def _ends(operation: tf.Operation) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    return list(operation.inputs), list(operation.outputs)
