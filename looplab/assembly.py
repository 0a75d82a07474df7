"""Names, factories and objects -> models, optimizers, losses and metrics, in the strategy's scope.

Serves the constructor and configurations alike: whatever a person may write for one of these ends
here, is made once, and belongs to the strategy it will run under.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab import optimization
from looplab.checkpoint.state import size_of
from looplab.errors import ConfigurationError, nearest
from looplab.execution.batches import words
from looplab.optimization import KerasLoss
from looplab.remake import another_model, another_optimizer, given_rate
from looplab.schedule import FollowStep
from looplab.strategy import tree

# Settings of Keras' optimizers that this version does not honour, so it refuses them.
_NOT_YET = {
    "loss_scale_factor": "is what looplab does itself with precision='mixed_float16'.",
    "ema_overwrite_frequency": "overwrites the weights in the middle of an update, which fails on several "
    "replicas. With use_ema=True evaluation and predictions use the averages anyway.",
}


def named(one: Any, several: Mapping[str, Any] | None, what: str) -> dict[str, Any]:
    """Returns what was given as a single thing or by name, by name.

    Args:
        one: The single one, which gets the name `what`; or None.
        several: By name; or None.
        what: `"model"` or `"optimizer"`.

    Raises:
        ConfigurationError: If both are given, or a name cannot stand in a path.
    """
    if one is not None and several is not None:
        raise ConfigurationError(f"{what} and {what}s: give one of the two, not both.")
    found = dict(several) if several is not None else ({} if one is None else {what: one})
    for name in found:
        if not name.replace("_", "").isalnum():
            raise ConfigurationError(
                f"{what}s: the name {name!r} may hold letters, digits and underscores only."
            )
    return found


def make_model(given: Any, strategy: tf.distribute.Strategy, name: str) -> keras.Model:
    """Makes a model: a factory is called, an object is used, or cloned where it must be.

    Runs in the strategy's scope. Under several replicas the variables of a model made outside the
    scope cannot be used; a functional or sequential one is cloned with its weights.

    Raises:
        ConfigurationError: If it is no model, or cannot be brought into the scope.
    """
    model = given if isinstance(given, keras.Model) or not callable(given) else given()
    if not isinstance(model, keras.Model):
        raise ConfigurationError(
            f"model {name!r}: expected a keras.Model or a function that returns one, got "
            f"{model!r} ({type(model).__name__})."
        )
    return model if in_scope(model.variables) else another_model(model, f"model {name!r}")


def make_optimizer(given: Any, strategy: tf.distribute.Strategy, name: str) -> keras.optimizers.Optimizer:
    """Makes an optimizer from a Keras name, a factory (a class is one) or an object.

    Runs in the strategy's scope; under several replicas an object is made anew from its
    configuration.

    Raises:
        ConfigurationError: If it is none of these, or has settings that looplab owns.
    """
    try:
        made = None if callable(given) else keras.optimizers.get(given)
    except ValueError as error:
        valid = [n.lower() for n in dir(keras.optimizers) if n[0].isupper()]
        hint = nearest(str(given).lower(), valid)
        raise ConfigurationError(
            f"optimizer {name!r}: {given!r} is not a Keras optimizer.{hint} ({error})"
        ) from None
    if made is None:
        made = given()  # what it raises is the user's own
    if not isinstance(made, keras.optimizers.Optimizer):
        raise ConfigurationError(
            f"optimizer {name!r}: expected a Keras name, a keras.optimizers.Optimizer or a function "
            f"that returns one, got {made!r}."
        )
    if isinstance(made, keras.optimizers.LossScaleOptimizer):
        raise ConfigurationError(
            f"optimizer {name!r}: with precision='mixed_float16' looplab scales losses itself, and without "
            "it nothing needs to. Give the inner optimizer instead of LossScaleOptimizer."
        )
    if made.gradient_accumulation_steps:
        raise ConfigurationError(
            f"optimizer {name!r}: gradient_accumulation_steps leaves an unapplied rest at the end "
            "and fails on several replicas. Use Trainer(micro_batches=...) instead: one update for "
            "each batch, computed in pieces."
        )
    for setting, why in _NOT_YET.items():
        if getattr(made, setting, None):
            raise ConfigurationError(f"optimizer {name!r}: {setting} {why}")
    if made is given and not in_scope([made.iterations]):
        if updates := int(made.iterations.numpy()):
            raise ConfigurationError(
                f"optimizer {name!r}: the object {type(made).__name__} has made {updates} updates already, "
                "and outside the strategy's scope: made again for this strategy it would begin anew. Give a "
                f"function that makes a new one, lambda: {type(made).__name__}(...); a run_dir goes on with "
                "all that was."
            )
        made = another_optimizer(made, f"optimizer {name!r}")
    return made


def in_scope(variables: Iterable[Any]) -> bool:
    """Whether variables of Keras may be used under the strategy in whose scope this is called."""
    strategy = tf.distribute.get_strategy()
    return not tf.distribute.has_strategy() or all(
        strategy.extended.variable_created_in_scope(variable.value) for variable in variables
    )


def finish_optimizer(
    optimizer: keras.optimizers.Optimizer,
    variables: Sequence[Any],
    step: tf.Variable,
    factor: tf.Variable,
) -> None:
    """Builds an optimizer for its variables, and hands its rate and its reduction to looplab.

    Args:
        optimizer: From `make_optimizer`.
        variables: All variables that it will ever train.
        step: Counts completed steps; schedules follow it.
        factor: What callbacks scale the learning rate with.
    """
    for patched in ("update_step", "_apply_weight_decay"):
        vars(optimizer).pop(patched, None)  # parameter groups of another trainer
    optimization.keep_numbers(optimizer)
    if not optimizer.built:
        optimizer.build(list(variables))
        optimization.keep_averages(optimizer)
    optimizer.learning_rate = FollowStep(given_rate(optimizer), step, factor)
    optimization.prepare(optimizer)


def make_loss(
    given: Any, weights: Mapping[str, float] | None = None
) -> KerasLoss | dict[str, KerasLoss] | None:
    """Makes the terms of a Keras loss, or of one for each named output.

    Args:
        given: A Keras name, a loss, a function of `(y_true, y_pred)`; a dict of these by output, in which
            None is an output without a loss; or None.
        weights: What the loss of an output counts with in the whole one, 1 if it is not named.

    Raises:
        ConfigurationError: If a loss is none, or a weight is none or for no loss.
    """
    _check_loss_weights(given, weights)
    if given is None:
        return None
    if isinstance(given, Mapping):
        if all(loss is None for loss in given.values()):
            raise ConfigurationError(f"loss: no output has one: {dict(given)}. Give a loss for one of them.")
        return {
            output: optimization.keras_loss(
                optimization.as_keras_loss(loss), (weights or {}).get(output, 1.0)
            )
            for output, loss in given.items()
            if loss is not None
        }
    return optimization.keras_loss(optimization.as_keras_loss(given))


def _check_loss_weights(given: Any, weights: Any) -> None:
    if weights is None:
        return
    if not isinstance(given, Mapping) or not isinstance(weights, Mapping):
        raise ConfigurationError(
            f"loss_weights: got {weights!r}; give a number for each output, beside a dict of losses by "
            "output. (In a compute_loss of your own multiply the values.)"
        )
    for output, weight in weights.items():
        if output not in given:
            raise ConfigurationError(
                f"loss_weights: there is no loss of an output {output!r}; there are {list(given)}."
                + nearest(str(output), given)
            )
        if not isinstance(weight, int | float) or isinstance(weight, bool):
            raise ConfigurationError(f"loss_weights: expected a number for {output!r}, got {weight!r}.")


def is_sparse(given: Any) -> bool:
    """Whether a loss, given as to `make_loss`, has classes as targets, numbers below the output's width."""
    if isinstance(given, keras.losses.SparseCategoricalCrossentropy):
        return given.get_config().get("ignore_class") is None
    return given in ("sparse_categorical_crossentropy", keras.losses.sparse_categorical_crossentropy)


