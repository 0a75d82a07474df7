"""What `step` is, and what counts in it: once per train_step, whatever that does inside."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from tests.conftest import make_strategy

X = np.linspace(-1, 1, 20, dtype="float32").reshape(10, 2)
RATE = 0.5


def model():
    return keras.Sequential([keras.layers.Dense(1)])


class Twice(looplab.Trainer):
    """Two updates a step by one optimizer, one more by another, which is due at every other step."""

    def train_step(self, batch):
        for _ in range(2):
            logs = self.minimize(self.compute_loss, batch, "a")
        due = self.step % 2 == 0
        return {**logs, **self.minimize(self.other, batch, "b", when=due)}

    def compute_loss(self, batch, training):
        return self.models["a"](batch)[:, 0] ** 2

    def other(self, batch, training):
        return self.models["b"](batch)[:, 0] ** 2


class Seen(looplab.Callback):
    """Notes step and learning rates after every step, and halves the rates once."""

    every = 1

    def __init__(self):
        self.steps, self.rates = [], []

    def on_step(self, event, controls):
        self.steps.append(event.step)
        self.rates.append([float(event.optimizers[name].learning_rate) for name in ("a", "b")])
        if event.step == 3:
            controls.scale_learning_rate(0.5)


def decay():
    return keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(RATE, 1, 0.5))


@pytest.fixture(scope="module", params=[1, 3], ids=["whole", "micro_batches"])
def trained(request):
    seen = Seen()
    trainer = Twice(
        models={"a": model, "b": model},
        optimizers={"a": decay, "b": decay},
        micro_batches=request.param,
        callbacks=[seen],
    )
    trainer.fit(X, batch_size=2, steps=7, verbose=0)
    return trainer, seen


@pytest.mark.share(1)
@pytest.mark.promise(35)
def test_the_step_rises_by_one_whatever_a_step_does(trained):
    trainer, seen = trained
    assert seen.steps == [1, 2, 3, 4, 5, 6, 7]
    assert int(trainer.step.numpy()) == 7


@pytest.mark.promise(36)
def test_the_rate_is_that_of_the_step_times_the_saved_factor(trained):
    """Also for an optimizer that made two updates a step, and one that left out every other."""
    _, seen = trained
    expected = [RATE * 0.5**step * (0.5 if step > 3 else 1.0) for step in range(1, 8)]
    for rates in zip(*seen.rates, strict=True):
        np.testing.assert_allclose(rates, expected)


@pytest.mark.share(1)
@pytest.mark.promise(34)
@pytest.mark.parametrize("micro_batches", [1, pytest.param(2, marks=pytest.mark.slow), 5])
def test_micro_batches_move_no_interval(micro_batches):
    class At(looplab.Callback):
        every = "3st"

        def __init__(self):
            self.at = []

        def on_step(self, event, controls):
            self.at.append(("step", event.step))

        def on_evaluate(self, event, controls):
            self.at.append(("evaluated", event.step))

        def on_save(self, event, controls):
            self.at.append(("saved", event.step))

    at = At()
    trainer = looplab.Trainer(model, "sgd", "mse", micro_batches=micro_batches, callbacks=[at])
    trainer.fit(
        (X, X[:, :1]), validation_data=(X, X[:, :1]), validation_freq="4st", batch_size=5, epochs=5, verbose=0
    )
    expected = [("step", s) for s in (3, 6, 9)] + [("evaluated", s) for s in (4, 8, 10)]
    assert sorted(at.at, key=lambda each: each[1]) == sorted(expected, key=lambda each: each[1])


class Noisy(looplab.Trainer):
    """Draws without a seed."""

    def compute_loss(self, batch, training):
        noise = keras.random.normal(tf.shape(batch))
        return tf.reduce_mean(self.model(batch + noise, training=training) ** 2, -1)


@pytest.mark.share(1)
@pytest.mark.parametrize("options", [{"execution": "graph"}, {"run_eagerly": True}], ids=str)
def test_random_numbers_without_a_seed_are_of_the_trainer_also_on_replicas(options):
    weights = []
    for replicas in (1, 2):
        keras.utils.clear_session()
        keras.random.normal((1,))  # Keras has its global generator
        trainer = Noisy(
            lambda: keras.Sequential([keras.layers.Dense(1)]),
            "sgd",
            strategy=make_strategy(replicas),
            **options,
        )
        trainer.fit(np.ones((4, 3), "float32"), batch_size=4, verbose=0)
        assert "loop/keras_random/seed_generator_state" in trainer._engine.variables
        weights.append(trainer.model.get_weights()[0])
    assert np.allclose(*weights, rtol=1e-5)


@pytest.mark.parametrize("options", [{"execution": "graph"}, {"run_eagerly": True}], ids=str)
def test_a_variable_of_a_layer_that_is_not_built_is_refused(options):
    class Partly(looplab.Trainer):
        def train_step(self, batch):
            return self.minimize(self.compute_loss, batch, variables=[self.model.layers[0].kernel])

        def compute_loss(self, batch, training):
            return tf.reduce_mean(self.model(batch, training=training) ** 2, -1)

    trainer = Partly(lambda: keras.Sequential([keras.layers.Dense(1)]), "sgd", **options)
    with pytest.raises(looplab.ConfigurationError, match=r"(?s)not built yet: .*kernel.*keras\.Input"):
        trainer.fit(np.ones((4, 3), "float32"), verbose=0)
