"""`looplab.fit` trains a compiled Keras model in one line, in place of `model.fit`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from looplab import optimization
from looplab.callbacks import Callback
from looplab.errors import ConfigurationError, nearest
from looplab.loggers import History
from looplab.optimization.remake import another_model, another_optimizer, given_rate
from looplab.options.distribution import PRECISIONS
from looplab.schedule import OfUpdates
from looplab.strategy import strategies
from looplab.trainer import Trainer

# The arguments that only `model.compile` takes.
_OF_COMPILE = ("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics")
_OF_ONE_MODEL = ("model", "models", "optimizers", "callbacks")


def fit(
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: str | int = "auto",
    callbacks: Sequence[Callback | keras.callbacks.Callback] | None = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: bool = True,
    class_weight: Mapping[int, float] | None = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    validation_freq: int | str = 1,
    *,
    seed: int | None = None,
    precision: str | None = None,
    **trainer: Any,
) -> History:
    """Trains a compiled model in place, like `model.fit`, and returns its history.

    Runs on the host. Its numbers are those of `model.fit` on one device, even if the strategy has several.
    The model and its optimizer are trained in place: a second call continues from them, and counts its epochs
    from the start, as in Keras. With a `run_dir` a call is a run that can be resumed, and `epochs` is its
    last epoch: the same call again reports that nothing is left to do.

    Args:
        model: A compiled model, whose optimizer, loss, weights and metrics are used.
        x: The data as in Keras; `looplab.Trainer.fit` lists all forms of data.
        y: The targets.
        batch_size: The number of examples in a global batch of arrays; 32 by default.
        epochs: The last epoch.
        verbose: 0 shows nothing, 1 a progress bar, 2 a line per epoch; `"auto"` chooses.
        callbacks: Callbacks of Keras and of looplab.
        validation_split: The fraction of the examples that is held out for validation, the last ones.
        validation_data: The data to evaluate after each epoch.
        shuffle: Whether arrays come in a new order each epoch.
        class_weight: Weights of the training examples by the class of their target.
        sample_weight: The weights of the examples.
        initial_epoch: The number of epochs that count as done.
        steps_per_epoch: The number of steps in an epoch, if it is less than one pass over the data, or if the
            data has no end.
        validation_steps: The number of batches in an evaluation.
        validation_batch_size: The number of examples in a batch of validation arrays; `batch_size` by
            default.
        validation_freq: A number n for every n-th epoch, or an interval (`"500st"`, `"5ep"`), which also
            evaluates at the end of training.
        seed: Sets the order of the data and the masks. By default it is 0 with a `run_dir`; otherwise it is
            the number of updates that the optimizer has made: 0 at first, another number in each later call.
        precision: As in `looplab.Trainer`; the precision of the model by default.
        **trainer: Other arguments of `looplab.Trainer`, such as `strategy`, `run_dir` or `micro_batches`.

    Returns:
        The values of every epoch; its `model` is the given model.

    Raises:
        ConfigurationError: If the model is not compiled, or arguments exclude each other.
        LooplabError: As `looplab.Trainer.fit`.
    """
    _check(model, trainer)
    optimizer: keras.optimizers.Optimizer = model._compile_config.config["optimizer"]
    if seed is None:
        seed = 0 if trainer.get("run_dir") else int(optimizer.iterations.numpy()) % 2**32
    with _carried_on(optimizer) as rate:
        made = Trainer(
            lambda: _usable(model, optimizer), seed=seed, precision=precision or _precision(model), **trainer
        )
        if rate is not None and made.optimizers:
            rate.follow(made.optimizer.iterations, made.step)
        elif rate is not None:  # the model has its own step, whose schedule counts updates, as in Keras
            optimizer._learning_rate = rate.base
        try:
            history = made.fit(
                x,
                y,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=[callbacks]
                if isinstance(callbacks, Callback | keras.callbacks.Callback)
                else callbacks or (),
                validation_split=validation_split or None,
                validation_data=validation_data,
                shuffle=shuffle,
                class_weight=class_weight,
                sample_weight=sample_weight,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size,
                validation_freq=validation_freq,
            )
        finally:
            if made.model is not model:
                _give_back(made, model, optimizer)
    if optimizer.built and epochs > initial_epoch:
        optimizer.finalize_variable_values(model.trainable_variables)  # replaces weights by their averages
    history.model = model
    model.history = history
    return history


def _check(model: Any, trainer: Mapping[str, Any]) -> None:
    """Refuses a model that is not compiled, and arguments that no trainer has."""
    if not isinstance(model, keras.Model):
        raise ConfigurationError(
            f"looplab.fit: expected a compiled keras.Model, got {type(model).__name__}. For a function that "
            "returns a model, use looplab.Trainer."
        )
    if not model.compiled:
        raise ConfigurationError(
            "looplab.fit: the model is not compiled. Call model.compile(optimizer=..., loss=...) first, or "
            "use looplab.Trainer(model, optimizer, loss)."
        )
    known = {*inspect.signature(Trainer.__init__).parameters} - {"self", *_OF_COMPILE, *_OF_ONE_MODEL}
    for name in trainer:
        if name in _OF_COMPILE:
            raise ConfigurationError(f"looplab.fit: {name} is set by model.compile. Give it there.")
        if name not in known:
            valid = sorted(known | {*inspect.signature(fit).parameters} - {"trainer"})
            raise ConfigurationError(f"looplab.fit: there is no argument {name!r}." + nearest(name, valid))


def _precision(model: keras.Model) -> str | None:
    """Returns the precision that a model was created in; None if looplab does not support it."""
    name = model.dtype_policy.name
    return name if name in PRECISIONS else None


@contextmanager
def _carried_on(optimizer: keras.optimizers.Optimizer) -> Iterator[OfUpdates | None]:
    """Continues the learning rate at the optimizer's number of updates in the block; yields its schedule.

    A trainer counts its steps from 0. The block's end restores the original schedule, because `model.fit`
    would not advance the substitute.
    """
    base = given_rate(optimizer)
    if not isinstance(base, keras.optimizers.schedules.LearningRateSchedule):
        yield None
        return
    try:
        optimizer._learning_rate = follows = OfUpdates(base)
        yield follows
    finally:
        optimizer._learning_rate = base


def _usable(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> keras.Model:
    """Returns the model, or a copy if the strategy cannot use the model; called in the strategy's scope."""
    if strategies.belongs_here(model.variables) and strategies.belongs_here([optimizer.iterations]):
        return model
    if not model.variables:
        raise ConfigurationError(
            f"looplab.fit: {type(model).__name__} has no variables yet, and the strategy needs copies of "
            "them. Build it first: model.build(input_shape), or call it once."
        )
    twin = another_model(model, "looplab.fit")
    own = another_optimizer(optimizer, "looplab.fit")
    if optimizer.built:
        own.build(twin.trainable_variables)
        optimization.keep_averages(own)
        _copy(_state(optimizer), _state(own), "optimizer")
    keras.Model.compile(twin, **{**model._compile_config.config, "optimizer": own})
    return twin


def _give_back(trainer: Trainer, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    """Copies the trained values of a copy back to the model and its optimizer."""
    _copy(trainer.model.variables, model.variables, "model")
    for own in trainer.optimizers.values():
        if own.built:
            if not optimizer.built:
                optimizer.build(model.trainable_variables)
                optimization.keep_averages(optimizer)
            _copy(_state(own), _state(optimizer), "optimizer")


def _state(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Returns the variables that updates change: all but the learning rate."""
    return [variable for variable in optimizer.variables if variable is not optimizer._learning_rate]


def _copy(given: Sequence[Any], taken: Sequence[Any], what: str) -> None:
    if [variable.shape for variable in given] != [variable.shape for variable in taken]:
        raise ConfigurationError(
            f"looplab.fit: the {what} does not have the variables of its copy for several replicas (was a "
            "layer frozen since it was trained?). Compile the model again, or use one device."
        )
    for variable, value in zip(taken, given, strict=True):
        variable.assign(value)