def apply_loss(
    loss: KerasLoss | dict[str, KerasLoss],
    targets: Any,
    predictions: Any,
    weights: Any,
    rows: Any,
    valid: Any,
) -> Any:
    """Computes the term of a loss, or the terms by output; inside a step.

    Args:
        loss: From `make_loss`.
        targets: Of the rows; a dict by output where the loss is one.
        predictions: Likewise.
        weights: Sample weights for all outputs, a dict of them by output, or None.
        rows: Scalar, how many examples there are.
        valid: Which of the rows are examples, or None; see `optimization.StepScope`.
    """
    weights = weights if tree.flatten(weights) else None
    if not isinstance(loss, dict):
        _check_single(targets, predictions, weights)
        return loss(targets, predictions, weights, rows, valid)
    return {
        output: own(
            _needed(targets, output, "target"),
            _needed(predictions, output, "model's output"),
            weights.get(output) if isinstance(weights, Mapping) else weights,
            rows,
            valid,
        )
        for output, own in loss.items()
    }


def _check_single(targets: Any, predictions: Any, weights: Any) -> None:
    """Refuses what one loss cannot take."""
    if isinstance(predictions, Mapping | list | tuple):
        named = f", {list(predictions)}" if isinstance(predictions, Mapping) else " without names"
        raise ConfigurationError(
            f"loss: the model has several outputs{named}; let it return a dict of outputs, and give "
            "a dict of losses by output name."
        )
    if targets is None:
        raise ConfigurationError(
            "loss: there are no targets. Give fit(x, y), or fit((x, y)); a list is inputs only."
        )
    if predictions is None:
        raise ConfigurationError("loss: the model returned None; it must return its output.")
    for what, given in (("targets", targets), ("sample weights", weights)):
        if given is not None and len(tree.flatten(given)) < len(tf.nest.flatten(given)):
            raise ConfigurationError(
                f"loss: the model has one output and one loss, and some of the {what} are None: "
                f"{words(given)}. Give those of its output alone, as an array."
            )


def _needed(whole: Any, output: str, what: str) -> Any:
    """Returns what an output with a loss must have."""
    found = None if whole is None else part(whole, output)
    if found is None:
        raise ConfigurationError(
            f"loss: {output!r} has a loss, and the {what} for it is None. Give it, or let {output!r} have no "
            f"loss: loss={{{output!r}: None, ...}}."
        )
    return found


def layer_rows(models: Mapping[str, keras.Model]) -> tuple[tuple[str, str, str, int, int], ...]:
    """Returns the rows of the model table: `(model, layer, kind, parameters, bytes)`."""
    rows = []
    for name, model in models.items():
        for layer in model.layers:
            size = sum(size_of(variable) for variable in layer.weights)
            count = sum(int(np.prod(variable.shape)) for variable in layer.weights)
            rows.append((name, layer.name, type(layer).__name__, count, size))
    return tuple(rows)


def part(whole: Any, output: str) -> Any:
    """Returns what belongs to one output of a model.

    Raises:
        ConfigurationError: If there is no such output or target.
    """
    if not isinstance(whole, Mapping) or output not in whole:
        names = list(whole) if isinstance(whole, Mapping) else []
        raise ConfigurationError(
            f"there is no output or target {output!r}; there are {names}." + nearest(output, names)
        )
    return whole[output]
