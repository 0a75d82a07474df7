"""Rows that a batch repeats: the gradient of each is summed first, which Keras does not do.

Should Keras come to do it, the table here fails, and `looplab.optimization.repeated_rows` can go.
"""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.optimization import repeated_rows

ROWS, Y = np.array([[1, 1, 1, 2], [1, 1, 2, 3]], "int32"), np.array([[1.0], [-2.0]], "float32")
OPTIONS = {
    "plain": {},
    "clipnorm": {"clipnorm": 0.1},
    "clipvalue": {"clipvalue": 0.1},
    "decay": {"weight_decay": 0.5},
}
NOT_ALONE = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"}  # a base, and two around others


def _kinds():
    found = inspect.getmembers(keras.optimizers, inspect.isclass)
    return [
        kind for name, kind in found if issubclass(kind, keras.optimizers.Optimizer) and name not in NOT_ALONE
    ]


@pytest.mark.share(4)
@pytest.mark.parametrize("kind", _kinds(), ids=lambda kind: kind.__name__)
def test_which_optimizers_of_keras_take_parts_otherwise_than_their_sum(kind):
    parts = tf.IndexedSlices(
        tf.constant([[1.0, 2.0], [3.0, -4.0], [0.5, 0.5]]), [1, 1, 2], tf.constant([3, 2])
    )
    for name, options in OPTIONS.items():
        found = []
        for gradient in (parts, tf.convert_to_tensor(parts)):
            optimizer, rows = kind(0.1, **options), keras.Variable(np.ones((3, 2)), name="embeddings")
            optimizer.build([rows])
            for _ in range(3):
                optimizer.apply([gradient], [rows])
            found.append(rows.numpy())
        differs = not np.allclose(*found, rtol=0, atol=1e-6)
        assert repeated_rows.differs_from_keras(optimizer) or not differs, name
        if name == "plain":
            assert repeated_rows.differs_from_keras(optimizer) == differs, name


def _net():
    init = keras.initializers.GlorotUniform(1)
    layers = [keras.layers.Embedding(5, 3, embeddings_initializer=init), keras.layers.Flatten()]
    return keras.Sequential(
        [keras.Input([4], dtype="int32"), *layers, keras.layers.Dense(1, kernel_initializer=init)]
    )


@pytest.mark.share(1)
@pytest.mark.parametrize("strategy", ["one_device", "simulated"])
def test_the_update_is_that_of_the_dense_gradient(strategy):
    trainer = looplab.Trainer(
        _net, lambda: keras.optimizers.Adam(0.1), "mse", strategy=strategy, execution="graph"
    )
    trainer.fit(ROWS, Y, batch_size=2, shuffle=False, steps=2, verbose=0)
    model, optimizer = _net(), keras.optimizers.Adam(0.1)
    for _ in range(2):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(ROWS) - Y) ** 2)
        dense = [tf.convert_to_tensor(g) for g in tape.gradient(loss, model.trainable_variables)]
        optimizer.apply_gradients(zip(dense, model.trainable_variables, strict=True))
    for own, other in zip(trainer.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-6)


@pytest.mark.share(1)
@pytest.mark.parametrize(("optimizer", "says"), [("adam", True), ("sgd", False)])
def test_the_plan_says_so_where_it_counts(optimizer, says):
    lines = looplab.Trainer(_net, optimizer, "mse").rehearse(ROWS, Y, batch_size=2, steps=1).lines
    assert any("a row of embedding" in text for _, text in lines) is says


@pytest.mark.slow
def test_a_frozen_embedding_is_not_spoken_of():
    def frozen():
        model = _net()
        model.layers[0].trainable = False
        return model

    lines = looplab.Trainer(frozen, "adam", "mse").rehearse(ROWS, Y, batch_size=2, steps=1).lines
    assert not any("embedding" in text and label == "note" for label, text in lines)
