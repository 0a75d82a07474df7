"""`_partial_: true`, Hydra's way to give a function: what it makes in each slot."""

import functools
import inspect

import keras
import numpy as np
import pytest

from looplab import experiment
from looplab.errors import ConfigurationError
from looplab.experiment import instantiate
from tests.experiment.test_build import described, project, refused, run
from tests.process import records, write

__all__ = ["project"]

PARTS = """
import keras
import looplab


class Net(keras.Model):
    def __init__(self, layer, initializer=None, activation=None):
        super().__init__()
        self.given = {"layer": layer, "initializer": initializer, "activation": activation}
        self.out = layer(2)

    def call(self, x, training=False):
        return self.out(x)


@looplab.configurable
def layer(units, bias, name=None):
    return keras.layers.Dense(units, use_bias=bias, name=name)


@looplab.configurable
def net(units):
    return keras.Sequential([keras.layers.Dense(units), keras.layers.Dense(2)])


@looplab.configurable
def weighed(y_true, y_pred, alpha, beta=1.0):
    return alpha * keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


@looplab.configurable
def made(alpha=1.0):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, name=f"made{alpha:g}")


@looplab.configurable
def right(y_true, y_pred, most):
    return most * keras.metrics.sparse_categorical_accuracy(y_true, y_pred)


@looplab.configurable
def halving(learning_rate, total_steps):
    return keras.optimizers.schedules.CosineDecay(learning_rate, total_steps)
"""
DATA = {"source": {"_target_": "mine.points"}, "batch_size": 10}


@pytest.fixture
def parts(project):
    """The project with functions that lack arguments."""
    write(project, {"parts.py": PARTS})
    return project


def partial(target, **given):
    """A section that gives a function."""
    return {"_target_": target, "_partial_": True, **given}


def built(**sections):
    return experiment.build(described(data=DATA, **sections), None)[0]


@pytest.mark.slow
def test_a_partial_is_a_factory_where_an_object_is_wanted(parts, tmp_path):
    sections = {
        "data": {"source": partial("mine.points", rows=30), "batch_size": 10},
        "model": partial("parts.net", units=3),
        "optimizer": partial("keras.optimizers.AdamW", weight_decay=0.5),
        "schedule": partial("parts.halving"),
        "loss": partial("keras.losses.SparseCategoricalCrossentropy", from_logits=True),
        "metrics": [partial("keras.metrics.SparseCategoricalAccuracy", name="right")],
        "callbacks": {"norms": partial("looplab.callbacks.Norms", every="1ep")},
        "trainer": partial("looplab.trainer.Trainer"),
        "loggers": {"verbose": 0, "more": {"csv": partial("looplab.loggers.Csv")}},
    }
    run(tmp_path / "run", **sections)
    trainer, data = experiment.build(described(**sections), None)
    trainer.build(data["train"])
    (optimizer,) = trainer.optimizers.values()
    assert (type(optimizer).__name__, optimizer.weight_decay) == ("AdamW", 0.5)
    assert optimizer._learning_rate.decay_steps == 6
    assert "epoch_right" in set(records(tmp_path / "run")[-1]["values"])
    assert "parameter_norm" in (tmp_path / "run" / "metrics.csv").read_text()


@pytest.mark.slow
def test_a_loss_and_a_metric_may_be_functions_with_some_of_their_arguments(parts, tmp_path):
    own = partial("parts.weighed", alpha=2.0)
    plain = {"_target_": "keras.losses.SparseCategoricalCrossentropy", "from_logits": True}
    of_keras = partial("keras.losses.sparse_categorical_crossentropy", from_logits=True)
    losses = {}
    for name, loss in {"own": own, "plain": plain, "of_keras": of_keras}.items():
        run(
            tmp_path / name,
            data=DATA,
            loss=loss,
            optimizer={"_target_": "keras.optimizers.SGD", "learning_rate": 0.0},
            metrics=[partial("parts.right", most=100.0)],
            loggers={"verbose": 0},
        )
        last = [r["values"] for r in records(tmp_path / name) if r["split"] == "validation"][-1]
        losses[name] = last["epoch_loss"]
        assert 1.0 < last["epoch_right"] <= 100.0
    np.testing.assert_allclose(losses["own"], 2 * losses["plain"], rtol=1e-6)
    assert losses["of_keras"] == losses["plain"]


def test_a_function_that_lacks_nothing_is_a_factory_of_a_loss(parts):
    loss = instantiate.make(partial("parts.made", alpha=3.0), "loss", keras.losses.Loss)
    assert loss.name == "made3"


def test_among_arguments_it_stays_a_partial(parts):
    trainer = built(
        model={
            "_target_": "parts.Net",
            "layer": partial("parts.layer", bias=False),
            "initializer": partial("keras.initializers.RandomNormal", stddev=1),
            "activation": partial("keras.activations.relu", negative_slope=0.5),
        }
    )
    trainer.build((np.zeros((2, 4), "float32"), np.zeros(2, "int64")))
    (model,) = trainer.models.values()
    assert isinstance(model.out, keras.layers.Dense)
    assert model.out.bias is None
    assert {type(own) for own in model.given.values()} == {functools.partial}
    initializer = model.given["initializer"]
    assert (initializer.func, initializer.keywords) == (keras.initializers.RandomNormal, {"stddev": 1.0})
    assert model.given["activation"](np.float32(-2.0)) == -1.0
    assert "units" in inspect.signature(model.given["layer"]).parameters


def test_false_is_as_good_as_nothing(parts):
    sections = {"model": {"_target_": "parts.net", "units": 3, "_partial_": False}}
    assert built(**sections).models


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"model": partial("parts.net")}, "model: parts.net needs the argument 'units', which is missing"),
        ({"loss": partial("parts.weighed", alhpa=1)}, "loss.alhpa: parts.weighed takes no argument"),
        ({"loss": {"_target_": "parts.weighed", "alpha": 1}}, "needs the argument 'y_true'"),
        ({"loss": partial("keras.losses.Tversky", alhpa=1)}, "loss.alhpa: keras.losses.Tversky takes no"),
        ({"metrics": [partial("parts.right", mots=1)]}, "metrics[0].mots: parts.right takes no argument"),
        (
            {"model": {"_target_": "parts.Net", "layer": partial("parts.layer", units=2, baas=1)}},
            "model.layer.baas: parts.layer takes no argument 'baas'",
        ),
        ({"model": partial("os.system", command="true")}, "belongs neither to looplab, nor to Keras"),
        ({"model": {"_target_": "parts.Net", "layer": partial("keras.ops.relu")}}, "keras.ops.relu"),
    ],
    ids=str,
)
def test_arguments_are_checked_all_the_same(parts, sections, says):
    assert says in refused(data=DATA, **sections)


def test_what_looplab_calls_without_more_arguments_has_all_of_them(parts):
    with pytest.raises(ConfigurationError, match="needs the argument 'step'"):
        built(callbacks={"slow": partial("mine.Slow")})
