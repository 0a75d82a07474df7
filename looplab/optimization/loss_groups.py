"""The terms of a loss in groups of the same weight: sums, which are divided only when they are global."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from looplab import strategy
from looplab.execution.step_result import Scalars
from looplab.optimization.loss_terms import Term


class LossGroup(NamedTuple):
    """The terms of a loss that are divided by the same weight.

    Attributes:
        totals: The sum of each term by name.
        objective: Their sum, each with its scale: their part of the total loss.
        weight: The divisor of all of these.
        gradients: The gradients of the objective.
    """

    totals: dict[str, tf.Tensor]
    objective: tf.Tensor
    weight: tf.Tensor | None
    gradients: list[tf.Tensor | None]


def grouped(terms: dict[str, Term]) -> list[LossGroup]:
    """Returns a group for each weight that terms share; without gradients."""
    together: dict[int, dict[str, Term]] = {}
    for name, term in terms.items():
        together.setdefault(id(term.weight), {})[name] = term
    return [
        LossGroup(
            {name: term.total for name, term in own.items()},
            tf.add_n([term.total if term.scale == 1 else term.total * term.scale for term in own.values()]),
            next(iter(own.values())).weight,
            [],
        )
        for own in together.values()
    ]


def reduced(groups: list[LossGroup]) -> list[LossGroup]:
    """Returns the groups of the global batch; inside `strategy.run`, on every replica."""
    flat = tf.nest.flatten(groups)
    summed = iter(strategy.reduce_sum([tensor for tensor in flat if tensor is not None]))
    whole = [None if tensor is None else next(summed) for tensor in flat]
    return tf.nest.pack_sequence_as(groups, whole)


def divided(groups: list[LossGroup]) -> list[tf.Tensor | None]:
    """Returns the gradient of each variable: the sum over groups, each divided by its weight."""
    whole: list[tf.Tensor | None] = []
    for own in zip(*(group.gradients for group in groups), strict=True):
        shares = [
            gradient
            if group.weight is None
            else tf.math.divide_no_nan(gradient, tf.cast(group.weight, gradient.dtype))
            for gradient, group in zip(own, groups, strict=True)
            if gradient is not None
        ]
        whole.append(tf.add_n(shares) if shares else None)
    return whole


def scalars(groups: list[LossGroup], examples: tf.Tensor) -> Scalars:
    """Returns the terms by name and the total loss, from groups of the global batch."""
    values, weights, parts = {}, {}, {}
    for group in groups:
        for name, summed in group.totals.items():
            values[name] = Term(summed, group.weight).mean()
            weights[name] = _share(group, examples)
    if list(values) != ["loss"]:  # a loss without names has only the term "loss"
        objectives = [Term(group.objective, group.weight).mean() for group in groups]
        values["loss"], weights["loss"] = tf.add_n(objectives), _share(groups[0], examples)
        if len(groups) > 1:  # terms with different weights have no common weight
            parts["loss"] = tf.stack(objectives)
            weights["loss"] = tf.stack([tf.cast(_share(g, examples), objectives[0].dtype) for g in groups])
    return Scalars(values, weights, parts)


def _share(group: LossGroup, examples: tf.Tensor) -> tf.Tensor:
    """Returns the weight of a group's terms in a mean over steps; for a sum, the examples of its step."""
    return examples if group.weight is None else group.weight
