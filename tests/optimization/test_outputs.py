"""Losses, weights and metrics of several outputs as Keras takes them; `model.fit` is the oracle."""

import keras
import numpy as np
import pytest

import looplab
from looplab.optimization.outputs import outputs_of, spread

RNG = np.random.default_rng(0)
X, A, B = (RNG.normal(size=(10, width)) for width in (4, 1, 3))
W, V = RNG.integers(0, 3, (2, 10)) / 2
Dense = keras.layers.Dense


def heads():
    hidden = (inputs := keras.Input((4,))), Dense(5, "tanh", kernel_regularizer="l2")(inputs)
    return inputs, Dense(1, name="a")(hidden[1]), Dense(3, name="b")(hidden[1])


def a_list():
    inputs, a, b = heads()
    return keras.Model(inputs, [a, b])


def a_dict():
    inputs, a, b = heads()
    return keras.Model(inputs, {"b": b, "a": a})


def nested():
    inputs, a, b = heads()
    return keras.Model(inputs, {"z": a, "y": [b, a]})


def only():
    inputs, a, _ = heads()
    return keras.Model(inputs, a)


class Added(keras.Model):
    """A loss that is the model's own, such as that of an autoencoder."""

    def __init__(self):
        super().__init__()
        self.dense = Dense(4, kernel_regularizer="l2")
        self.build((None, 4))

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs):
        outputs = self.dense(inputs)
        self.add_loss(keras.ops.mean((outputs - inputs) ** 2))
        return outputs


EACH = {"a": A, "b": B}
CASES = {
    "a list": (
        a_list,
        [A, B],
        {"loss": ["mse", "mae"], "loss_weights": [1.0, 0.5], "metrics": ["mse", "mae"]},
    ),
    "a list, targets in a tuple": (
        a_list,
        (A, B),
        {"loss": ["mse", "mae"], "metrics": [["mae", "mse"], None]},
    ),
    "a list by name": (a_list, EACH, {"loss": {"a": "mse", "b": "mae"}, "metrics": {"b": "mse"}}),
    "a list, targets of the losses": (a_list, [B], {"loss": [None, "mse"]}),
    "one loss for all": (a_list, [A, B], {"loss": "mse", "loss_weights": 0.5}),
    "a dict": (a_dict, EACH, {"loss": {"a": "mse", "b": "mae"}, "loss_weights": {"a": 2.0, "b": 0.5}}),
    "a dict, one with a loss": (a_dict, EACH, {"loss": {"b": "mse"}, "metrics": {"a": ["mae"]}}),
    "nested": (nested, {"z": A, "y": [B, A]}, {"loss": {"z": "mse", "y": ["mae", "mse"]}}),
    "one, in lists": (only, A, {"loss": ["mse"], "loss_weights": [2.0], "metrics": [["mae"]]}),
    "one, by name": (only, A, {"loss": {"a": "huber"}, "metrics": {"a": ["mae"]}}),
    "crossentropy": (only, (A > 0) * 1.0, {"loss": "crossentropy", "metrics": ["acc"]}),
    "add_loss alone": (Added, None, {}),
    "weighted": (only, A, {"loss": "mse", "metrics": ["mae"], "weighted_metrics": ["mae", "mse"]}, W),
    "weighted, all alike": (
        a_list,
        [A, B],
        {"loss": "mse", "metrics": [["mae"], []], "weighted_metrics": [["mae"], ["mae"]]},
        W,
    ),
    "weighted, each": (
        a_dict,
        EACH,
        {"loss": {"a": "mse", "b": "mse"}, "weighted_metrics": {"a": ["mae"], "b": ["mse"]}},
        {"a": W, "b": V},
    ),
}


