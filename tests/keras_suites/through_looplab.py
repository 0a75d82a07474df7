"""A plugin of pytest: `fit`, `evaluate` and `predict` of Keras' models go through looplab.

Keras' own tests run with `python -m pytest -p tests.keras_suites.through_looplab FILE`. A model that was
compiled gives a trainer what it was compiled with; a refusal of looplab is a `ValueError`, as in Keras.
"""

import functools
import sys
import types
from contextlib import contextmanager

import keras
import pytest
from keras.src.backend.tensorflow import trainer

import looplab

# Of Keras' repository, which its wheel leaves out.
_conftest = types.ModuleType("conftest")
_conftest.skip_if_backend = lambda given, reason: pytest.mark.skipif(
    given == keras.backend.backend(), reason=reason
)
sys.modules.setdefault("conftest", _conftest)
sys.modules.setdefault("jax", types.ModuleType("jax"))  # is imported, and used by tests of another backend

_NATIVE = {name: getattr(keras.Model, name) for name in ("fit", "evaluate", "predict")}


def trainer_of(model, again=False):
    """Returns the trainer of a model as it was compiled last; a new one for each fit: epochs count from 0."""
    config = vars(model).get("_compile_config")
    held = vars(model).get("_through_looplab")
    if held is None or held[0] is not config or again:
        held = config, made(model)
        object.__setattr__(model, "_through_looplab", held)
    return held[1]


def made(model):
    """Returns a trainer of the model; what the classes of tests override is a user's."""
    for kind in type(model).__mro__:
        for own in vars(kind).values() if kind.__module__.endswith("_test") else ():
            if isinstance(own, types.FunctionType):
                own.__module__ = "theirs"
    how = {"on_nonfinite": "ignore"}  # as Keras goes on
    if model.compiled and hasattr(model.optimizer, "inner_optimizer"):
        # looplab scales losses itself
        how |= {"precision": "mixed_float16", "optimizer": model.optimizer.inner_optimizer}
    if model.compiled and model.jit_compile:
        how["jit_compile"] = True
    return looplab.Trainer(model, **how)


@contextmanager
def refusals():
    try:
        yield
    except (looplab.ConfigurationError, looplab.DataError) as error:
        raise ValueError(str(error)) from error


def given(callbacks):
    return [c for c in keras.tree.flatten(callbacks or []) if c is not None]


def fit(
    self,
    x=None,
    y=None,
    batch_size=None,
    epochs=1,
    verbose="auto",
    callbacks=None,
    validation_split=0.0,
    validation_data=None,
    shuffle=True,
    class_weight=None,
    sample_weight=None,
    initial_epoch=0,
    steps_per_epoch=None,
    validation_steps=None,
    validation_batch_size=None,
    validation_freq=1,
):
    self._assert_compile_called("fit")
    how = {}
    if validation_data is not None:
        if validation_batch_size is not None:
            validation = looplab.Validation(
                validation_data,
                every=validation_freq,
                steps=validation_steps,
                batch_size=validation_batch_size,
            )
            how["validation_data"] = {"validation": validation}
        else:
            how |= {"validation_data": validation_data, "validation_freq": validation_freq}
            how["validation_steps"] = validation_steps
    if validation_split:
        how["validation_split"] = validation_split
    if initial_epoch:
        how["initial_epoch"] = initial_epoch
    with refusals():
        history = trainer_of(self, again=True).fit(
            x,
            y,
            sample_weight=sample_weight,
            batch_size=batch_size,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            shuffle=shuffle,
            class_weight=class_weight,
            verbose=verbose,
            callbacks=given(callbacks),
            **how,
        )
    object.__setattr__(self, "history", history)
    return history


def evaluate(
    self,
    x=None,
    y=None,
    batch_size=None,
    verbose="auto",
    sample_weight=None,
    steps=None,
    callbacks=None,
    return_dict=False,
    **kwargs,
):
    self._assert_compile_called("evaluate")
    if kwargs:
        raise ValueError(f"Arguments not recognized: {kwargs}")
    with refusals():
        trainer = trainer_of(self)
        values = trainer.evaluate(
            x,
            y,
            sample_weight=sample_weight,
            batch_size=batch_size,
            steps=steps,
            callbacks=given(callbacks),
        )
    if return_dict:
        return values
    metrics = trainer._engine.metrics.of("test")
    first = [name for name in ("loss", *metrics) if name in values]
    found = [values[name] for name in (*first, *sorted(values.keys() - set(first)))]
    return found[0] if len(found) == 1 else found


def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
    with refusals():
        return trainer_of(self).predict(x, batch_size=batch_size, steps=steps, callbacks=given(callbacks))


class LayerAsModel(keras.Model):
    """What Keras' tests mix into a layer to have a model of it: here that is a `keras.Model`."""

    layers = ()  # as these mixtures name what they like

    def __init__(self):
        _native_trainer.__init__(self)

    def __init_subclass__(cls):
        super().__init_subclass__()
        after = cls.__mro__[cls.__mro__.index(keras.Model) + 1 :]
        for name in ("call", "build"):  # which Keras' own mixture leaves to the layer
            if not any(name in vars(kind) for kind in cls.__mro__[: cls.__mro__.index(LayerAsModel)]):
                setattr(cls, name, next(vars(kind)[name] for kind in after if name in vars(kind)))


for name, function in (("fit", fit), ("evaluate", evaluate), ("predict", predict)):
    setattr(keras.Model, name, functools.wraps(_NATIVE[name])(function))
_native_trainer, trainer.TensorFlowTrainer = trainer.TensorFlowTrainer, LayerAsModel
