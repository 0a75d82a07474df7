"""Optimizers that set weights to averages (`ema_overwrite_frequency`) or train one (`ScheduleFreeAdamW`)."""

import keras
import numpy as np
import pytest

import looplab
from looplab.strategy import precision

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 3)), RNG.normal(size=(20, 1))


def network():
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, "tanh", name="hidden"), keras.layers.Dense(1)]
    )


def overwriting(often=3):
    return keras.optimizers.SGD(
        0.25, momentum=0.5, use_ema=True, ema_momentum=0.75, ema_overwrite_frequency=often
    )


def schedule_free():
    # Numbers that float32 holds exactly, since Keras rounds others to it.
    return keras.optimizers.ScheduleFreeAdamW(
        0.125, beta_1=0.875, beta_2=0.9375, epsilon=2.0**-20, warmup_steps=4, weight_decay=0.0625
    )


class Seen(looplab.Callback):
    """The values of each evaluation."""

    def __init__(self):
        self.evaluated = []

    def on_evaluate(self, event, controls):
        self.evaluated.append(dict(event.values))


def fitted(optimizer, initial):
    """Returns what `model.fit` makes of a model; eagerly, where `ScheduleFreeAdamW` begins at the weights."""
    with precision.scope("float64"):
        model = network()
        model.set_weights(initial)
        model.compile(optimizer(), "mse", run_eagerly=True)
        model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        return model.get_weights(), model.evaluate(X, Y, verbose=0), model.predict(X, verbose=0)


def initial_weights():
    rng = np.random.default_rng(1)
    return [rng.normal(size=shape) for shape in ((3, 4), (4,), (4, 1), (1,))]


def make(optimizer, **more):
    return looplab.Trainer(network, optimizer, "mse", precision="float64", **more)


@pytest.mark.share(1)
@pytest.mark.parametrize("optimizer", [overwriting, schedule_free])
@pytest.mark.parametrize("how", ["plain", "guarded"])
def test_evaluations_and_predictions_use_the_weights_that_model_fit_ends_with(optimizer, how, strategy):
    weights, loss, predicted = fitted(optimizer, initial_weights())
    trainer = make(optimizer, strategy=strategy, on_nonfinite="skip" if how == "guarded" else "ignore")
    trainer.rehearse((X, Y), batch_size=4)  # builds the optimizer, for other weights
    trainer.model.set_weights(initial_weights())
    trainer.fit((X, Y), batch_size=4, epochs=2, shuffle=False, verbose=0)
    with trainer.averaged_weights():
        for own, theirs in zip(trainer.model.get_weights(), weights, strict=True):
            np.testing.assert_allclose(own, theirs, atol=1e-12)
    assert trainer.evaluate((X, Y))["loss"] == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(trainer.predict(X), predicted, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [overwriting, schedule_free])
def test_a_run_goes_on_exactly_and_its_directory_evaluates_the_same(optimizer, tmp_path, strategy):
    more = {"validation_data": (X, Y), "batch_size": 8, "verbose": 0}
    whole, seen = None, Seen()
    whole = make(optimizer, run_dir=tmp_path / "whole", strategy=strategy, callbacks=[seen])
    whole.fit((X, Y), epochs=4, **more)
    make(optimizer, run_dir=tmp_path / "parts", strategy=strategy).fit((X, Y), epochs=1, **more)
    parts = make(optimizer, run_dir=tmp_path / "parts", strategy=strategy)
    parts.fit((X, Y), epochs=4, **more)
    for left, right in zip(whole._engine.variables.values(), parts._engine.variables.values(), strict=True):
        np.testing.assert_array_equal(left.numpy(), right.numpy())
    later = make(optimizer, run_dir=tmp_path / "parts", strategy=strategy)
    assert later.evaluate((X, Y), batch_size=8) == seen.evaluated[-1]


