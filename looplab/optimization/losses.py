"""Losses as they are given: by name, object or function, for one output or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from looplab.errors import ConfigurationError, DataError, nearest
from looplab.execution.batches import words
from looplab.optimization.keras_losses import KerasLoss, as_keras_loss, keras_loss
from looplab.options.names import check_name
from looplab.strategy import tree


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
        for output in given:
            check_name("loss", output)
        if all(loss is None for loss in given.values()):
            raise ConfigurationError(f"loss: no output has one: {dict(given)}. Give a loss for one of them.")
        return {
            output: keras_loss(as_keras_loss(loss), (weights or {}).get(output, 1.0))
            for output, loss in given.items()
            if loss is not None
        }
    return keras_loss(as_keras_loss(given))


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
        valid: Which of the rows are examples, or None; see `looplab.execution.StepScope`.
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
    _refuse_texts(targets)
    if predictions is None:
        raise ConfigurationError("loss: the model returned None; it must return its output.")
    for what, given in (("targets", targets), ("sample weights", weights)):
        if given is not None and len(tree.flatten(given)) < len(tf.nest.flatten(given)):
            raise ConfigurationError(
                f"loss: the model has one output and one loss, and some of the {what} are None: "
                f"{words(given)}. Give those of its output alone, as an array."
            )


def _refuse_texts(targets: Any) -> None:
    """Refuses targets that no loss of Keras can compute with."""
    if getattr(targets, "dtype", None) == tf.string:
        raise DataError(
            "loss: the targets are texts, and a loss computes with numbers. Number the classes: classes, y = "
            "numpy.unique(texts, return_inverse=True)."
        )


def _needed(whole: Any, output: str, what: str) -> Any:
    """Returns what an output with a loss must have."""
    found = None if whole is None else part(whole, output)
    _refuse_texts(found)
    if found is None:
        raise ConfigurationError(
            f"loss: {output!r} has a loss, and the {what} for it is None. Give it, or let {output!r} have no "
            f"loss: loss={{{output!r}: None, ...}}."
        )
    return found


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
