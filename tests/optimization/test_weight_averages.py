"""Evaluation, predictions and checkpoints of averaged weights (`use_ema`)."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from tests.conftest import make_strategy

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 3)), RNG.normal(size=(20, 1))
MOMENTUM = 0.75


def network():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def make(strategy="auto", **more):
    def optimizer():
        return keras.optimizers.SGD(0.25, use_ema=True, ema_momentum=MOMENTUM)

    return looplab.Trainer(network, optimizer, "mse", strategy=strategy, precision="float64", **more)


def mse(weights, x=X, y=Y):
    kernel, bias = weights
    return float(np.mean((x @ kernel + bias - y) ** 2))


class Weights(looplab.Callback):
    """The weights at every step, and what each evaluation said."""

    def __init__(self):
        self.weights, self.evaluated = [], []

    def on_step(self, event, controls):
        self.weights.append(event.models["model"].get_weights())

    def on_evaluate(self, event, controls):
        self.evaluated.append(dict(event.values))


def averaged(weights):
    """Keras' definition: the first weights, and then a moving average."""
    average = weights[0]
    for after in weights[1:]:
        average = [MOMENTUM * a + (1 - MOMENTUM) * w for a, w in zip(average, after, strict=True)]
    return average


@pytest.mark.slow
def test_evaluations_are_of_the_averages_and_the_raw_ones_stand_beside():
    seen = Weights()
    trainer = make(make_strategy(2), callbacks=[seen])
    history = trainer.fit((X, Y), validation_data=(X, Y), batch_size=8, epochs=2, verbose=0)
    raw = trainer.model.get_weights()
    np.testing.assert_array_equal(raw[0], seen.weights[-1][0])
    for step, values in zip((3, 6), seen.evaluated, strict=True):
        assert values["loss"] == pytest.approx(mse(averaged(seen.weights[:step])), rel=1e-9)
        assert values["raw_loss"] == pytest.approx(mse(seen.weights[step - 1]), rel=1e-9)
    assert history.history["val_raw_loss"][-1] == pytest.approx(mse(raw), rel=1e-9)
    average = averaged(seen.weights)
    np.testing.assert_allclose(trainer.predict(X), X @ average[0] + average[1], rtol=1e-9)
    assert trainer.evaluate((X, Y), batch_size=8) == seen.evaluated[-1]
    with trainer.averaged_weights():
        np.testing.assert_allclose(trainer.model.get_weights()[0], average[0], rtol=1e-12)
    for before, after in zip(raw, trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_averages_are_those_of_model_fit():
    keras.config.set_floatx("float64")
    try:
        reference = network()
        initial = reference.get_weights()
        optimizer = keras.optimizers.SGD(0.25, use_ema=True, ema_momentum=MOMENTUM)
        reference.compile(optimizer, "mse", run_eagerly=True)
        reference.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)  # ends with the averages
    finally:
        keras.config.set_floatx("float32")
    trainer = make()
    trainer.model.set_weights(initial)
    trainer.fit((X, Y), batch_size=8, epochs=2, shuffle=False, verbose=0)
    with trainer.averaged_weights():
        for own, theirs in zip(trainer.model.get_weights(), reference.get_weights(), strict=True):
            np.testing.assert_allclose(own, theirs, atol=1e-12)


@pytest.mark.slow
def test_a_run_directory_is_evaluated_with_its_averages(tmp_path):
    trainer = make(run_dir=tmp_path)
    trainer.fit((X, Y), batch_size=8, epochs=2, verbose=0)
    expected, predicted = trainer.evaluate((X, Y)), trainer.predict(X)
    raw = trainer.model.get_weights()
    later = make(run_dir=tmp_path)
    assert later.evaluate((X, Y)) == expected
    np.testing.assert_array_equal(later.predict(X), predicted)
    np.testing.assert_array_equal(later.model.get_weights()[0], raw[0])
    rehearsed = make(run_dir=tmp_path)
    rehearsed.rehearse((X, Y), batch_size=8)  # builds the optimizer
    assert rehearsed.evaluate((X, Y)) == expected


