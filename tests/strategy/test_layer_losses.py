"""Losses that layers add, where replicas meet in the middle of a model: each replica has its own."""

import keras
import numpy as np
import pytest

import looplab
from tests.training.keras_table.comparison import Study, by_looplab, by_model_fit, differing

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=(12, 1))


class Added(keras.layers.Layer):
    """Adds a loss that depends on what it is called with."""

    def call(self, x):
        self.add_loss(keras.ops.mean(x**2))
        return x


def network(before, after):
    """Synchronised BatchNormalization, where the replicas take turns, with layers around it."""
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, activity_regularizer="l2" if before else None)(inputs)
    hidden = Added()(hidden) if before else hidden
    hidden = keras.layers.BatchNormalization()(hidden)
    hidden = Added()(hidden) if after else hidden
    return keras.Model(inputs, {"y": keras.layers.Dense(1, activity_regularizer="l2", name="y")(hidden)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(True, False, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
        (True, True),
    ],
)
def test_losses_that_layers_add_are_those_of_model_fit(before, after):
    study = Study(lambda: network(before, after), X, {"y": Y})
    first, theirs = by_model_fit(study, run_eagerly=True)
    assert differing(by_looplab(study, first, 2), theirs) == []


WEIGHTS = {shape: np.full(shape, 0.5) for shape in ((3, 4), (4,), (4, 1), (1,))}


@pytest.mark.slow
def test_a_step_of_ones_own_reads_the_losses_of_its_replica():
    class Own(looplab.Trainer):
        def compute_loss(self, batch, training):
            error = (self.model(batch[0], training=training)["y"] - batch[1])[:, 0]
            return {"squared": error**2, "added": 0 * error + sum(self.model.losses)}

    logs = []
    for strategy in ("auto", looplab.strategy.simulated(2)):
        trainer = Own(lambda: network(True, True), "sgd", precision="float64", strategy=strategy)
        trainer.model.set_weights([WEIGHTS[tuple(weight.shape)] for weight in trainer.model.weights])
        logs.append(trainer.fit((X, Y), batch_size=4, shuffle=False, verbose=0).history)
    for name in ("squared", "added", "regularization", "loss"):
        assert logs[0][name] == pytest.approx(logs[1][name], rel=1e-12), name
