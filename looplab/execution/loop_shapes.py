"""The shapes of batches that a compiled loop needs, and the reading of its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from looplab.errors import LossError
from looplab.execution.batches import Taken
from looplab.execution.step_result import Guard, Result
from looplab.strategy import tree

WHOLE = 512  # batches of a loop that XLA compiles whole, at most
WHOLE_BYTES = 16 * 2**20  # at most so many bytes in these batches


class LoopShape(NamedTuple):
    """The facts about batches that a trace fixes.

    Attributes:
        rows: The number of rows in every batch, or None if it is not fixed.
        padded_to: The number of rows after padding, or None; see `looplab.strategy.padded_size`.
        full: In `xla_loop`, the number of rows in all batches except the last.
        length: In `xla_loop`, the number of batches for which the loop is compiled.
        guard: What steps do if something is not finite.
    """

    rows: int | None
    padded_to: int | None
    full: int
    length: int
    guard: Guard


class LoopResult(NamedTuple):
    """The result of one call of an execution; see `looplab.protocols.Steps`."""

    done: int
    values: dict[str, Any]
    weights: dict[str, Any]
    parts: dict[str, Any]
    failed: dict[str, float] | None
    shown: dict[str, Any]

    @classmethod
    def of(cls, result: Result, count: int) -> LoopResult:
        """Reads the results of the first `count` steps, up to one that failed; on the host."""
        failures = np.asarray(result.failed)[:count]
        done = int(failures.argmax()) if failures.any() else count
        found = {name: np.asarray(series, np.float64) for name, series in result.values.items()}
        values = {name: series[:done] for name, series in found.items()}
        weights, parts = (
            {name: np.asarray(series, np.float64)[:done] for name, series in own.items()}
            for own in (result.weights, result.parts)
        )
        failed = {name: float(series[done]) for name, series in found.items()} if done < count else None
        return cls(done, values, weights, parts, failed, result.shown)


def check_names(result: Result, known: Sequence[str] | None) -> list[str]:
    """Returns the names of the values of a step that runs in Python.

    Raises:
        LossError: If the names of the steps before it, `known`, differ.
    """
    names = list(result.weights)
    if known is not None and set(names) != set(known):
        some = ", ".join(map(repr, sorted(set(names) ^ set(known))))
        raise LossError(
            f"{some}: a step returns or logs it (self.log), but another step does not. Use the same names "
            "in every step, as a traced step does; self.log(name, value, weight=0.0) counts in no mean."
        )
    return names


def full_batches(taken: Taken, count: int, shape: LoopShape) -> int:
    """Returns the number of batches that are not short."""
    if isinstance(taken, tf.data.Iterator):
        return count
    return min(count, int(tree.first(taken.rows).shape[0]) // shape.full)


def stack_full(rows: Any, shape: LoopShape) -> Any:
    """Returns the rows of batches as a stack `[length, rows, ...]` of fixed length, padded with zeros."""

    def stacked(part: tf.Tensor) -> tf.Tensor:
        missing = shape.length * shape.full - tf.shape(part)[0]
        whole = tf.pad(part, [[0, missing], *[[0, 0]] * (part.shape.rank - 1)])
        return tf.reshape(whole, [shape.length, shape.full, *part.shape[1:]])

    return tree.map_structure(stacked, rows)


def pull_batches(iterator: tf.data.Iterator, count: tf.Tensor) -> Any:
    """Returns the rows of the next batches of an iterator, concatenated."""
    arrays = [  # flat: a loop cannot carry None
        tf.TensorArray(spec.dtype, count, element_shape=spec.shape)
        for spec in tree.flatten(iterator.element_spec)
    ]

    def pull(index: tf.Tensor, arrays: Any) -> Any:
        batch = tree.flatten(next(iterator))
        return index + 1, [array.write(index, part) for array, part in zip(arrays, batch, strict=True)]

    _, arrays = tf.while_loop(lambda index, _: index < count, pull, (0, arrays))
    return tree.pack_sequence_as(iterator.element_spec, [array.concat() for array in arrays])


def compiled_kinds(
    taken: Taken, count: int, shape: LoopShape, seen: Any, lengths: Sequence[int | None], whole: bool
) -> set[tuple[int | None, ...]]:
    """Returns the kinds of batches that XLA had to compile for, if it had not done so before.

    Args:
        taken: The batches.
        count: The number of batches that ran.
        shape: The facts known about all batches.
        seen: The lengths of all axes of each batch of a stream, if they are not fixed.
        lengths: The lengths of all axes except the first.
        whole: Whether all batches had one size, in a loop that is compiled as a whole.
    """
    if isinstance(taken, tf.data.Iterator) and len(seen):
        kinds = {tuple(kind) for kind in np.asarray(seen).tolist()}
        return {kind for kind in kinds if any(kind)}  # steps that did not run have only zeros
    if whole:
        sizes = {shape.full}
    elif shape.rows is not None:
        sizes = {shape.rows}
    else:
        rows, size = int(tree.first(taken.rows).shape[0]), int(taken.size)
        sizes = {min(size, rows), rows - (count - 1) * size}
    return {(size, *lengths) for size in sizes}


def series_of(result: Result) -> Any:
    """Returns the values of a step that are collected: without shown tensors and internal values."""
    return result._replace(shown={}, skipped=())
