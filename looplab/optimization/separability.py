"""Whether the loss of an example depends on other examples: what the shapes of a trace tell.

A loss is traced for a number of rows that no other axis has, so each axis of examples is known by its length.
Nothing is computed. Shapes do not tell everything (a softmax over the batch keeps them all):
`looplab.testing.check_step` compares values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from looplab.errors import LossError
from looplab.execution.autograph import trace
from looplab.strategy import tree

_ROWS = (1009, 1013, 1019, 1021, 1031)  # primes, so that rows that were flattened are known too
_CALLS = {"Case", "If", "PartitionedCall", "StatefulPartitionedCall", "StatelessCase", "StatelessIf"}
_CALLS |= {"StatelessWhile", "While"}  # what they do with rows stands in a graph of their own


class _Probe(NamedTuple):
    """The trace of a loss.

    Attributes:
        rows: For how many rows it was traced.
        outputs: What the loss gave, symbolic tensors.
    """

    rows: int
    outputs: Any

    def axes(self, tensor: tf.Tensor) -> list[int]:
        """Returns the axes of a tensor along which examples stand."""
        lengths = tensor.shape.as_list() if tensor.shape.rank else []
        return [axis for axis, length in enumerate(lengths) if length and length % self.rows == 0]


def dependence(loss: Callable[..., Any], *arguments: Any) -> str | None:
    """Says how what a loss gives for an example depends on the others, as far as shapes tell.

    Args:
        loss: From `arguments` to values.
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
    """Whether a loss holds every example against every other somewhere, as far as shapes tell."""
    probe = _traced(loss, arguments)
    if probe is None:
        return False
    return any(len(probe.axes(t)) > 1 for operation in _behind(probe.outputs) for t in operation.outputs)


def refuse_examples_twice(loss: Callable[[Any], Any], batch: Any, result: Any) -> None:
    """Refuses values on which the examples stand along two axes: `[n]` was held against `[n, 1]`.

    Args:
        loss: From a batch to what it gave: values, `(values, weights)`, or a dict of these.
        batch: Nested structure of tensors that share their first axis.
        result: What it gave for this batch. It is traced once more only where the shapes of this leave it
            open what the axes are.

    Raises:
        LossError: With the axis.
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
                "shape is [n, n] for n examples, so each target is held against every prediction. Most "
                "likely one of the two has shape [n] and the other [n, 1]: give both the same, such as "
                "targets[:, None] or predictions[:, 0]. If the loss is to compare the examples with each "
                "other, say separable = False in the trainer's class."
            )
        if len(axes) == 2 and axes[1] == [0] and value[1].shape.rank < value[0].shape.rank:
            raise LossError(
                f"the weights of the loss term {name!r} have shape [n] for n examples, and its values have "
                f"{value[0].shape.rank} axes: they would be laid along the last one. Give them an axis for "
                "each of the values', such as weights[:, None]."
            )


def _named(result: Any) -> Iterator[tuple[str, tuple[tf.Tensor, ...]]]:
    """Gives the tensors of each term that is no sum already: values, or values and weights."""
    for name, value in (result if isinstance(result, Mapping) else {"loss": result}).items():
        if type(value) is tuple and len(value) == 2:
            yield name, tuple(tf.convert_to_tensor(part) for part in value if part is not None)
        elif tf.is_tensor(value):
            yield name, (value,)


def _is_open(value: tuple[tf.Tensor, ...], rows: int | None) -> bool:
    """Whether examples may stand along another axis of a term than the first; `rows` of them, if known."""
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
    except Exception:  # it may be made for batches of one size, or for Python; then values must tell
        return None


def _behind(outputs: Any) -> Iterator[tf.Operation]:
    """Gives the operations from which tensors are computed."""
    left = [tensor.op for tensor in tree.flatten(outputs) if tf.is_tensor(tensor)]
    seen = set[tf.Operation]()
    while left:
        operation = left.pop()
        if operation not in seen:
            seen.add(operation)
            yield operation
            # What only decides between two ways (an `if` on a number of the batch) is no part of a value.
            left += [tensor.op for tensor in operation.inputs if tensor.dtype != tf.bool]


def _ends(operation: tf.Operation) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    return list(operation.inputs), list(operation.outputs)
