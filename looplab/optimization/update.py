"""The update under `Trainer.minimize`: sums of gradients, reduced, divided once, applied once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from looplab import strategy
from looplab.compat import patches
from looplab.errors import LossError
from looplab.execution.autograph import translated
from looplab.execution.moved_draws import Part
from looplab.execution.row_random import Seeds
from looplab.execution.running_step import running
from looplab.execution.step_log import Handed, Slice
from looplab.execution.step_result import Guard, Scalars, are_finite
from looplab.optimization import loss_groups
from looplab.optimization.loss_groups import LossGroup
from looplab.optimization.loss_scale import LossScale
from looplab.optimization.loss_terms import Term, penalties, weighted_terms
from looplab.optimization.separability import refuse_examples_twice
from looplab.optimization.weight_averages import set_by_update

_log = logging.getLogger("looplab")

LossFunction = Callable[..., Any]  # (batch, training=...) -> values, (values, weights) or a dict


def update(
    loss_fn: LossFunction,
    batch: Any,
    variables: Sequence[Any],
    optimizer: keras.optimizers.Optimizer,
    *,
    regularized: Sequence[keras.Model],
    examples: tf.Tensor,
    micro_batches: int = 1,
    jit: bool = False,
    when: Any = None,
    loss_scale: LossScale | None = None,
) -> Scalars:
    """Makes one update of `variables`, which is the same however the global batch was split.

    Runs inside `strategy.run`, traced or eagerly, once on every replica. With `S_t` the sum of the weighted
    values of term `t` and `W_t` the sum of its weights, both over all micro-batches and replicas, the
    gradient is `sum_t grad(S_t) / W_t`; the optimizer clips and applies it.

    Args:
        loss_fn: Called as `loss_fn(part, training=True)` on slices of the batch.
        batch: This replica's rows of the global batch.
        variables: The variables to train.
        optimizer: An optimizer that is built for these variables and prepared by `prepare`.
        regularized: The models whose `losses` are added, once for the global batch.
        examples: Scalar, the number of examples in the global batch.
        micro_batches: The number of slices of each replica's rows, which are computed one after another.
        jit: Whether XLA compiles the gradients of a slice (the reduction and the update are not compiled).
        when: Scalar bool, whether to make the update; see `apply`.
        loss_scale: The loss scale of this optimizer, if layers compute in float16.

    Returns:
        `"loss"`, the global value of the total loss, and each term by name if terms have names.
    """
    # Approximately the scale of the mean over examples: a large sum would overflow early.
    scale = None if loss_scale is None else loss_scale.scale.read_value() / examples
    scope = running()
    parts = scope.next_loss(batch, micro_batches)

    def gradients(part: Any, valid: Any, first: Any, rows: Any) -> tuple[list[LossGroup], Handed]:
        # Of the place only arguments: a compiled function is traced with the first part and called with all.
        place = parts[0].place._replace(first=first, rows=rows)
        with (
            scope.nested() as handed,
            tf.GradientTape(persistent=tf.executing_eagerly()) as tape,
            scope.within(Part(parts[0].name, place)),
        ):
            terms = _terms(loss_fn, part, valid, regularized, training=True, parts=micro_batches)
            groups = loss_groups.grouped(terms)
            objectives = [group.objective if scale is None else group.objective * scale for group in groups]
        # With a persistent tape, each loop of the graph (such as an LSTM's) keeps all intermediate values,
        # which is slower by a seventh. For several objectives `tf.gradients` serves instead.
        asked = tape.gradient if tf.executing_eagerly() or len(objectives) == 1 else tf.gradients
        with scope.within(Part(f"the gradient of {parts[0].name}")):
            found = [_dense(asked(objective, variables)) for objective in objectives]
        if micro_batches * strategy.replicas() > 1:
            found = [_held(own, part) for own in found]
        return [group._replace(gradients=own) for group, own in zip(groups, found, strict=True)], handed

    compute = tf.function(gradients, jit_compile=True) if jit else gradients
    slices = scope.pieces(batch, micro_batches)
    places = [(part.place.first, part.place.rows) for part in parts]
    if jit and scope.draws is not None:  # of Python numbers each would have a trace
        places = [(tf.cast(first, tf.int32), tf.cast(rows, tf.int32)) for first, rows in places]
    seeds = Seeds(scope.draws if micro_batches > 1 else None)
    groups: list[LossGroup] = []
    for own, place in zip(slices, places, strict=True):
        if groups:
            seeds.set_back()
        more, handed = compute(*own, *place)
        scope.take(handed)
        groups = tf.nest.map_structure(_add, groups, more) if groups else more
    groups = loss_groups.reduced(groups)
    scalars = loss_groups.scalars(groups, examples)
    whole = loss_groups.divided(groups)
    if scale is not None:
        whole = [None if gradient is None else gradient / scale for gradient in whole]
    losses = list(scalars.values.values())
    apply(optimizer, whole, variables, losses=losses, when=when, loss_scale=loss_scale)
    return scalars


def measure(
    loss_fn: LossFunction,
    batch: Any,
    *,
    regularized: Sequence[keras.Model],
    examples: tf.Tensor,
    training: bool = False,
    in_xla: bool = False,
    micro_batches: int = 1,
    checks: bool = False,
) -> Scalars:
    """Computes the loss of the global batch and changes no trained variable; see `update`.

    Args:
        loss_fn: See `update`.
        batch: See `update`.
        regularized: See `update`.
        examples: See `update`.
        training: The value of the loss function's argument `training`.
        in_xla: Whether XLA will compile it, separately on each replica.
        micro_batches: The number of slices in which an update will compute it.
        checks: Whether to check, while a step is first traced, that it does not compare examples.
    """
    scope = running()
    ((part, valid),) = scope.pieces(batch, 1)
    (own,) = scope.next_loss(batch)
    with scope.within(own):
        terms = _terms(
            loss_fn,
            part,
            valid,
            regularized,
            training=training,
            parts=micro_batches,
            in_xla=in_xla,
            checks=checks,
        )
    return loss_groups.scalars(loss_groups.reduced(loss_groups.grouped(terms)), examples)


def reduce_mean(gradients: Sequence[Any], weight: Any) -> list[tf.Tensor | None]:
    """Converts gradients of local sums to gradients of the global mean; see `apply`.

    Args:
        gradients: The gradients of the sum of weighted values over this replica's rows.
        weight: Scalar, the sum of the weights over this replica's rows.
    """
    total = tf.cast(weight, keras.config.floatx())
    group = LossGroup({}, total, total, _dense(gradients))
    return loss_groups.divided(loss_groups.reduced([group]))


def apply(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor | None],
    variables: Sequence[Any],
    *,
    losses: Sequence[tf.Tensor] = (),
    when: Any = None,
    loss_scale: LossScale | None = None,
) -> None:
    """Clips and applies gradients that are already those of the global batch, on every replica.

    In a guarded step the step fails if a loss or a gradient is not finite; see `Guard`. With a loss scale the
    update is skipped instead, as long as the scale can be halved.

    Args:
        optimizer: An optimizer prepared by `prepare`.
        gradients: The gradients of the variables, or None.
        variables: The variables to train.
        losses: Scalars that must be finite too.
        when: Scalar bool, equal on every replica: whether to make the update; None for always.
        loss_scale: The loss scale of this optimizer, if layers compute in float16.
    """
    scope = running()
    gradients, variables = _reached(optimizer, gradients, variables)
    scope.measure_update(optimizer, gradients, variables)
    condition = None if when is None else tf.cast(when, tf.bool)
    if scope.guard is not Guard.OFF or loss_scale is not None:
        looked = [] if scope.guard is Guard.SEE_LOSS else [g for g in gradients if g is not None]
        finite = are_finite([*losses, *looked])
        due = tf.constant(True) if condition is None else condition
        failed = skipped = tf.logical_and(due, tf.logical_not(finite))
        if loss_scale is not None:
            failed = loss_scale.follow(due, finite)
            scope.skip_if(skipped)
        if scope.guard is not Guard.OFF:
            scope.fail_if(failed)
        if scope.guard is Guard.HOLD or loss_scale is not None:
            condition = tf.logical_and(due, finite)
    _apply_if(condition, optimizer, gradients, variables)


def _reached(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[tf.Tensor | None], variables: Sequence[Any]
) -> tuple[list[tf.Tensor], list[Any]]:
    """Leaves out variables without a gradient, and names them the first time.

    Raises:
        LossError: If no variable is left. (If all variables are frozen, there is nothing to check.)
    """
    pairs = [(g, variable) for g, variable in zip(gradients, variables, strict=True) if g is not None]
    missed = [v for g, v in zip(gradients, variables, strict=True) if g is None]
    names = ", ".join(getattr(variable, "path", variable.name) for variable in missed)
    if missed and not pairs:
        raise LossError(
            f"no gradient reaches {names}: the loss does not depend on what it should "
            "train. Is it computed from the model's outputs, inside the tape, by differentiable operations?"
        )
    known = vars(optimizer).setdefault("_looplab_missed", set())
    if new := {id(variable) for variable in missed} - known:
        known |= new
        _log.warning("no gradient reaches %s; the update leaves them as they are", names)
    return [g for g, _ in pairs], [variable for _, variable in pairs]


def _apply_if(
    condition: tf.Tensor | None,
    optimizer: keras.optimizers.Optimizer,
    gradients: list[tf.Tensor | None],
    variables: list[Any],
) -> None:
    def update() -> None:
        with running().within(Part("the update", shares=True)):  # its numbers belong to no row
            optimizer.apply(gradients, variables)

    if condition is None:
        update()
    elif not strategy.meets():
        tf.cond(condition, update, lambda: None)
    else:
        # Keras' update communicates between replicas, which a condition forbids: so it is undone instead.
        held = [
            strategy.local_part(strategy.unwrapped(variable))
            for variable in [*set_by_update(optimizer, variables), *optimizer.variables]
        ]
        before = [part.read_value() for part in held]
        update()

        def take_back() -> None:
            for part, value in zip(held, before, strict=True):
                part.assign(value)

        tf.cond(condition, lambda: None, take_back)


def prepare(optimizer: keras.optimizers.Optimizer) -> None:
    """Removes Keras' own reduction from an optimizer, because its gradients arrive reduced.

    Otherwise `apply` would sum them over the replicas again, and after clipping.
    """
    patches.patch("keras.optimizers.Optimizer._all_reduce_sum_gradients", optimizer, list)


def _terms(
    loss_fn: LossFunction,
    part: Any,
    valid: Any,
    regularized: Sequence[keras.Model],
    *,
    training: bool,
    parts: int = 1,
    in_xla: bool = False,
    checks: bool = False,
) -> dict[str, Term]:
    """Returns the terms of a loss on a part of a batch; see `update` and `measure`.

    Raises:
        LossError: If the loss cannot be computed on that many parts of a batch; with `checks` also if the
            shapes of its values show a mistake.
    """
    size = strategy.batch_size(part) if valid is None else tf.math.count_nonzero(valid)
    count = tf.cast(size, keras.config.floatx())
    here = Slice(count, strategy.static_rows(part))
    with running().computing(here, valid, in_xla=in_xla):
        result = translated(loss_fn)(part, training=training)
    added = penalties(regularized)
    terms = weighted_terms(result, regularization=added, examples=count, valid=valid)
    pieces = parts * strategy.replicas()
    if pieces > 1 and any(tf.convert_to_tensor(penalty).shape.rank for penalty in added):
        raise LossError(
            "add_loss was given values that are not scalars. Keras adds them, but a sum over one of "
            f"{pieces} parts of a batch (replicas times micro-batches) does not determine the value for the "
            "whole. Add their mean: self.add_loss(keras.ops.mean(values))."
        )
    for name, term in terms.items() if pieces > 1 else ():
        if why := term.dependence():
            raise LossError(
                f"the Keras loss {name!r} {why}, so it cannot be computed on {pieces} parts of it (replicas "
                "times micro-batches): that would be another loss. Use one device and micro_batches=1, or a "
                "loss whose value for an example depends on that example alone. Your own compute_loss can "
                "use self.all_gather to see the batch of all replicas."
            )
    if checks:

        def again(rows: Any) -> Any:
            with running().aside(), running().computing(here, in_xla=in_xla):
                return translated(loss_fn)(rows, training=training)

        refuse_examples_twice(again, part, result)
    return terms


def _dense(gradients: Sequence[Any]) -> list[tf.Tensor | None]:
    # Slices of an embedding cannot be added or reduced exactly; their dense form can.
    return [None if g is None else tf.convert_to_tensor(g) for g in gradients]


def _held(gradients: list[tf.Tensor | None], part: Any) -> list[tf.Tensor | None]:
    """Returns the gradients of a part of the batch, which are zero if it has no rows.

    The mean over no rows (for example in `add_loss`) is not a number, and neither are its gradients.
    """
    if strategy.static_rows(part):
        return gradients
    any_rows = strategy.batch_size(part) > 0
    return [None if g is None else tf.where(any_rows, g, tf.zeros_like(g)) for g in gradients]


def _add(left: tf.Tensor | None, right: tf.Tensor | None) -> tf.Tensor | None:
    return None if left is None else left + right
