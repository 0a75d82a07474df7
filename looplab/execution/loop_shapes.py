"""What a compiled loop knows of the shapes of batches, and what its series come to."""

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
WHOLE_BYTES = 16 * 2**20  # likewise, the bytes of these


class LoopShape(NamedTuple):
    """What a trace fixes of batches.

    Attributes:
        rows: How many every batch has, or None if that is not fixed.
        padded_to: How many it is given, or None; see `looplab.strategy.padded_size`.
        full: In `xla_loop`, how many all batches but a last one have.
        length: In `xla_loop`, how many batches the loop is compiled for.
        guard: What steps do where something is not finite.
    """

    rows: int | None
    padded_to: int | None
    full: int
    length: int
    guard: Guard


class LoopResult(NamedTuple):
    """What one piece of an execution did; see `looplab.protocols.Steps`."""

    done: int
    values: dict[str, Any]
    weights: dict[str, Any]
    parts: dict[str, Any]
    failed: dict[str, float] | None
    shown: dict[str, Any]

    @classmethod
    def of(cls, result: Result, count: int) -> LoopResult:
        """Reads on the host what the first `count` steps came to, up to one that failed."""
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
    """Returns the names of what a step that runs in Python came to.

    Raises:
        LossError: If those of steps before it, `known`, are others.
    """
    names = list(result.weights)
    if known is not None and set(names) != set(known):
        some = ", ".join(map(repr, sorted(set(names) ^ set(known))))
        raise LossError(
            f"{some}: a step returns or logs it (self.log), and another step does not. Give the same names "
            "in every step, as a traced step does; self.log(name, value, weight=0.0) counts in no mean."
        )
    return names


def full_batches(taken: Taken, count: int, shape: LoopShape) -> int:
    """Returns how many of some batches are not short."""
    if isinstance(taken, tf.data.Iterator):
        return count
    return min(count, int(tree.first(taken.rows).shape[0]) // shape.full)


def stack_full(rows: Any, shape: LoopShape) -> Any:
    """Returns the rows of batches as a stack `[length, rows, ...]` of fixed length, filled up with zeros."""

    def stacked(part: tf.Tensor) -> tf.Tensor:
        missing = shape.length * shape.full - tf.shape(part)[0]
        whole = tf.pad(part, [[0, missing], *[[0, 0]] * (part.shape.rank - 1)])
        return tf.reshape(whole, [shape.length, shape.full, *part.shape[1:]])

    return tree.map_structure(stacked, rows)


def pull_batches(iterator: tf.data.Iterator, count: tf.Tensor) -> Any:
    """Returns the rows of the next batches of an iterator, in one piece."""
    arrays = [  # flat: a loop cannot carry what is None
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
    """Returns for what kinds of batches XLA had to compile, if it had not before.

    Args:
        taken: The batches.
        count: How many ran.
        shape: What is known of all.
        seen: The lengths of all axes of each batch of a stream, where they are not fixed.
        lengths: Of all axes but the first of batches.
        whole: Whether all were of one size, in a loop that is compiled whole.
    """
    if isinstance(taken, tf.data.Iterator) and len(seen):
        kinds = {tuple(kind) for kind in np.asarray(seen).tolist()}
        return {kind for kind in kinds if any(kind)}  # none of steps that did not run
    if whole:
        sizes = {shape.full}
    elif shape.rows is not None:
        sizes = {shape.rows}
    else:
        rows, size = int(tree.first(taken.rows).shape[0]), int(taken.size)
        sizes = {min(size, rows), rows - (count - 1) * size}
    return {(size, *lengths) for size in sizes}


def series_of(result: Result) -> Any:
    """Returns what of each step is collected: not what is shown, nor what only the step itself needs."""
    return result._replace(shown={}, skipped=())
