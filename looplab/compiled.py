"""`looplab.fit`: a compiled Keras model is trained in one line, in the place of `model.fit`."""

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

# What `model.compile` says, and nobody else.
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
    """Trains a compiled model in place, as `model.fit`, and returns its history.

    On the host. Its numbers are those of `model.fit` on one device, also where the strategy has several. The
    model and its optimizer are afterwards trained: a second call goes on from there, and counts its epochs
    anew, as in Keras. With a `run_dir` a call is a run that can be resumed, and `epochs` is its last epoch:
    the same call again says that nothing is left to do.

    Args:
        model: Compiled: its optimizer, loss, weights and metrics are used.
        x: As in Keras; see `looplab.Trainer.fit` for all that data may be.
        y: Targets.
        batch_size: Examples of a global batch of arrays; 32 if not given.
        epochs: The last epoch.
        verbose: 0 nothing, 1 a progress bar, 2 a line per epoch; `"auto"` chooses.
        callbacks: Of Keras and of looplab.
        validation_split: The part of the examples that is held out for validation, the last ones.
        validation_data: Evaluated after each epoch.
        shuffle: Whether arrays come in a new order each epoch.
        class_weight: Weights of the training examples by the class of their target.
        sample_weight: Weights of the examples.
        initial_epoch: Epochs that count as done.
        steps_per_epoch: Steps of an epoch, where it is less than one pass over the data, or the data has no
            end.
        validation_steps: Batches of an evaluation.
        validation_batch_size: Examples of a batch of validation arrays; `batch_size` if not given.
        validation_freq: A number n for each n-th epoch, or an interval (`"500st"`, `"5ep"`), with which the
            end of training is evaluated too.
        seed: Decides the order of data and masks. Not given, it is 0 with a `run_dir`; else the number of
            updates that the optimizer has made: 0 at first, another one in each call that follows.
        precision: As of `looplab.Trainer`; that of the model if not given.
        **trainer: Other arguments of `looplab.Trainer`, such as `strategy`, `run_dir` or `micro_batches`.

    Returns:
        The values of every epoch; its `model` is the one that was given.

    Raises:
        ConfigurationError: If the model is not compiled, or arguments do not go together.
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
        elif rate is not None:  # of a model's own step, whose schedule counts updates, as in Keras
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
        optimizer.finalize_variable_values(model.trainable_variables)  # weights become their averages
    history.model = model
    model.history = history
    return history


def _check(model: Any, trainer: Mapping[str, Any]) -> None:
    """Refuses what is no compiled model, and arguments that are no trainer's."""
    if not isinstance(model, keras.Model):
        raise ConfigurationError(
            f"looplab.fit: expected a compiled keras.Model, got {type(model).__name__}. With a function that "
            "makes one use looplab.Trainer."
        )
    if not model.compiled:
        raise ConfigurationError(
            "looplab.fit: the model is not compiled. Call model.compile(optimizer=..., loss=...) first, or "
            "use looplab.Trainer(model, optimizer, loss)."
        )
    known = {*inspect.signature(Trainer.__init__).parameters} - {"self", *_OF_COMPILE, *_OF_ONE_MODEL}
    for name in trainer:
        if name in _OF_COMPILE:
            raise ConfigurationError(
                f"looplab.fit: {name} is what the model was compiled with: say it there."
            )
        if name not in known:
            valid = sorted(known | {*inspect.signature(fit).parameters} - {"trainer"})
            raise ConfigurationError(f"looplab.fit: there is no argument {name!r}." + nearest(name, valid))


def _precision(model: keras.Model) -> str | None:
    """Returns the precision that a model was made in; None for one that looplab may not have."""
    name = model.dtype_policy.name
    return name if name in PRECISIONS else None


@contextmanager
def _carried_on(optimizer: keras.optimizers.Optimizer) -> Iterator[OfUpdates | None]:
    """Lets the learning rate within the block go on where the optimizer stands; gives its schedule.

    A trainer counts its steps from 0. What it puts in the place of a schedule is taken away after it, or
    `model.fit` would find it standing still.
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
    """Returns a model that the strategy can use, in whose scope this is called: a twin where it must be."""
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
    """Gives a model and its optimizer what a twin has come to."""
    _copy(trainer.model.variables, model.variables, "model")
    for own in trainer.optimizers.values():
        if own.built:
            if not optimizer.built:
                optimizer.build(model.trainable_variables)
                optimization.keep_averages(optimizer)
            _copy(_state(own), _state(optimizer), "optimizer")


def _state(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Returns what changes with updates: all variables but the learning rate."""
    return [variable for variable in optimizer.variables if variable is not optimizer._learning_rate]


def _copy(given: Sequence[Any], taken: Sequence[Any], what: str) -> None:
    if [variable.shape for variable in given] != [variable.shape for variable in taken]:
        raise ConfigurationError(
            f"looplab.fit: the {what} does not have the variables of its copy for several replicas (has "
            "something been frozen since it was trained?). Compile the model again, or use one device."
        )
    for variable, value in zip(taken, given, strict=True):
        variable.assign(value)