def by_keras(build, y, arguments, weights, **fit):
    """Returns the weights before and after, and the history, of `model.fit` in float64."""
    keras.config.set_floatx("float64")
    try:
        model = build()
        before = model.get_weights()
        # Eagerly: for so few steps it takes less time than graphs.
        model.compile(keras.optimizers.SGD(0.125, momentum=0.5), **arguments, run_eagerly=True)
        data = {"x": X, "y": y, "sample_weight": weights, "batch_size": 5, "shuffle": False, "verbose": 0}
        held = (X, X if y is None else y) if weights is None else (X, y, weights)
        history = model.fit(**data, epochs=2, validation_data=None if y is None else held, **fit)
        return before, model.get_weights(), history.history
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.share(1)
@pytest.mark.parametrize("case", CASES)
def test_losses_weights_and_metrics_are_those_of_model_fit(case):
    build, y, arguments, weights = (*CASES[case], None)[:4]
    before, expected, theirs = by_keras(build, y, arguments, weights)
    trainer = looplab.Trainer(
        build, lambda: keras.optimizers.SGD(0.125, momentum=0.5), **arguments, precision="float64"
    )
    trainer.model.set_weights(before)
    held = None if y is None else (X, y) if weights is None else (X, y, weights)
    data = {"sample_weight": weights, "batch_size": 5, "shuffle": False, "verbose": 0}
    ours = trainer.fit(X, y, **data, epochs=2, validation_data=held).history
    for left, right in zip(trainer.model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-12)
    assert set(theirs) <= set(ours)
    assert {name.removeprefix("val_") for name in set(ours) - set(theirs)} <= {
        "learning_rate",
        "regularization",
    }
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=1e-5, err_msg=name)  # Keras averages in float32


@pytest.mark.slow
def test_weighted_metrics_are_the_same_on_replicas_with_ragged_batches():
    def run(strategy):
        build, y, arguments, weights = CASES["weighted, each"]
        trainer = looplab.Trainer(build, "sgd", **arguments, strategy=strategy, precision="float64")
        return trainer.fit(
            X, y, sample_weight=weights, batch_size=7, epochs=2, shuffle=False, verbose=0
        ).history

    one, two = run("one_device"), run(looplab.strategy.simulated(2))
    assert one.keys() == two.keys() >= {"a_mae", "b_mse", "a_loss"}
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=1e-6)


@pytest.mark.slow
def test_class_weights_count_in_weighted_metrics_alone():
    x, y = RNG.normal(size=(12, 4)), RNG.integers(0, 2, (12, 1)).astype("float64")
    arguments = {"loss": "binary_crossentropy", "metrics": ["mae"], "weighted_metrics": ["mae"]}

    def build():
        return keras.Sequential([keras.Input((4,)), Dense(1, "sigmoid", kernel_initializer="ones")])

    fit = {"batch_size": 5, "epochs": 1, "shuffle": False, "verbose": 0, "class_weight": {0: 1.0, 1: 4.0}}
    model = build()
    model.compile("sgd", **arguments, run_eagerly=True)
    expected = model.fit(x, y, **fit).history
    found = looplab.Trainer(build, "sgd", **arguments).fit(x, y, **fit).history
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)
    assert found["mae"] != found["weighted_mae"]


