"""Batches of one fixed size, as TPUs need them: what fills a short one counts for nothing.

No TPU was at hand. Here simulated replicas are told that they are one, so that all but the hardware runs.
"""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.errors import ConfigurationError, LossError
from looplab.protocols import HOST, TPU
from tests.conftest import make_strategy

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(11, 4)), RNG.integers(0, 3, 11)
TOKENS, MASKED = RNG.integers(0, 4, (11, 5)), RNG.integers(0, 3, (11, 5))
WEIGHTS = RNG.integers(0, 4, 11) / 2


@pytest.fixture(autouse=True)
def on_a_tpu(monkeypatch):
    tpu = replace(TPU, precisions=HOST.precisions)  # float64 here
    monkeypatch.setattr("looplab.strategy.placement.of", lambda strategy: tpu if padding else HOST)
    global padding
    padding = True


def dense():
    return keras.Sequential(
        [
            keras.layers.Dense(5, "tanh", kernel_regularizer=keras.regularizers.L2(0.125)),
            keras.layers.Dense(3),
        ]
    )


def masked():
    return keras.Sequential(
        [keras.layers.Embedding(4, 3, mask_zero=True), keras.layers.Dense(5, "tanh"), keras.layers.Dense(3)]
    )


def loss(reduction):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction, dtype="float64")


class Weighted(looplab.Trainer):
    """Two terms, one weighted, of a step of one's own."""

    def compute_loss(self, batch, training):
        logits = self.model(batch[0], training=training)
        self.update_metrics(batch[1], logits)
        values = keras.ops.sparse_categorical_crossentropy(batch[1], logits, from_logits=True)
        return {"plain": values, "weighted": (logits, batch[2][:, None])}


CASES = {
    "mean": lambda **o: looplab.Trainer(dense, "sgd", loss("sum_over_batch_size"), ["accuracy"], **o),
    "sum": lambda **o: looplab.Trainer(dense, "sgd", loss("sum"), ["accuracy"], **o),
    "weights": lambda **o: looplab.Trainer(dense, "sgd", loss("mean_with_sample_weight"), ["accuracy"], **o),
    "own": lambda **o: Weighted(dense, "sgd", metrics=["accuracy"], **o),
    "masked": lambda **o: looplab.Trainer(masked, "sgd", loss("sum_over_batch_size"), ["accuracy"], **o),
}


def run(case, replicas, batch_size, micro_batches, pads):
    global padding
    padding = pads
    trainer = CASES[case](strategy=make_strategy(replicas), micro_batches=micro_batches, precision="float64")
    data = (TOKENS, MASKED) if case == "masked" else (X, Y, WEIGHTS)
    history = trainer.fit(data, validation_data=data, batch_size=batch_size, epochs=2, verbose=0)
    predictions = trainer.predict(data, batch_size=batch_size)
    weights = np.concatenate([variable.numpy().ravel() for variable in trainer.model.trainable_variables])
    return history.history, weights, predictions


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("case", "replicas", "batch_size", "micro_batches"),
    [
        pytest.param("mean", 2, 5, 1, marks=pytest.mark.slow),  # masked is one, and more
        ("sum", 3, 16, 1),
        ("weights", 2, 4, 2),
        ("own", 3, 5, 1),
        ("masked", 2, 3, 2),
    ],
)
def test_what_is_padded_computes_what_one_device_computes(case, replicas, batch_size, micro_batches):
    history, weights, predictions = run(case, replicas, batch_size, micro_batches, pads=True)
    expected_history, expected, expected_predictions = run(case, 1, batch_size, 1, pads=False)
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(predictions, expected_predictions, rtol=0, atol=1e-10)
    assert history.keys() == expected_history.keys()
    for name in history:
        np.testing.assert_allclose(history[name], expected_history[name], rtol=1e-6)


def test_the_step_is_compiled_for_one_size():
    shapes = []

    class Seen(looplab.Trainer):
        def compute_loss(self, batch, training):
            shapes.append(tuple(batch[0].shape))
            return self.model(batch[0], training=training)

    trainer = Seen(dense, "sgd", strategy=make_strategy(2), precision="float64")
    trainer.fit(X, Y, batch_size=5, verbose=0)
    assert set(shapes) == {(None, 4), (3, 4)}  # the first look knows no size


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            lambda logits: (tf.reduce_mean(logits), 3.0),
            r"'loss' has shape \(\) for 3 rows.*drop_remainder=True",
        ),
        (lambda logits: tf.reshape(logits, [-1]), r"'loss' has shape \(9,\) for 3 rows"),
    ],
)
def test_values_that_are_of_no_rows_are_refused(values, words):
    class Own(looplab.Trainer):
        def compute_loss(self, batch, training):
            return values(self.model(batch[0], training=training))

    trainer = Own(dense, "sgd", strategy=make_strategy(2), precision="float64")
    with pytest.raises(LossError, match=words):
        trainer.fit(X, Y, batch_size=5, verbose=0)


def test_other_rows_than_those_of_the_step_are_refused():
    class Half(looplab.Trainer):
        def train_step(self, batch):
            return self.minimize(self.compute_loss, tf.nest.map_structure(lambda part: part[::2], batch))

    trainer = Half(dense, "sgd", loss(None), strategy=make_strategy(2), precision="float64")
    with pytest.raises(LossError, match=r"computed for 2 rows of a batch whose 3 rows are padded"):
        trainer.fit(X, Y, batch_size=5, verbose=0)


def test_batches_of_unknown_size_are_refused():
    trainer = looplab.Trainer(dense, "sgd", loss(None), strategy=make_strategy(2), precision="float64")
    with pytest.raises(ConfigurationError, match=r"those for training is not"):
        trainer.fit(tf.data.Dataset.from_tensor_slices((X, Y)).batch(4), verbose=0)


def test_batches_that_the_replicas_share_are_not_padded():
    rows = looplab.strategy.padded_size
    two = make_strategy(2)
    assert (rows(two, 4, 4), rows(two, 5, 5), rows(two, None, 5)) == (None, 6, 6)
