"""Losses as the user gives them: by name, object or function, for one output or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from looplab.errors import ConfigurationError, DataError, as_written, nearest
from looplab.execution.batches import words
from looplab.optimization.keras_losses import KerasLoss, as_keras_loss, keras_loss
from looplab.optimization.loss_terms import Term
from looplab.optimization.outputs import Output, leaf, outputs_of, sample_weights, spread, targets_of
from looplab.options.names import check_name
from looplab.strategy import tree


class Losses:
    """The losses of a model's outputs, with the factor of each in the total loss.

    Attributes:
        is_sparse: Whether the only loss has classes as targets, numbers below the output's width.
        counts: Whether a step has computed it; known after the first trace.
    """

    def __init__(self, given: Any, weights: Any = None) -> None:
        """Creates the losses; in the strategy's scope.

        Args:
            given: A Keras name, a loss or a function of `(y_true, y_pred)` for every output; or a list or a
                dict of these by output, in which None is an output without a loss.
            weights: The factor of each loss: a number for all, or a list or a dict of numbers in the form of
                `given`; 1 for a loss without a number.

        Raises:
            ConfigurationError: If an object is not a loss, or if a weight is not a number or has no loss.
        """
        self._losses = _made(given)
        if not tree.flatten(self._losses):
            raise ConfigurationError(f"loss: no output has a loss: {given}. Give at least one.")
        _check_weights(weights, given)
        self._weights = weights
        self.is_sparse = not _nested(self._losses) and _is_sparse(given)
        self.counts = False
        self._terms: dict[tuple[int, Output], KerasLoss] = {}

    def __call__(
        self,
        targets: Any,
        predictions: Any,
        weights: Any,
        rows: Any,
        valid: Any,
        names: Sequence[str] = (),
    ) -> Term | dict[str, Term]:
        """Computes the term of the loss, or the terms of several outputs by name; inside a step.

        Args:
            targets: The targets of the rows; for several outputs by name, or in their order.
            predictions: The predictions, in the same form.
            weights: Sample weights for all outputs, or weights for each by name or in their order, or None.
            rows: Scalar, the number of examples.
            valid: Which of the rows are examples, or None; see `looplab.execution.StepScope`.
            names: The names of the model's outputs.
        """
        self.counts = True
        weights = weights if tree.flatten(weights) else None
        if predictions is None:
            raise ConfigurationError("loss: the model returned None; it must return its output.")
        outputs = outputs_of(predictions, names)
        losses = self._by_output(outputs, predictions)
        if outputs[0].path == ():
            _check_single(targets, weights)
        own_targets, own_weights = targets_of(targets, outputs, losses), sample_weights(weights, outputs)
        scales = _scales(self._weights, list(losses), outputs)
        terms = {}
        for output, loss in losses.items():
            target = _needed(own_targets.get(output), output, "target")
            prediction = _needed(leaf(predictions, output), output, "model's output")
            term = self._term(loss, output)(target, prediction, own_weights.get(output), rows, valid)
            terms[output.label("loss")] = term._replace(scale=scales.get(output, 1.0))
        if len(terms) > 1:
            return terms
        only = next(iter(terms.values()))  # the whole loss, which is logged with its factor
        return only if only.scale == 1 else only._replace(total=only.total * only.scale, scale=1.0)

    def _by_output(self, outputs: Sequence[Output], predictions: Any) -> dict[Output, keras.losses.Loss]:
        losses = self._losses
        if not _nested(losses):
            return {each: losses for each in outputs if leaf(predictions, each) is not None} or {
                outputs[0]: losses
            }
        if isinstance(losses, list | tuple) and outputs[0].path == ():
            if len(losses) > 1:
                raise ConfigurationError(
                    f"loss: a list of {len(losses)} for a model with one output. Give one loss: a function "
                    "of (y_true, y_pred) can add several losses."
                )
            losses = losses[0]
        found = spread(losses, outputs, "loss")
        for output, loss in found.items():
            if _nested(loss):
                raise ConfigurationError(
                    f"loss: the output {output.name!r} has {len(loss)} losses, and an output has one. Give a "
                    "function of (y_true, y_pred) that adds several losses."
                )
        return found

    def _term(self, loss: keras.losses.Loss, output: Output) -> KerasLoss:
        # Created once, because it needs a trace of the loss.
        return self._terms.setdefault((id(loss), output), keras_loss(loss))


def make_loss(given: Any, weights: Any = None) -> Losses | None:
    """Creates the given losses, or returns None if there are none; for the arguments see `Losses`."""
    if given is not None:
        return Losses(given, weights)
    if weights is not None:
        raise ConfigurationError(
            f"loss_weights: got {as_written(weights)}, but there is no loss. Give Trainer(loss=...); in your "
            "own compute_loss multiply the values."
        )
    return None


def _nested(given: Any) -> bool:
    return isinstance(given, Mapping | list | tuple)


def _made(given: Any) -> Any:
    """Returns Keras losses in the form in which they were given."""
    if isinstance(given, Mapping):
        for output in given:
            check_name("loss", output)
        return {output: _made(loss) for output, loss in given.items() if loss is not None}
    if isinstance(given, list | tuple):
        return [_made(loss) for loss in given]
    return None if given is None else as_keras_loss(given)


def _check_weights(weights: Any, given: Any, name: Any = "loss") -> None:
    """Refuses weights that are not numbers, or that have no loss."""
    if isinstance(weights, Mapping):
        if not _nested(given):
            raise ConfigurationError(
                f"loss_weights: got {as_written(weights)}; one loss has one weight, a number. Weights by "
                "output need a dict of losses by output."
            )
        for output, weight in weights.items():
            if isinstance(given, Mapping) and output not in given:
                raise ConfigurationError(
                    f"loss_weights: there is no loss of an output {output!r}; there are {list(given)}."
                    + nearest(str(output), given)
                )
            if isinstance(given, Mapping):
                _check_weights(weight, given[output], output)
            else:  # a list, of outputs whose names the model knows
                _number(weight, output)
    elif isinstance(weights, list | tuple):
        losses = given if _nested(given) else [given]
        if isinstance(given, Mapping) or len(weights) != len(losses):
            beside = f"a {type(given).__name__} of losses" if _nested(given) else "one loss"
            raise ConfigurationError(
                f"loss_weights: got {as_written(weights)} beside {beside}, {as_written(given)}. Give a "
                "number for each loss, in the form in which the losses are given."
            )
        for index, (weight, loss) in enumerate(zip(weights, losses, strict=True)):
            _check_weights(weight, loss, index)
    elif weights is not None:
        _number(weights, name)
        if _nested(given) and len(tree.flatten(given)) > 1:
            raise ConfigurationError(
                f"loss_weights: got {weights!r} for several losses, {as_written(given)}. Give a number for "
                "each, in the form in which the losses are given."
            )


def _number(weight: Any, output: Any) -> None:
    if not isinstance(weight, int | float) or isinstance(weight, bool):
        raise ConfigurationError(f"loss_weights: expected a number for {output!r}, got {weight!r}.")


def _scales(weights: Any, having: Sequence[Output], outputs: Sequence[Output]) -> dict[Output, float]:
    """Returns the factor of each output's loss, as far as factors are given."""
    if weights is None:
        return {}
    if not _nested(weights):
        return dict.fromkeys(having, float(weights))
    if isinstance(weights, list | tuple) and outputs[0].path == ():
        weights = weights[0]
    found = spread(weights, outputs, "loss_weights")
    return {output: float(own) for output, own in found.items()}