@pytest.mark.slow
def test_first_weights_from_elsewhere_are_those_that_the_average_begins_at(tmp_path):
    file = tmp_path / "first.weights.h5"
    source = network()
    source.set_weights(initial_weights())
    source.save_weights(file)
    trainer = make(schedule_free, run_dir=tmp_path / "run", initialize_from=str(file))
    trainer.fit((X, Y), batch_size=4, epochs=2, shuffle=False, verbose=0)
    first = [np.asarray(w, "float32").astype("float64") for w in initial_weights()]
    for own, theirs in zip(trainer.model.get_weights(), fitted(schedule_free, first)[0], strict=True):
        np.testing.assert_allclose(own, theirs, atol=1e-12)


@pytest.mark.slow
def test_parameter_groups_leave_the_first_update_as_it_is():
    groups = {"all": {"match": "*", "learning_rate_scale": 1.0}}
    trainers = [make(schedule_free), make(schedule_free, parameter_groups=groups)]
    for trainer in trainers:
        trainer.rehearse((X, Y), batch_size=4)
        trainer.model.set_weights(initial_weights())
        trainer.fit((X, Y), batch_size=4, epochs=1, shuffle=False, verbose=0)
    for own, theirs in zip(*(trainer.model.get_weights() for trainer in trainers), strict=True):
        np.testing.assert_allclose(own, theirs, atol=1e-12)


class Alternating(looplab.Trainer):
    """One optimizer in two updates, of which the second is made in every other step only."""

    def train_step(self, batch):
        hidden, output = self.model.layers
        logs = self.minimize(self.compute_loss, batch, variables=hidden.trainable_variables)
        even = self.step % 2 == 0
        self.minimize(self.compute_loss, batch, variables=output.trainable_variables, when=even)
        return logs


@pytest.mark.slow
def test_an_update_that_is_not_made_overwrites_no_weights():
    """On several replicas it is made and taken back, also of weights that it does not train."""
    ends = []
    for strategy in ("auto", looplab.strategy.simulated(2)):
        trainer = Alternating(network, lambda: overwriting(2), "mse", precision="float64", strategy=strategy)
        trainer.model.set_weights(initial_weights())
        trainer.fit((X, Y), batch_size=4, epochs=2, shuffle=False, verbose=0)
        ends.append(trainer.model.get_weights())
    for one, two in zip(*ends, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-12)


def test_frozen_weights_are_never_overwritten(tmp_path):
    trainer = make(overwriting, run_dir=tmp_path)
    trainer.fit((X, Y), batch_size=4, epochs=1, verbose=0)
    before = trainer.model.layers[0].get_weights()[0]
    later = make(
        overwriting,
        run_dir=tmp_path,
        callbacks=[looplab.callbacks.Freeze("hidden")],
        allow_change=["callbacks"],
    )
    later.fit((X, Y), batch_size=4, epochs=2, verbose=0)
    np.testing.assert_array_equal(later.model.layers[0].get_weights()[0], before)
    with later.averaged_weights():
        assert not np.array_equal(later.model.layers[0].get_weights()[0], before)


@pytest.mark.slow
def test_the_plan_says_where_the_average_of_schedule_free_begins():
    lines = dict(make(schedule_free).rehearse((X, Y), batch_size=8).lines)
    assert "starts at the model's weights; in model.fit it starts at zeros" in lines["averages"]
    lines = dict(make(overwriting).rehearse((X, Y), batch_size=8).lines)
    assert "the weights become their averages every 3 updates" in lines["averages"]


def test_model_fit_in_a_graph_still_begins_at_zeros():
    """The plan says so; where Keras has mended it, the sentence goes."""
    model = network()
    model.set_weights(initial_weights())
    model.compile(keras.optimizers.ScheduleFreeAdamW(0.125, epsilon=0.0), "mse", jit_compile=False)
    model.fit(X[:4], Y[:4], batch_size=4, verbose=0)
    assert np.abs(model.layers[0].kernel.numpy()) == pytest.approx(0.125, rel=1e-5)