REFUSED = {
    "a list for names": (
        a_dict,
        EACH,
        {"loss": ["mse", "mae"]},
        "loss: a list has an order, and .*names: 'a'",
    ),
    "targets in a list for names": (
        a_dict,
        [A, B],
        {"loss": {"a": "mse", "b": "mse"}},
        "targets: a tuple has an order",
    ),
    "too few": (a_list, [A, B], {"loss": ["mse", "mae", "mse"]}, "loss: a list of 3 for 2 outputs, 'a', 'b'"),
    "two for one": (only, A, {"loss": ["mse", "mae"]}, "loss: a list of 2 for a model with one output"),
    "a wrong name": (only, A, {"loss": {"c": "mse"}}, r"there is no output or target 'c'; there are \['a'\]"),
    "metrics for all": (a_list, [A, B], {"loss": "mse", "metrics": ["mse"]}, "metrics: a list of 1 for 2"),
    "a metric of a wrong name": (
        a_list,
        [A, B],
        {"loss": "mse", "metrics": {"c": "mse"}},
        "no output .* 'c'",
    ),
    "twice": (only, A, {"loss": "mse", "metrics": ["mae", "mae"]}, "two values would be called 'mae'"),
    "one number": (a_list, [A, B], {"loss": ["mse", "mae"], "loss_weights": 2.0}, "2.0 for several losses"),
    "too many numbers": (a_list, [A, B], {"loss": "mse", "loss_weights": [1.0, 2.0]}, "beside one loss"),
    "numbers for nothing": (only, A, {"loss_weights": 2.0}, "there is no loss"),
    "penalties alone": (only, A, {}, "Trainer has no loss"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_fits_no_output_is_refused_by_name(case):
    build, y, arguments, says = REFUSED[case]
    with pytest.raises(looplab.ConfigurationError, match=says):
        looplab.Trainer(build, "sgd", **arguments).fit(X, y, epochs=1, verbose=0)


def test_a_loss_that_no_step_uses_is_refused():
    class Own(looplab.Trainer):
        def compute_loss(self, batch, training):
            return self.model(batch[0], training=training)[:, 0] ** 2

    class Adds(looplab.Trainer):
        def compute_loss(self, batch, training):
            own = super().compute_loss(batch, training)
            return {"mine": own, "more": self.model(batch[0], training=training)[:, 0] ** 2}

    with pytest.raises(
        looplab.ConfigurationError, match=r"loss: it has no effect, because Own\.compute_loss"
    ):
        Own(only, "sgd", "mse").fit(X, A, epochs=1, verbose=0)
    assert {"mine", "more"} < Adds(only, "sgd", "mse").fit(X, A, epochs=1, verbose=0).history.keys()
    with pytest.raises(looplab.ConfigurationError, match="metrics: nothing gives them targets"):
        Own(only, "sgd", metrics=["mae"]).fit(X, A, epochs=1, verbose=0)


def test_outputs_have_the_names_that_keras_logs():
    def named(predictions, names=()):
        return [output.name for output in outputs_of(predictions, names)]

    assert named([1, 2], ("a", "b")) == ["a", "b"] and named([1, 2]) == ["output_1", "output_2"]
    assert named({"b": [1, 2], "a": 3}, ("p", "q", "r")) == ["a", "b/q", "b/r"]
    assert named([1, 2], ("a", "a")) == ["a", "a_1"]  # a layer that is called twice
    outputs = outputs_of([1, [2, 3]], ("a", "b", "c"))
    assert [*spread(["x", ["y", None]], outputs, "loss").values()] == ["x", "y"]


def test_two_losses_of_one_output_are_refused_by_name():
    def model():
        inputs = keras.Input((3,))
        return keras.Model(inputs, {"a": keras.layers.Dense(1)(inputs)})

    x = np.ones((4, 3), "float32")
    with pytest.raises(looplab.ConfigurationError, match="loss: the output 'a' has 2 losses"):
        looplab.Trainer(model, "sgd", {"a": ["mse", "mae"]}).fit(x, {"a": x[:, :1]}, verbose=0)


def test_one_layer_as_three_outputs_and_one_target_for_the_only_loss():
    inputs = keras.Input((4,))
    x = Dense(1, name="same")(inputs)
    model = keras.Model(inputs, [x, x, x])
    assert [each.name for each in outputs_of([x, x, x], ["same"] * 3)] == ["same", "same_1", "same_2"]
    model.compile("sgd", loss=["mse", None, None])
    one = looplab.Trainer(model).evaluate(X, A)["loss"]
    model.compile("sgd", loss=["mse"] * 3)
    assert looplab.Trainer(model).evaluate(X, [A] * 3)["loss"] == pytest.approx(3 * one)
