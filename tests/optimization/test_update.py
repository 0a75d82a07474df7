"""The update against a NumPy oracle in float64 that sees the whole batch at once."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import looplab
from tests.conftest import make_strategy

FEATURES = 3


class LinearOracle:
    """SGD with momentum on a linear model with squared error, an L2 penalty and a norm limit."""

    def __init__(self, kernel, *, rate=0.25, momentum=0.5, penalty=0.0, limit=None):
        self.kernel, self.velocity = kernel.copy(), np.zeros_like(kernel)
        self.rate, self.momentum, self.penalty, self.limit = rate, momentum, penalty, limit

    def step(self, x, y, weights, divisor):
        error = x @ self.kernel - y
        loss = (weights * error[:, 0] ** 2).sum() / divisor if divisor else 0.0
        gradient = 2 * x.T @ (weights[:, None] * error) / divisor if divisor else 0 * self.kernel
        loss += self.penalty * (self.kernel**2).sum()
        gradient = gradient + 2 * self.penalty * self.kernel
        norm = np.sqrt((gradient**2).sum())
        if self.limit is not None and norm > self.limit:
            gradient = gradient * self.limit / norm
        self.velocity = self.momentum * self.velocity - self.rate * gradient
        self.kernel = self.kernel + self.velocity
        return loss


def linear(penalty=0.0):
    regularizer = keras.regularizers.L2(penalty) if penalty else None
    dense = keras.layers.Dense(1, use_bias=False, kernel_regularizer=regularizer)
    return keras.Sequential([keras.Input((FEATURES,)), dense])


def make_data(seed, size):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(size, FEATURES)), rng.normal(size=(size, 1))
    return x, y, rng.integers(0, 3, size).astype("float64")


class Recorder(looplab.Callback):
    def __init__(self):
        self.losses = []

    def on_step(self, event, controls):
        self.losses.append(event.values["loss"])


CELLS = {
    "seed": st.integers(0, 1000),
    "size": st.integers(1, 23),
    "batch": st.integers(1, 9),
    "replicas": st.sampled_from([1, 2, 3, 4]),
    "micro": st.sampled_from([1, 2, 3]),
    "penalty": st.sampled_from([0.0, 0.125]),
    "limit": st.sampled_from([None, 0.25]),
    "reduction": st.sampled_from(["sum_over_batch_size", "mean_with_sample_weight", "sum"]),
    "weighted": st.booleans(),
}


@pytest.mark.promise(2)
@pytest.mark.promise(5)
@pytest.mark.promise(6)
@settings(max_examples=3)
@given(**CELLS)
def test_p01_any_split_makes_the_oracles_update(**cell):
    holds(**cell)


@pytest.mark.slow
@pytest.mark.promise(2)
@pytest.mark.promise(5)
@pytest.mark.promise(6)
@settings(max_examples=20)
@given(**CELLS)
def test_p01_so_do_many(**cell):
    holds(**cell)


def holds(seed, size, batch, replicas, micro, penalty, limit, reduction, weighted):
    x, y, weights = make_data(seed, size)
    used = weights if weighted else np.ones(size)
    recorder = Recorder()
    trainer = looplab.Trainer(
        lambda: linear(penalty),
        lambda: keras.optimizers.SGD(0.25, momentum=0.5, global_clipnorm=limit),
        keras.losses.MeanSquaredError(reduction=reduction, dtype="float64"),
        strategy=make_strategy(replicas),
        precision="float64",
        micro_batches=micro,
        callbacks=[recorder],
    )
    kernel = trainer.model.get_weights()[0]
    oracle = LinearOracle(kernel, penalty=penalty, limit=limit)
    data = (x, y, weights) if weighted else (x, y)
    trainer.fit(data, batch_size=batch, epochs=2, shuffle=False, verbose=0)
    expected = []
    for _ in range(2):
        for start in range(0, size, batch):
            part = slice(start, min(start + batch, size))
            divisor = {
                "sum_over_batch_size": len(used[part]),
                "mean_with_sample_weight": used[part].sum(),
                "sum": 1.0,
            }[reduction]
            expected.append(oracle.step(x[part], y[part], used[part], divisor))
    scale = max(1.0, np.abs(oracle.kernel).max())
    np.testing.assert_allclose(trainer.model.get_weights()[0], oracle.kernel, atol=1e-12 * scale, rtol=0)
    np.testing.assert_allclose(recorder.losses, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_p07_the_clipped_norm_is_the_limit_for_any_number_of_replicas(replicas):
    x, y, _ = make_data(0, 24)
    trainer = looplab.Trainer(
        linear,
        lambda: keras.optimizers.SGD(1.0, global_clipnorm=0.0625),
        "mse",
        strategy=make_strategy(replicas),
        precision="float64",
    )
    before = trainer.model.get_weights()[0]
    trainer.fit((x, 100 * y), batch_size=24, steps=1, verbose=0)
    assert np.linalg.norm(trainer.model.get_weights()[0] - before) == pytest.approx(0.0625, rel=1e-9)


class Weighted(looplab.Trainer):
    """Values with weights of several shapes, and two terms with different weights."""

    def compute_loss(self, batch, training):
        x, y, w = batch
        error = (self.model(x, training=training) - y) ** 2
        return {"plain": error[:, 0], "weighted": (error[:, 0], w)}


@pytest.mark.slow
@settings(max_examples=6)
@given(seed=st.integers(0, 99), size=st.integers(1, 17), batch=st.integers(1, 9), replicas=st.integers(1, 3))
def test_p09_the_loss_of_an_evaluation_is_that_of_the_whole_set(seed, size, batch, replicas):
    x, y, w = make_data(seed, size)
    w[0] = 1.0
    trainer = Weighted(lambda: linear(0.125), "sgd", strategy=make_strategy(replicas), precision="float64")
    found = trainer.evaluate((x, y, w), batch_size=batch)
    kernel = trainer.model.get_weights()[0]
    error = ((x @ kernel - y) ** 2)[:, 0]
    expected = error.mean() + (error * w).sum() / w.sum() + 0.125 * (kernel**2).sum()
    assert found["loss"] == pytest.approx(expected, rel=1e-10)
    named = Weighted(linear, "sgd", strategy=make_strategy(replicas), precision="float64")
    history = named.fit((x, y, w), batch_size=batch, shuffle=False, verbose=0, epochs=1).history
    assert history["loss"][0] == pytest.approx(history["plain"][0] + history["weighted"][0], rel=1e-10)


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("replicas", "micro"),
    [
        (1, 1),
        (2, 2),
        pytest.param(1, 2, marks=pytest.mark.slow),
        pytest.param(2, 1, marks=pytest.mark.slow),
    ],
)
def test_terms_with_different_weights_are_each_divided_by_their_own(replicas, micro):
    strategy = make_strategy(replicas)
    x, y, w = make_data(3, 10)
    trainer = Weighted(linear, "sgd", strategy=strategy, precision="float64", micro_batches=micro)
    trainer.optimizers["optimizer"].learning_rate = 0.5
    kernel = trainer.model.get_weights()[0]
    history = trainer.fit((x, y, w), batch_size=10, steps=1, shuffle=False, verbose=0)
    error = (x @ kernel - y)[:, 0]
    gradient = 2 * x.T @ (error / 10 + error * w / w.sum())[:, None]
    np.testing.assert_allclose(trainer.model.get_weights()[0], kernel - 0.5 * gradient, atol=1e-12)
    assert history.history["plain"][0] == pytest.approx((error**2).mean())
    assert history.history["weighted"][0] == pytest.approx((w * error**2).sum() / w.sum())
    total = history.history["plain"][0] + history.history["weighted"][0]
    assert history.history["loss"][0] == pytest.approx(total)


class BareMean(looplab.Trainer):
    def compute_loss(self, batch, training):
        return tf.reduce_mean((self.model(batch[0]) - batch[1]) ** 2)


class WeightedMean(looplab.Trainer):
    def compute_loss(self, batch, training):
        mean = tf.reduce_mean((self.model(batch[0]) - batch[1]) ** 2)
        return mean, tf.shape(batch[0])[0]


def test_a_bare_mean_is_refused_before_training_with_the_remedy():
    x, y, _ = make_data(0, 8)
    with pytest.raises(looplab.LossError, match=r"scalar.*return the values"):
        BareMean(linear, "sgd").fit((x, y), verbose=0)


@pytest.mark.slow
def test_a_mean_with_its_weight_is_as_good_as_values():
    strategy = make_strategy(2)
    x, y, _ = make_data(0, 7)
    weights = []
    for trainer_class in (WeightedMean, looplab.Trainer):
        loss = None if trainer_class is WeightedMean else "mse"
        trainer = trainer_class(linear, "sgd", loss, strategy=strategy, precision="float64")
        trainer.fit((x, y), batch_size=3, epochs=2, verbose=0)
        weights.append(trainer.model.get_weights()[0])
    np.testing.assert_allclose(*weights, atol=1e-14)


class Unreached(looplab.Trainer):
    def compute_loss(self, batch, training):
        return self.model.layers[0](batch)[:, 0] ** 2


def test_variables_that_no_gradient_reaches_are_named_once(caplog):
    def two():
        return keras.Sequential(
            [keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(1, name="last")]
        )

    trainer = Unreached(two, "sgd")
    before = trainer.model.get_weights()
    trainer.fit(np.ones((4, 2), "float32"), batch_size=2, epochs=2, verbose=0)
    assert [r.getMessage() for r in caplog.records if "gradient" in r.getMessage()] == [
        "no gradient reaches sequential/last/kernel, sequential/last/bias; the update leaves them as they are"
    ]
    moved = [not np.array_equal(a, b) for a, b in zip(before, trainer.model.get_weights(), strict=True)]
    assert moved == [True, True, False, False]


class Constant(looplab.Trainer):
    def compute_loss(self, batch, training):
        return batch[:, 0]


def test_a_loss_of_nothing_that_is_trained_is_refused():
    trainer = Constant(linear, "sgd")
    with pytest.raises(looplab.LossError, match=r"no gradient reaches .*kernel: the loss does not depend"):
        trainer.fit(np.ones((4, FEATURES), "float32"), batch_size=2, verbose=0)


class Reduced(looplab.Trainer):
    """One example in three on the last of several replicas."""

    def train_step(self, batch):
        logs = self.minimize(lambda rows, training: (self.model(rows) ** 2)[:, 0], batch)
        total = self.reduce(tf.reduce_sum(batch))
        mean = self.reduce(tf.reduce_mean(batch, axis=0), "mean")
        return {
            **logs,
            "total": total,
            "mean": mean[0],
            "rows": tf.cast(tf.shape(self.all_gather(batch))[0], "float32"),
        }


@pytest.mark.share(1)
@pytest.mark.promise(3)
@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow), 4])
def test_a_step_reduces_over_ragged_replicas(replicas):
    x = np.arange(9, dtype="float32").reshape(3, 3)
    trainer = Reduced(linear, "sgd", strategy=make_strategy(replicas))
    history = trainer.fit(x, batch_size=3, verbose=0).history
    assert (history["total"], history["mean"], history["rows"]) == ([36.0], [3.0], [3.0])
    with pytest.raises(looplab.ConfigurationError, match="reduce: 'max' is not one of 'sum', 'mean'"):
        trainer.reduce(1.0, "max")


class AcrossTheBatch(looplab.Trainer):
    separable = False


def test_a_loss_that_looks_across_the_batch_is_not_computed_in_pieces():
    AcrossTheBatch(linear, "sgd", "mse")
    with pytest.raises(
        looplab.ConfigurationError, match=r"the trainer is not separable.*Use micro_batches=1"
    ):
        AcrossTheBatch(linear, "sgd", "mse", micro_batches=2)
