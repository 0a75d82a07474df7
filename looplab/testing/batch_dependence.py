"""Finds out whether a loss depends on the whole batch, by computing it on slices of the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from looplab.optimization import Term, weighted_terms
from looplab.testing.probe import Arrays, Probe, layers_of, rows_of, size_of
from looplab.testing.step_variants import Way
from looplab.trainer import Trainer

REMEDY = (
    "If that is intended, set separable = False in the trainer's class (then it is not split into "
    "micro-batches), and use self.all_gather(tensor) for the examples of other replicas; if not, let the "
    "loss of each example depend on that example alone."
)


class Across(NamedTuple):
    """Whether a loss depends on other examples of the batch.

    Attributes:
        asked: Whether the step has losses that can be tested: it passes some to `minimize`.
        text: The finding, with the axis and the remedy; None if nothing was found.
    """

    asked: bool
    text: str | None


def looks_across(make: Callable[[Way], Trainer], start: Arrays, batch: Any, rtol: float) -> Across:
    """Describes the first loss of a step that differs on slices of the batch.

    The step runs in Python, on one device. Its BatchNormalization layers use their moving statistics.

    Args:
        make: Creates a trainer for a way.
        start: The state of the reference.
        batch: One global batch.
        rtol: The largest difference that counts as equal.
    """
    probe = Probe(make(Way(mode="eager")), [batch])
    for layer in layers_of(probe.trainer, keras.layers.BatchNormalization).values():
        layer.trainable = False
    found: list[str] = []
    calls: list[None] = []
    minimize = probe.trainer.minimize

    def observed(loss_fn: Callable[..., Any], rows: Any, *arguments: Any, **keywords: Any) -> Any:
        calls.append(None)
        said = None if found else _compared(loss_fn, rows, rtol)
        found.extend([said] if said else [])
        return minimize(loss_fn, rows, *arguments, **keywords)

    vars(probe.trainer)["minimize"] = observed
    with suppress(Exception):  # the comparison reports a loss that fails on a slice
        probe.run(start)
    return Across(bool(calls), found[0] if found else None)


def _compared(loss_fn: Callable[..., Any], rows: Any, rtol: float) -> str | None:
    size = size_of(rows)
    half = size // 2
    slices = rows, rows_of(rows, 0, half), rows_of(rows, half, size)
    whole, *pieces = results = [_terms(loss_fn(part, training=True), size_of(part)) for part in slices]
    for name in whole:
        lengths = [_length(result[name], count) for result, count in zip(results, (size, half), strict=False)]
        if None not in lengths:
            return _of_shapes(
                name, size, half, *(tuple(result[name].rows[0].shape) for result in results[:2])
            )
        if not _same(whole[name], [piece[name] for piece in pieces], rtol):
            again = _terms(loss_fn(rows, training=True), size)
            if not _same(whole[name], [again[name]], rtol):
                return None  # it differs each time
            return _of_values(name, size, half, *(result[name].rows for result in results[:2]))
    return None


class _Computed(NamedTuple):
    """A term of a loss.

    Attributes:
        rows: The values of the loss function, and their weights if there are any; or an empty list.
        sums: The sum of the weighted values, and the sum of the weights if it divides them.
    """

    rows: list[np.ndarray]
    sums: list[float]


def _terms(result: Any, count: int) -> dict[str, _Computed]:
    examples = tf.constant(float(count), keras.config.floatx())
    found: dict[str, _Computed] = {}
    for name, term in weighted_terms(result, regularization=[], examples=examples).items():
        own = result[name] if isinstance(result, Mapping) else result
        parts = [] if isinstance(own, Term) else list(own) if isinstance(own, tuple) else [own]
        sums = [float(each) for each in (term.total, term.weight) if each is not None]
        found[name] = _Computed([np.asarray(part, np.float64) for part in parts], sums)
    return found


def _length(term: _Computed, count: int) -> int | None:
    """Returns the number of examples along axis 1, if it is that along axis 0; otherwise None."""
    shape = term.rows[0].shape if term.rows else ()
    return count if shape[:2] == (count, count) else None


def _same(whole: _Computed, pieces: list[_Computed], rtol: float) -> bool:
    """Whether values and weights of slices equal those of their rows in the whole; otherwise the sums."""
    for index, own in enumerate(whole.rows):
        others = [piece.rows[index] for piece in pieces]
        if own.ndim and all(other.shape[1:] == own.shape[1:] for other in others):
            apart = np.abs(own - np.concatenate(others))
            if float(np.max(apart, initial=0.0)) > rtol * float(np.max(np.abs(own), initial=0.0)):
                return False
    if whole.rows:
        return True
    pairs = zip(whole.sums, zip(*(piece.sums for piece in pieces), strict=True), strict=True)
    return all(abs(own - sum(parts)) <= rtol * max(abs(own), *map(abs, parts)) for own, parts in pairs)


def _of_shapes(name: str, size: int, half: int, whole: tuple[int, ...], part: tuple[int, ...]) -> str:
    return (
        f"{_term(name)} looks across the batch: its values have shape {list(whole)} for {size} examples and "
        f"{list(part)} for {half}, so axis 1 holds the examples too. If targets of shape [{size}] meet "
        f"predictions of shape [{size}, 1], each target meets every prediction: give both one shape (y[:, "
        f"None], or tf.squeeze(predictions, -1)). {REMEDY}"
    )


def _of_values(name: str, size: int, half: int, whole: list[np.ndarray], part: list[np.ndarray]) -> str:
    shown = ""
    for own, alone in zip(whole, part, strict=True):
        if own.shape[:1] == (size,) and alone.shape == (half, *own.shape[1:]) and not shown:
            among = own[:half].reshape(half, -1).sum(axis=1)
            by_itself = alone.reshape(half, -1).sum(axis=1)
            row = int(np.argmax(np.abs(among - by_itself)))
            if among[row] != by_itself[row]:
                values = f"{among[row]:.4g} among all {size}, {by_itself[row]:.4g} among {half}"
                shown = f" (of example {row}: {values})"
    return (
        f"{_term(name)} looks across the batch, along axis 0: the values or weights of examples depend on "
        f"the other examples{shown}, as with a mean over the batch or with negatives from it. {REMEDY}"
    )


def _term(name: str) -> str:
    return "the loss" if name == "loss" else f"the loss term {name!r}"
