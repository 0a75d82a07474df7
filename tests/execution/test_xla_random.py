"""Random numbers in XLA are those that TensorFlow's kernels draw from the same seed."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import looplab
from looplab.execution.xla_random import as_outside_xla
from tests.conftest import make_strategy

KINDS = "float32", "float16", "bfloat16", "float64"
X = np.linspace(-1, 1, 40, dtype="float32").reshape(10, 4)


def in_xla(draw):
    def traced(seed):
        with as_outside_xla():
            return draw(seed)

    return tf.function(traced, jit_compile=True)


@pytest.mark.share(1)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("draw", [tf.random.stateless_uniform, tf.random.stateless_normal])
def test_numbers_of_every_type_are_those_of_the_kernels(draw, kind):
    def both(seed):
        return [tf.cast(draw(shape, seed, dtype=kind), tf.float64) for shape in ([], [3, 5], [2, 1, 400])]

    compiled = in_xla(both)

    @settings(max_examples=10, deadline=None)
    @given(st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**31 - 1)))
    def check(seed):
        for own, kernel in zip(compiled(tf.constant(seed)), both(tf.constant(seed)), strict=True):
            # Uniform numbers are the same bits; of normal ones XLA rounds sine and logarithm for itself.
            exact = draw is tf.random.stateless_uniform
            tolerance = 0 if exact else {"float16": 4e-3, "bfloat16": 4e-2}.get(kind, 4e-6)
            np.testing.assert_allclose(own, kernel, rtol=tolerance, atol=tolerance)

    check()


def test_outside_the_block_nothing_is_changed():
    before = tf.random.stateless_uniform([2], [1, 2]).numpy()
    with pytest.raises(ZeroDivisionError), as_outside_xla():
        1 / 0  # noqa: B018
    np.testing.assert_array_equal(tf.random.stateless_uniform([2], [1, 2]).numpy(), before)


class Noisy(looplab.Trainer):
    """Adds noise of its own, and trains through Dropout."""

    def setup(self):
        self.seeds = keras.random.SeedGenerator(5)

    def compute_loss(self, batch, training):
        noise = keras.random.normal(keras.ops.shape(batch), seed=self.seeds)
        return self.model(batch + noise, training=training)[:, 0] ** 2


def trained(execution, replicas):
    def model():
        dropout = keras.layers.Dropout(0.5)
        return keras.Sequential([keras.layers.Dense(64, "relu"), dropout, keras.layers.Dense(1)])

    trainer = Noisy(model, "sgd", execution=execution, strategy=make_strategy(replicas))
    losses = trainer.fit(X, batch_size=4, epochs=3, verbose=0).history["loss"]
    return losses, trainer.model.get_weights()


@pytest.mark.slow
@pytest.mark.promise(39)
@pytest.mark.parametrize(
    ("execution", "replicas"),
    [pytest.param("xla_step", 1, marks=pytest.mark.slow), ("xla_loop", 1), ("xla_step", 2)],
)
def test_masks_and_noise_of_a_step_do_not_depend_on_how_it_is_run(execution, replicas):
    losses, weights = trained(execution, replicas)
    expected_losses, expected = trained("graph", replicas)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for own, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-6)
