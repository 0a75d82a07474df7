"""Losses by output with weights, and clipping of each kind, as `model.fit` on one device does them."""

import keras
import numpy as np
import pytest

import looplab
from tests.conftest import make_strategy

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 4))  # whole batches: Keras does not weight the parts it logs by their size
TARGETS = {"size": RNG.normal(size=(16, 1)), "kind": RNG.integers(0, 3, 16)}


def network():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, "tanh", kernel_regularizer="l2")(inputs)
    return keras.Model(
        inputs, {"size": keras.layers.Dense(1)(hidden), "kind": keras.layers.Dense(3, "softmax")(hidden)}
    )


LOSSES = {"size": "mse", "kind": "sparse_categorical_crossentropy"}


def by_keras(**arguments):
    """Returns initial weights, final weights, and the history of `model.fit` in float64."""
    keras.config.set_floatx("float64")
    try:
        model = network()
        initial = model.get_weights()
        optimizer = keras.optimizers.SGD(0.25, **arguments.pop("optimizer", {}))
        model.compile(optimizer=optimizer, **arguments, run_eagerly=True)
        history = model.fit(X, TARGETS, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return initial, model.get_weights(), history.history
    finally:
        keras.config.set_floatx("float32")


def by_looplab(initial, optimizer=None, **arguments):
    trainer = looplab.Trainer(
        network, lambda: keras.optimizers.SGD(0.25, **(optimizer or {})), precision="float64", **arguments
    )
    trainer.model.set_weights(initial)
    history = trainer.fit((X, TARGETS), batch_size=8, epochs=2, shuffle=False, verbose=0)
    return trainer.model.get_weights(), history.history


@pytest.mark.share(1)
@pytest.mark.parametrize("weights", [None, {"size": 0.25, "kind": 1}, {"size": 2, "kind": 0.0}])
def test_loss_weights_mean_what_they_mean_in_keras(weights):
    strategy = make_strategy(2)
    initial, expected, theirs = by_keras(loss=LOSSES, loss_weights=weights)
    found, ours = by_looplab(initial, loss=LOSSES, loss_weights=weights, strategy=strategy)
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-12)
    np.testing.assert_allclose(ours["size_loss"], theirs["size_loss"], rtol=1e-6)  # logged without the weight
    np.testing.assert_allclose(ours["kind_loss"], theirs["kind_loss"], rtol=1e-6)
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-6)


@pytest.mark.share(1)
@pytest.mark.parametrize("setting", ["clipvalue", "clipnorm", "global_clipnorm"])
def test_p07_clipping_is_of_the_whole_gradient(setting):
    clip, strategy = {setting: 0.0625}, make_strategy(2)
    initial, expected, _ = by_keras(loss=LOSSES, optimizer=clip)
    found, _ = by_looplab(initial, clip, loss=LOSSES, strategy=strategy)
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "weights", "says"),
    [
        ("mse", {"size": 1.0}, "a dict of losses"),
        (LOSSES, [1.0, 2.0], "a dict of losses"),
        (LOSSES, {"sise": 1.0}, "Did you mean 'size'"),
        (LOSSES, {"size": "much"}, "expected a number for 'size'"),
    ],
)
def test_weights_of_nothing_are_refused(loss, weights, says):
    with pytest.raises(looplab.ConfigurationError, match=says):
        looplab.Trainer(network, "sgd", loss, loss_weights=weights)


def test_a_loss_of_an_output_that_is_not_there_is_refused():
    with pytest.raises(looplab.ConfigurationError, match=r"no output or target 'sise'.*Did you mean 'size'"):
        looplab.Trainer(network, "sgd", {"sise": "mse"}).fit((X, TARGETS), verbose=0)
