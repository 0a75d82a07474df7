"""Gradients through a loop of the graph, of one objective and of several."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from tests.conftest import make_strategy

STEPS, FEATURES, RATE = 4, 2, 0.25


@tf.custom_gradient
def negated(x):
    return x, lambda dy: -dy


@tf.function
def squared(x):
    return tf.square(x)


def recurrent():
    layers = [keras.layers.LSTM(3), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((STEPS, FEATURES)), *layers])


class Several(looplab.Trainer):
    """Two terms with different weights, through what has a gradient of its own."""

    def compute_loss(self, batch, training):
        x, y, w = batch
        out = self.model(x, training=training)[:, 0]
        return {"plain": squared(out - y), "weighted": (tf.abs(negated(out)), w)}


def updated(model, data):
    """Returns the weights after one update by hand: a persistent tape, in Python."""
    x, y, w = (tf.constant(part) for part in data)
    with tf.GradientTape(persistent=True) as tape:
        out = model(x, training=True)[:, 0]
        plain = tf.reduce_mean((out - y) ** 2)
        weighted = tf.reduce_sum(tf.abs(negated(out)) * w) / tf.reduce_sum(w)
    weights = [variable.value for variable in model.trainable_variables]
    gradients = zip(tape.gradient(plain, weights), tape.gradient(weighted, weights), strict=True)
    return [(value - RATE * tf.add(*both)).numpy() for value, both in zip(weights, gradients, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "replicas", "micro_batches"),
    [
        ({"run_eagerly": True}, 1, 1),
        pytest.param({"execution": "graph"}, 1, 1, marks=pytest.mark.slow),
        ({"execution": "graph"}, 2, 2),
        pytest.param({"execution": "xla_step"}, 1, 2, marks=pytest.mark.slow),
        pytest.param({"execution": "xla_step"}, 2, 1, marks=pytest.mark.slow),
        ({"execution": "xla_loop"}, 1, 1),
    ],
)
def test_several_objectives_have_the_gradients_of_a_persistent_tape(options, replicas, micro_batches):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(7, STEPS, FEATURES)), rng.normal(size=7), rng.integers(1, 4, 7).astype("float64")
    trainer = Several(
        recurrent,
        lambda: keras.optimizers.SGD(RATE),
        strategy=make_strategy(replicas),
        micro_batches=micro_batches,
        precision="float64",
        **options,
    )
    expected = updated(trainer.model, data)
    trainer.fit(data, batch_size=7, steps=1, shuffle=False, verbose=0)
    for found, value in zip(trainer.model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_loop_of_the_graph_keeps_no_more_for_its_gradient_than_by_hand():
    x, y = tf.zeros([6, STEPS, FEATURES]), tf.zeros([6, 1])
    trainer = looplab.Trainer(recurrent, "sgd", "mse", execution="graph")
    model = trainer.model

    @tf.function
    def by_hand(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        return tape.gradient(loss, [variable.value for variable in model.trainable_variables])

    trainer.fit((x.numpy(), y.numpy()), batch_size=6, steps=1, verbose=0)
    ours, theirs = (
        trainer._engine.loops.of("train").graph((x, y)),
        by_hand.get_concrete_function(x, y).graph,
    )
    assert kept(ours) == kept(theirs) > 0


def kept(graph):
    """Returns how many tensors each turn of the loops of a graph keeps for later."""
    definition = graph.as_graph_def()
    nodes = [node for function in definition.library.function for node in function.node_def]
    return sum(node.op == "TensorListPushBack" for node in nodes)
