"""Parameter groups against NumPy oracles, and what is refused of them."""

import keras
import numpy as np
import pytest

import looplab
from looplab.optimization import ParameterGroup, read_groups
from looplab.optimization.parameter_groups import assign_groups
from tests.conftest import make_strategy

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=(12, 1))
GROUPS = {
    "kernels": {"match": ["*/kernel"], "learning_rate_scale": 0.5, "weight_decay": 0.25},
    "rest": ParameterGroup(weight_decay=0.0),
}


def network():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def gradients(kernel, bias):
    error = X @ kernel + bias - Y
    return [2 * X.T @ error / len(X), 2 * error.mean(axis=0)]


class Sgd:
    def __init__(self, momentum):
        self.momentum, self.velocity = momentum, 0.0

    def change(self, gradient, rate):
        self.velocity = self.momentum * self.velocity - rate * gradient
        return self.velocity


class Adam:
    def __init__(self):
        self.m = self.v = 0.0
        self.t = 0

    def change(self, gradient, rate):
        self.t += 1
        self.m = 0.75 * self.m + 0.25 * gradient
        self.v = 0.875 * self.v + 0.125 * gradient**2
        alpha = rate * np.sqrt(1 - 0.875**self.t) / (1 - 0.75**self.t)
        return -alpha * self.m / (np.sqrt(self.v) + 1e-3)


OPTIMIZERS = {
    "sgd": (lambda: keras.optimizers.SGD(0.125, momentum=0.5, weight_decay=0.5), lambda: Sgd(0.5)),
    "adamw": (
        lambda: keras.optimizers.AdamW(0.125, weight_decay=0.5, beta_1=0.75, beta_2=0.875, epsilon=1e-3),
        Adam,
    ),
}


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("kind", "mode", "replicas"),
    [
        ("sgd", "graph", 2),
        ("adamw", "graph", 2),
        ("adamw", "xla_step", 1),
        pytest.param("sgd", "graph", 1, marks=pytest.mark.slow),
        pytest.param("adamw", "graph", 1, marks=pytest.mark.slow),
        pytest.param("adamw", "xla_step", 2, marks=pytest.mark.slow),
    ],
)
def test_each_variable_is_updated_with_its_groups_rate_and_decay(kind, mode, replicas):
    optimizer, oracle = OPTIMIZERS[kind]
    trainer = looplab.Trainer(
        network,
        optimizer,
        "mse",
        strategy=make_strategy(replicas),
        precision="float64",
        execution=mode,
        parameter_groups=GROUPS,
    )
    weights = [w.copy() for w in trainer.model.get_weights()]
    trainer.fit((X, Y), batch_size=12, steps=4, shuffle=False, verbose=0)
    oracles = [oracle(), oracle()]
    for _ in range(4):
        for i, (gradient, scale, decay) in enumerate(
            zip(gradients(*weights), (0.5, 1), (0.25, 0), strict=True)
        ):
            rate = 0.125 * scale
            weights[i] = weights[i] * (1 - decay * rate) + oracles[i].change(gradient, rate)
    for own, expected in zip(trainer.model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-6 if kind == "adamw" else 1e-12)


@pytest.mark.slow
def test_groups_that_say_nothing_change_nothing():
    weights, strategy = [], make_strategy(2)
    for groups in (None, {"all": {}}):
        trainer = looplab.Trainer(
            network, lambda: keras.optimizers.AdamW(0.1), "mse", strategy=strategy, parameter_groups=groups
        )
        trainer.fit((X, Y), batch_size=5, epochs=2, verbose=0)
        weights.append(trainer.model.get_weights())
    for left, right in zip(*weights, strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_table_says_what_is_in_each_group():
    trainer = looplab.Trainer(network, "adamw", "mse", parameter_groups=GROUPS)
    lines = [text for label, text in trainer.rehearse((X, Y)).lines if label == "group"]
    assert lines == [
        "kernels: 1 variables, 3 parameters; learning rate x 0.5, weight decay 0.25",
        "rest: 1 variables, 1 parameters; learning rate x 1, weight decay 0",
    ]


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"a": {"match": "*/kernel"}}, "'dense/bias' is in no group"),
        (
            {"a": {"match": "*/kernel"}, "b": {"match": "dense/*"}},
            "'dense/kernel' is in several groups: a, b",
        ),
        (
            {"a": {"match": "*/kernle"}, "b": {}},
            "'\\*/kernle' matches no variable and no layer: variables are dense/kernel",
        ),
        ({"a": {}, "b": {}}, "a and b have no match"),
        ({"a": {"learning_rate": 1}}, "Did you mean 'learning_rate_scale'"),
        ({"a": {"learning_rate_scale": 0}}, "above 0.*Freeze"),
        ({"a": {"weight_decay": -1}}, "at least 0"),
    ],
)
def test_groups_that_cannot_be_meant_are_refused(groups, says):
    with pytest.raises(looplab.ConfigurationError, match=says):
        looplab.Trainer(network, "sgd", "mse", parameter_groups=groups).fit((X, Y), verbose=0)


def test_several_optimizers_have_groups_by_name():
    class Both(looplab.Trainer):
        def train_step(self, batch):
            return {**self.minimize(self.a, batch, "a"), **self.minimize(self.b, batch, "b")}

        def a(self, batch, training):
            return self.models["a"](batch[0])

        def b(self, batch, training):
            return self.models["b"](batch[0])

    def make(groups):
        names = ("a", "b")
        return Both(
            models=dict.fromkeys(names, network),
            optimizers={n: lambda: keras.optimizers.SGD(0.25) for n in names},
            parameter_groups=groups,
        )

    trainer = make({"b": {"kernels": {"match": "b/*/kernel", "learning_rate_scale": 2}, "rest": {}}})
    before = {name: model.get_weights() for name, model in trainer.models.items()}
    trainer.fit((X, Y), batch_size=12, steps=1, verbose=0)
    moved = [trainer.models[n].get_weights()[0] - before[n][0] for n in ("a", "b")]
    np.testing.assert_allclose(moved[1], 2 * moved[0], rtol=1e-4)
    with pytest.raises(looplab.ConfigurationError, match="under the name of an optimizer"):
        make({"c": {"all": {}}})


def test_a_pattern_of_a_layer_is_of_all_in_it():
    groups = read_groups({"stem": {"match": "stem"}, "bias": {"match": "head/bias"}, "rest": {}}, ["adam"])[
        "adam"
    ]
    paths = ["stem/conv/kernel", "stem/conv/bias", "head/bias", "head/kernel", "stem_2/kernel"]
    assert list(assign_groups(groups, paths).values()) == ["stem", "stem", "bias", "rest", "rest"]
