"""Finds out why a step differs, with small experiments instead of guesses.

Each experiment computes the gradients of one batch, eagerly, at the same weights: of the whole batch, of each
of its slices, on several replicas, with BatchNormalization frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import keras
import numpy as np

from looplab.execution import refusal
from looplab.execution.random_operations import Draw
from looplab.runs import cause
from looplab.testing.comparison import Difference, Reference
from looplab.testing.probe import Probe, layers_of, rows_of, size_of
from looplab.testing.step_variants import Way
from looplab.trainer import Trainer

_EXPLAINED = 0.05  # the part of a difference that may remain after an explanation


@dataclass(frozen=True)
class Cause:
    """Why a step differs.

    Attributes:
        name: One of the causes that `StepDiffers.cause` lists.
        text: The finding, and the remedy.
    """

    name: str
    text: str


@dataclass(frozen=True)
class Laboratory:
    """The objects that experiments need.

    Attributes:
        make: Creates a trainer for a way.
        reference: The results of the reference.
        batch: One global batch.
        draws: The random numbers that the step draws.
    """

    make: Callable[[Way], Trainer]
    reference: Reference
    batch: Any
    draws: Sequence[Draw]

    def gradients(self, way: Way, batch: Any, *, frozen: bool = False) -> list[np.ndarray]:
        """Returns the gradients of each update of one step, as a vector each, all at the same weights.

        Args:
            way: The replicas and the number of micro-batches.
            batch: The global batch.
            frozen: Whether BatchNormalization uses its moving statistics.
        """
        probe = Probe(self.make(Way(way.replicas, way.micro_batches, "eager")), [batch])
        if frozen:
            for layer in layers_of(probe.trainer, keras.layers.BatchNormalization).values():
                layer.trainable = False
        updates = probe.gradients(self.reference.start)
        return [np.concatenate([found[path].ravel() for path in sorted(found)]) for found in updates]

    def norms(self, way: Way) -> list[str]:
        """Returns the names of the BatchNormalization layers that a step uses."""
        return list(layers_of(Probe(self.make(way), [self.batch]).trainer, keras.layers.BatchNormalization))


def of_error(way: Way, error: Exception) -> Cause:
    """Explains a step that raised an error which the reference did not raise."""
    refused = refusal(error) if way.mode == "xla_step" else None
    if refused is not None:
        return Cause(
            "xla",
            f"XLA cannot compile the step: {refused.what}. {refused.remedy}, or keep execution='graph' "
            "and leave XLA out of the check: modes=('eager', 'graph').",
        )
    found = cause.of(error)
    return Cause("error", f"the step raises {found.kind} there: {found.sentence}{found.place()}")


def of_repetition(found: Sequence[Draw]) -> Cause:
    """Explains a step that differs when it is repeated from the same state."""
    unsaved = [str(draw) for draw in found if not draw.saved]
    drawn = f"the step draws random numbers that no seed determines ({', '.join(unsaved)})"
    return Cause(
        "randomness",
        f"{drawn if unsaved else 'the step keeps something that is in no variable of the trainer'}: "
        "repeated from the same state it makes two different updates, so no resume continues it exactly. "
        "Draw from a keras.random.SeedGenerator or a tf.random.Generator that setup creates and the trainer "
        "keeps, or with tf.random.stateless_... from self.seed and self.step.",
    )


def of_difference(way: Way, differing: Sequence[Difference], laboratory: Laboratory) -> Cause:
    """Explains a step whose update differs from that of the reference."""
    if way.mode == "eager":
        return _of_python(laboratory)
    if way.mode == "xla_step":
        return Cause(
            "xla",
            "XLA computes other numbers. If the difference vanishes with precision='float64', it is "
            "rounding: then give a larger rtol=; otherwise an operation has another meaning in XLA.",
        )
    try:
        return _of_split(way, differing, laboratory)
    except Exception as error:  # in an experiment: the compared step has run
        return Cause(
            "unknown", f"not found out: {type(error).__name__} in an experiment ({cause.of(error).sentence})."
        )


def of_draws(way: Way, others: Sequence[str]) -> Cause:
    """Explains a step that draws other random numbers in a way than in the reference.

    Args:
        way: The way.
        others: The draws, each with the reason.
    """
    more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
    return Cause(
        "randomness",
        f"with {way} the step draws other random numbers than the reference: {others[0]}{more}. So this "
        "comparison shows nothing else. Draw numbers that belong to the rows in the shape [rows, ...], or "
        "say with looplab.random.rows where they are. Or check the step without the draw; or accept it with "
        "random=True, which leaves out these comparisons and names them in the report.",
    )


def _of_python(laboratory: Laboratory) -> Cause:
    """Explains an eager step that differs from the compiled one, by repeating it with the same seeds."""
    probe = Probe(laboratory.make(Way(mode="eager")), [laboratory.batch])

    def repeats(seeds: tuple[int, int]) -> bool:
        first, second = (probe.run_seeded(laboratory.reference.start, seed) for seed in seeds)
        plain = Reference(laboratory.reference.start, first, [], laboratory.reference.rtol)
        return not plain.differing(second)

    if repeats((0, 0)) and not repeats((0, 1)):
        return Cause(
            "randomness",
            "the step draws random numbers in Python (NumPy, random): eagerly at every step, but in a graph "
            "only once, when it is traced, and never again. Draw them in make_batch, or with "
            "tf.random.stateless_... from self.seed and self.step.",
        )
    return Cause(
        "python",
        "the compiled step differs from the Python code: something is decided once, when the step is traced "
        "(an attribute that changes, an if on a Python value, a NumPy generator). Keep changing values in a "
        "tf.Variable, and decide with tf.where or tf.cond.",
    )


def _of_split(way: Way, differing: Sequence[Difference], laboratory: Laboratory) -> Cause:
    batch = _uneven(laboratory.batch, way.parts)
    whole, split = (laboratory.gradients(each, batch) for each in (Way(), way))
    updates = [index for index in range(len(whole)) if not _agree(split[index], whole[index], laboratory)]
    if not updates:
        return _of_state(differing)
    update = updates[0]
    if _frozen_agree(way, batch, update, laboratory):
        return _of_batch_norm(way, laboratory)
    if way.micro_batches > 1:
        return _across_the_batch(way)
    factor = _factor(way, update, laboratory)
    if factor is not None:
        return _of_weight(way, factor)
    pieces = _pieces(batch, way.parts)
    parts = [laboratory.gradients(Way(), piece)[update] for piece in pieces]
    shares = np.average(parts, axis=0, weights=[size_of(piece) for piece in pieces])
    left_over = _EXPLAINED * _distance(split[update], whole[update])
    if _distance(split[update], np.mean(parts, axis=0)) < left_over:
        return _local_mean()
    if _distance(split[update], shares) < left_over:
        return _across_the_batch(way)
    return Cause(
        "unknown",
        "the gradient is neither a mean of the replicas' means nor a mean weighted by their rows. Look for "
        "weights that are not summed over the replicas, and for reductions inside the step.",
    )


def _of_state(differing: Sequence[Difference]) -> Cause:
    """Explains equal gradients: something other than the update differs."""
    paths = [each.path for each in differing]
    if all(path.startswith("returned/") for path in paths):
        return Cause(
            "returned value",
            "the update is the same, but the values that the step returns differ. A value that is not from "
            "minimize is treated as a mean over the replica's rows: return tf.reduce_mean of values of the "
            "examples, not sums, maxima or roots of means.",
        )
    named = [path for path in paths if not path.startswith("returned/")]
    return Cause(
        "state",
        f"the gradients are the same, but {named[0]} is not: each replica (or micro-batch) changes it from "
        "its own rows. Compute it over the whole batch: add sums and counts over the "
        "replicas (aggregation=tf.VariableAggregation.SUM, or "
        "tf.distribute.get_replica_context().all_reduce) and divide once; looplab synchronises "
        "BatchNormalization in trainer.models, elsewhere set synchronized=True.",
    )


def _of_batch_norm(way: Way, laboratory: Laboratory) -> Cause:
    found = laboratory.norms(way)
    if way.micro_batches > 1:
        return Cause(
            "batch normalisation",
            f"BatchNormalization ({', '.join(found)}) normalises each micro-batch with its own statistics; "
            "with its moving statistics the updates are the same. Micro-batches cannot change that: use "
            "LayerNormalization or GroupNormalization, or leave them out: micro_batches=(1,).",
        )
    return Cause(
        "batch normalisation",
        f"BatchNormalization ({', '.join(found)}) is not synchronised: every replica normalises with the "
        "statistics of its own rows; with its moving statistics the updates are the same. Put the model "
        "into models=, where looplab synchronises it, or create the layer with synchronized=True.",
    )


def _of_weight(way: Way, factor: float) -> Cause:
    count = way.replicas
    if factor > 1:
        return Cause(
            "local mean",
            f"the gradient is {count} times what it should be: it is the gradient of a mean over each "
            "replica's own rows (tf.reduce_mean), but the weight is that of a sum. Give apply_gradients "
            "the gradient of the sum, tf.reduce_sum(losses), with weight= the number of this replica's "
            "rows.",
        )
    return Cause(
        "weight",
        f"the gradient is a {count}th of what it should be: the sum over the replicas is divided by the sum "
        "of their weights, but the weight is a constant. Give apply_gradients weight= the number of this "
        "replica's rows (or the sum of their weights), not 1.",
    )


def _local_mean() -> Cause:
    return Cause(
        "local mean",
        "the gradient is the mean of the replicas' own means, in which an example of a smaller slice counts "
        "more: the step takes a mean over its local batch (tf.reduce_mean, a loss that returns a mean, "
        "weight=1). Take tf.reduce_sum(losses) and give apply_gradients weight= the number of this "
        "replica's rows; or return the values of the examples to minimize.",
    )


def _across_the_batch(way: Way) -> Cause:
    if way.micro_batches > 1:
        return Cause(
            "across the batch",
            "the loss of an example depends on other examples of the batch (in-batch negatives, statistics "
            "or a mean of the batch inside compute_loss), so the slices make another loss than the whole. "
            "Such a loss is not separable, and no micro-batches are exact for it: set "
            "separable = False in the trainer's class, or let the loss of each example depend on it alone.",
        )
    return Cause(
        "across the batch",
        "every replica treats its own rows as the whole batch: the loss of an example depends on other "
        "examples of the batch (in-batch negatives, statistics or a mean of the batch), but sees only those "
        "of its replica. Get the others with self.all_gather(tensor), or let the loss of each example "
        "depend on it alone.",
    )


def _frozen_agree(way: Way, batch: Any, update: int, laboratory: Laboratory) -> bool:
    """Whether BatchNormalization explains a difference: with moving statistics the gradients are equal."""
    if not laboratory.norms(Way()):
        return False
    whole, split = (laboratory.gradients(each, batch, frozen=True)[update] for each in (Way(), way))
    return _agree(split, whole, laboratory)


def _factor(way: Way, update: int, laboratory: Laboratory) -> float | None:
    """Returns the number of replicas, or its inverse, if it is the factor between the gradients."""
    rows = size_of(laboratory.batch) // way.parts * way.parts
    batch = rows_of(laboratory.batch, 0, rows)  # in equal slices, so that means of means are the mean
    whole, split = (laboratory.gradients(each, batch)[update] for each in (Way(), way))
    for factor in (float(way.replicas), 1 / way.replicas):
        if _distance(split, factor * whole) < _EXPLAINED * _distance(split, whole):
            return factor
    return None


def _agree(left: np.ndarray, right: np.ndarray, laboratory: Laboratory) -> bool:
    """Whether gradients are equal except for rounding; the bound excludes a wrong factor even in 16 bits."""
    allowed = min(10 * laboratory.reference.rtol, 0.1)
    return _distance(left, right) <= allowed * float(np.linalg.norm(right))


def _uneven(batch: Any, parts: int) -> Any:
    """Returns a batch, without its last row if its slices would be equal."""
    size = size_of(batch)
    return batch if size % parts else rows_of(batch, 0, size - 1)


def _pieces(batch: Any, parts: int) -> list[Any]:
    size = size_of(batch)
    ends = [part * size // parts for part in range(parts + 1)]
    return [rows_of(batch, first, last) for first, last in pairwise(ends)]


def _distance(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(left - right))