def test_the_best_checkpoint_is_that_of_the_averages_and_resume_is_exact(tmp_path):
    whole = make(run_dir=tmp_path / "whole")
    whole.fit((X, Y), validation_data=(X, Y), batch_size=8, epochs=4, verbose=0)
    make(run_dir=tmp_path / "parts").fit((X, Y), validation_data=(X, Y), batch_size=8, epochs=1, verbose=0)
    parts = make(run_dir=tmp_path / "parts")
    parts.fit((X, Y), validation_data=(X, Y), batch_size=8, epochs=4, verbose=0)
    for left, right in zip(whole._engine.variables.values(), parts._engine.variables.values(), strict=True):
        np.testing.assert_array_equal(left.numpy(), right.numpy())
    policy = looplab.CheckpointPolicy(monitor="val_raw_loss")
    make(checkpoint=policy).fit((X, Y), validation_data=(X, Y), epochs=1, verbose=0)


def test_weights_come_back_when_an_evaluation_fails():
    class Failing(looplab.Trainer):
        def test_step(self, batch):
            tf.debugging.assert_less(self.step, tf.constant(0, tf.int64), "on purpose")
            return super().test_step(batch)

    trainer = Failing(network, lambda: keras.optimizers.SGD(0.25, use_ema=True), "mse")
    trainer.fit((X, Y), batch_size=8, epochs=2, verbose=0)
    before = trainer.model.get_weights()
    with pytest.raises(Exception, match="on purpose"):
        trainer.evaluate((X, Y))
    for left, right in zip(before, trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


class Scaled(looplab.Trainer):
    """Trains variables of its own beside the model; two have the same name."""

    def setup(self):
        self.scale, self.shift = (tf.Variable(1.0, dtype="float64") for _ in range(2))

    def train_step(self, batch):
        variables = [*self.model.trainable_variables, self.scale, self.shift]
        return self.minimize(self.compute_loss, batch, variables=variables)

    def compute_loss(self, batch, training):
        x, y = batch
        return tf.reduce_mean((self.model(x, training=training) * self.scale + self.shift - y) ** 2, axis=-1)


def make_scaled(run_dir):
    def optimizer():
        return keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=MOMENTUM)

    return Scaled(network, optimizer, precision="float64", run_dir=run_dir)


@pytest.mark.slow
def test_averages_of_variables_outside_of_models_are_found_again(tmp_path):
    trainer = make_scaled(tmp_path)
    trainer.fit((X, Y), batch_size=8, epochs=2, verbose=0)
    expected = trainer.evaluate((X, Y))
    assert expected["loss"] != expected["raw_loss"]
    assert make_scaled(tmp_path).evaluate((X, Y)) == expected
    saved = looplab.checkpoint.read(tmp_path / "checkpoints" / "step-00000006")
    for name in ("scale", "shift"):
        average = saved[f"optimizers/optimizer/trainer/{name}/average"]
        with trainer.averaged_weights():
            np.testing.assert_array_equal(getattr(trainer, name).numpy(), average)
    rehearsed = make_scaled(tmp_path)
    rehearsed.rehearse((X, Y), batch_size=8)
    assert rehearsed.evaluate((X, Y)) == expected


def test_the_plan_says_that_weights_are_averaged_and_what_the_model_keeps():
    lines = dict(make().rehearse((X, Y), batch_size=8).lines)
    assert lines["averages"].startswith("weights averaged with momentum 0.75, for evaluation")
    assert "a trainer's model keeps the raw weights when training ends" in lines["averages"]


def test_a_keras_callback_sees_the_averages_when_training_ends_as_in_model_fit():
    seen = []
    callback = keras.callbacks.LambdaCallback(
        on_train_end=lambda logs: seen.append(trainer.model.get_weights())
    )
    trainer = make(callbacks=[callback])
    trainer.fit((X, Y), batch_size=8, epochs=2, verbose=0)
    raw = trainer.model.get_weights()
    with trainer.averaged_weights():
        np.testing.assert_array_equal(seen[0][0], trainer.model.get_weights()[0])
    assert not np.array_equal(seen[0][0], raw[0])


def test_weights_that_a_keras_callback_sets_when_training_ends_are_weights_and_averages():
    def zero(logs):
        trainer.model.layers[0].bias.assign([0.0])

    trainer = make(callbacks=[keras.callbacks.LambdaCallback(on_train_end=zero)])
    trainer.fit((X, Y), batch_size=8, epochs=1, verbose=0)
    kernel, bias = trainer.model.get_weights()
    with trainer.averaged_weights():
        averaged_kernel, averaged_bias = trainer.model.get_weights()
    assert bias == averaged_bias == 0
    assert not np.array_equal(kernel, averaged_kernel)
