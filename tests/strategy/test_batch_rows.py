"""The rows of a batch on each replica, also where one has none."""

import keras
import numpy as np
import pytest

import looplab

X = np.random.default_rng(0).normal(size=(6, 5, 3)).astype("float32")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("LSTM", marks=pytest.mark.slow), "GRU"])
def test_a_replica_without_rows_counts_for_nothing(kind):
    """Keras takes an axis of static length 0 for one that can be left out, and adds another bias."""

    def model():
        return keras.Sequential([getattr(keras.layers, kind)(4), keras.layers.Dense(1)])

    found = []
    for replicas in (1, 2):
        strategy = looplab.strategy.simulated(2) if replicas == 2 else "auto"
        trainer = looplab.Trainer(model, "sgd", "mse", strategy=strategy, seed=3)
        losses = trainer.fit(X, X[:, 0, :1], batch_size=1, epochs=1, verbose=0).history["loss"]
        found.append((losses, trainer.evaluate(X, X[:, 0, :1], batch_size=1)["loss"]))
        assert trainer.predict(X, batch_size=1).shape == (6, 1)
    one, two = ([*losses, evaluated] for losses, evaluated in found)
    np.testing.assert_allclose(one, two, rtol=1e-5)