def _is_sparse(given: Any) -> bool:
    if isinstance(given, keras.losses.SparseCategoricalCrossentropy):
        return given.get_config().get("ignore_class") is None
    return given in ("sparse_categorical_crossentropy", keras.losses.sparse_categorical_crossentropy)


def _check_single(targets: Any, weights: Any) -> None:
    """Refuses targets and sample weights that do not fit one loss."""
    if targets is None:
        raise ConfigurationError(
            "loss: there are no targets. Give fit(x, y), or fit((x, y)); a list is inputs only."
        )
    for what, given in (("targets", targets), ("sample weights", weights)):
        if given is not None and len(tree.flatten(given)) < len(tf.nest.flatten(given)):
            raise ConfigurationError(
                f"loss: the model has one output and one loss, and some of the {what} are None: "
                f"{words(given)}. Give only those of its output, as an array."
            )


def _refuse_texts(targets: Any) -> None:
    """Refuses targets that no loss of Keras can compute with."""
    if getattr(targets, "dtype", None) == tf.string:
        raise DataError(
            "loss: the targets are texts, but a loss computes with numbers. Number the classes: classes, y = "
            "numpy.unique(texts, return_inverse=True)."
        )


def _needed(found: Any, output: Output, what: str) -> Any:
    """Returns the target or prediction that an output with a loss needs."""
    _refuse_texts(found)
    if found is None:
        raise ConfigurationError(
            f"loss: {output.name!r} has a loss, and the {what} for it is None. Give it, or remove the loss "
            f"of {output.name!r}: loss={{{output.name!r}: None, ...}}."
        )
    return found
