"""`precision="float64"`: rates, betas, decays and schedules are the numbers that were given, against NumPy.

TensorFlow makes float32 of a number of Python before it casts it, and so Keras rounds most of what its
optimizers and schedules were made with. None of the numbers here is one of float32.

There is one exception: the 0.96 of Nadam stands in Keras' code, and there it is rounded (`ROUNDED`).
"""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.optimization.follow_step import FollowStep
from looplab.optimization.remake import given_rate
from looplab.schedule import Cyclic, Piecewise, Warmup, WarmupCosine
from looplab.strategy.python_float64 import Double, as_double, as_given
from tests.conftest import make_strategy

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(24, 4)), RNG.normal(size=(24, 3))
ROWS, CLOSE = 8, 1e-12
ROUNDED = float(np.float32(0.96))


def gradients(weights, first):
    """Of the mean squared error over the rows of a batch, with kernel and bias."""
    x, y = X[first : first + ROWS], Y[first : first + ROWS]
    error = x @ weights[0] + weights[1] - y
    return [2 * x.T @ error / error.size, 2 * error.sum(axis=0) / error.size]


class Sgd:
    """One variable under SGD; what others share: `step(weight, gradient, rate, t)` gives the next weight."""

    decay = 0.0

    def __init__(self, **settings):
        vars(self).update(settings)
        self.slots = {}

    def slot(self, name, like, first=0.0):
        return self.slots.setdefault(name, np.full_like(like, first))

    def mean(self, name, gradient, beta):
        self.slots[name] = beta * self.slot(name, gradient) + (1 - beta) * gradient
        return self.slots[name]

    def step(self, w, g, rate, t):
        return w - self.decay * rate * w + self.change(w, g, rate, t)

    def change(self, w, g, rate, t):
        return -rate * g


class Momentum(Sgd):
    nesterov = False

    def change(self, w, g, rate, t):
        self.slots["m"] = m = 0.9 * self.slot("m", g) - rate * g
        return 0.9 * m - rate * g if self.nesterov else m


class Adam(Sgd):
    largest = False

    def change(self, w, g, rate, t):
        m, v = self.mean("m", g, 0.9), self.mean("v", g * g, 0.95)
        if self.largest:
            self.slots["top"] = v = np.maximum(self.slot("top", g), v)
        return -rate * np.sqrt(1 - 0.95**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-3)


class Nadam(Sgd):
    def change(self, w, g, rate, t):
        u, after = (0.9 * (1 - 0.5 * ROUNDED**s) for s in (t, t + 1))
        self.slots["u"] = product = self.slots.get("u", 1.0) * 0.9 * (1 - 0.5 * 0.96**t)
        m, v = self.mean("m", g, 0.9), self.mean("v", g * g, 0.95) / (1 - 0.95**t)
        ahead = after * m / (1 - product * after) + (1 - u) * g / (1 - product)
        return -rate * ahead / (np.sqrt(v) + 1e-3)


class Adamax(Sgd):
    def change(self, w, g, rate, t):
        m = self.mean("m", g, 0.9)
        self.slots["u"] = u = np.maximum(0.95 * self.slot("u", g), np.abs(g))
        return -rate * m / ((1 - 0.9**t) * (u + 1e-3))


class Rms(Sgd):
    def change(self, w, g, rate, t):
        v, mean = self.mean("v", g * g, 0.9), self.mean("g", g, 0.9)
        moved = rate * g / np.sqrt(v - mean**2 + 1e-3)
        self.slots["m"] = m = 0.7 * self.slot("m", g) + moved
        return -m


class Adagrad(Sgd):
    def change(self, w, g, rate, t):
        self.slots["a"] = a = self.slot("a", g, 0.1) + g * g
        return -rate * g / np.sqrt(a + 1e-3)


class Adadelta(Sgd):
    def change(self, w, g, rate, t):
        a = self.mean("a", g * g, 0.9)
        moved = np.sqrt(self.slot("d", g) + 1e-3) * g / np.sqrt(a + 1e-3)
        self.mean("d", moved**2, 0.9)
        return -rate * moved


class Lion(Sgd):
    def change(self, w, g, rate, t):
        m = self.slot("m", g)
        self.slots["m"] = 0.95 * m + (1 - 0.95) * g
        return -rate * np.sign(0.9 * m + (1 - 0.9) * g)


class Ftrl(Sgd):
    def step(self, w, g, rate, t):
        a, linear = self.slot("a", g, 0.1), self.slot("l", g)
        new = a + g * g
        linear = linear + g + 2 * 0.03 * w - (new**0.4 - a**0.4) / rate * w
        self.slots |= {"a": new, "l": linear}
        quadratic = new**0.4 / rate + 2 * (0.02 + 0.3 / (2 * rate))
        return (np.clip(linear, -0.01, 0.01) - linear) / quadratic


class Lamb(Sgd):
    def change(self, w, g, rate, t):
        m, v = self.mean("m", g, 0.9) / (1 - 0.9**t), self.mean("v", g * g, 0.95) / (1 - 0.95**t)
        moved = m / (np.sqrt(v) + 1e-3)
        return -rate * np.linalg.norm(w) / np.linalg.norm(moved) * moved if w.any() else -rate * moved


class Adafactor(Sgd):
    def change(self, w, g, rate, t):
        beta, squared = 1 - t**-0.7, g * g + 1e-3
        if g.ndim == 2:
            r, c = self.mean("r", squared.mean(axis=1), beta), self.mean("c", squared.mean(axis=0), beta)
            v = (r / r.mean())[:, None] * c[None, :]
        else:
            v = self.mean("v", squared, beta)
        moved = g / np.sqrt(v)
        moved /= max(1.0, np.sqrt((moved**2).mean()) / 0.3)
        return -max(1e-2, np.sqrt((w**2).mean())) * min(rate, 1 / np.sqrt(t)) * moved


class Muon(Adam):
    decay = 0.01

    def change(self, w, g, rate, t):
        if g.ndim < 2:
            return super().change(w, g, rate * 0.3, t)
        self.slots["m"] = m = 0.9 * self.slot("m", g) + g
        x = g + 0.9 * m
        x = x.T / (np.linalg.norm(x) + 1e-7)
        for _ in range(2):
            a = x @ x.T
            x = 3.4 * x + (-4.7 * a + 2.1 * a @ a) @ x
        return -rate * x.T * np.sqrt(max(w.shape)) * 0.2


class ScheduleFree(Sgd):
    def step(self, w, g, rate, t):
        rate = rate * min(t / 2, 1.0)
        z = self.slots.get("z", w)
        v = self.mean("v", g * g, 0.95)
        self.slots["z"] = new = z - rate * g / (np.sqrt(v / (1 - 0.95**t)) + 1e-3)
        x = (w - (1 - 0.9) * new) / 0.9  # Keras means the old one, but reads it after the assignment
        return (1 - 0.9) * new + 0.9 * ((1 - 1 / t) * x + new / t)


def clipped(norm):
    """Returns what clips one gradient to a norm."""
    return lambda g: g * min(1.0, norm / np.linalg.norm(g))


BETAS = {"beta_1": 0.9, "beta_2": 0.95, "epsilon": 1e-3}
made = keras.optimizers
# By name: the optimizer from a rate, and what is the same in NumPy; then what clips its gradients.
KINDS = {
    "sgd": (made.SGD, {}, Sgd, {}),
    "momentum": (made.SGD, {"momentum": 0.9}, Momentum, {}),
    "nesterov": (made.SGD, {"momentum": 0.9, "nesterov": True}, Momentum, {"nesterov": True}),
    "decay": (made.SGD, {"weight_decay": 0.01}, Sgd, {"decay": 0.01}),
    "adam": (made.Adam, BETAS, Adam, {}),
    "amsgrad": (made.Adam, {**BETAS, "amsgrad": True}, Adam, {"largest": True}),
    "adamw": (made.AdamW, {**BETAS, "weight_decay": 0.01}, Adam, {"decay": 0.01}),
    "nadam": (made.Nadam, BETAS, Nadam, {}),
    "adamax": (made.Adamax, BETAS, Adamax, {}),
    "rmsprop": (
        made.RMSprop,
        {"rho": 0.9, "momentum": 0.7, "epsilon": 1e-3, "centered": True},
        Rms,
        {},
    ),
    "adagrad": (made.Adagrad, {"initial_accumulator_value": 0.1, "epsilon": 1e-3}, Adagrad, {}),
    "adadelta": (made.Adadelta, {"rho": 0.9, "epsilon": 1e-3}, Adadelta, {}),
    "lion": (made.Lion, {"beta_1": 0.9, "beta_2": 0.95, "weight_decay": 0.01}, Lion, {"decay": 0.01}),
    "ftrl": (
        made.Ftrl,
        {
            "learning_rate_power": -0.4,
            "initial_accumulator_value": 0.1,
            "l1_regularization_strength": 0.01,
            "l2_regularization_strength": 0.02,
            "l2_shrinkage_regularization_strength": 0.03,
            "beta": 0.3,
        },
        Ftrl,
        {},
    ),
    "lamb": (made.Lamb, BETAS, Lamb, {}),
    "adafactor": (
        made.Adafactor,
        {"beta_2_decay": -0.7, "epsilon_1": 1e-3, "epsilon_2": 1e-2, "clip_threshold": 0.3},
        Adafactor,
        {},
    ),
    "muon": (
        made.Muon,
        {
            **{"momentum": 0.9, "ns_steps": 2, "muon_a": 3.4, "muon_b": -4.7, "muon_c": 2.1, "rms_rate": 0.2},
            **{"adam_beta_1": 0.9, "adam_beta_2": 0.95, "epsilon": 1e-3, "adam_lr_ratio": 0.3},
            **{"weight_decay": 0.01, "adam_weight_decay": 0.01},
        },
        Muon,
        {},
    ),
    "schedule_free": (made.ScheduleFreeAdamW, {**BETAS, "warmup_steps": 2}, ScheduleFree, {}),
    "clipnorm": (made.SGD, {"clipnorm": 0.1}, Sgd, {"clip": clipped(0.1)}),
    "clipvalue": (made.SGD, {"clipvalue": 0.1}, Sgd, {"clip": lambda g: np.clip(g, -0.1, 0.1)}),
    "global_clipnorm": (made.SGD, {"global_clipnorm": 0.1}, Sgd, {"clip": "all"}),
}


class Several(looplab.Trainer):
    """One model for each optimizer, all in one step."""

    def train_step(self, batch):
        def loss_of(name):
            def loss(part, training):
                x, y = part
                return tf.reduce_mean((self.models[name](x, training=training) - y) ** 2, axis=1)

            return loss

        return {n: self.minimize(loss_of(n), batch, n)[f"{n}/loss"] for n in self.optimizers}


def model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, bias_initializer="ones")])


def trained(optimizers, steps, **options):
    """Trains a model with each optimizer; returns the trainer, first and last weights by name."""
    options.setdefault("precision", "float64")
    trainer = Several(models=dict.fromkeys(optimizers, model), optimizers=optimizers, **options)
    before = {name: own.get_weights() for name, own in trainer.models.items()}
    trainer.fit((X, Y), batch_size=ROWS, steps=steps, shuffle=False, verbose=0)
    return trainer, before, {name: own.get_weights() for name, own in trainer.models.items()}


def oracle(weights, variables, rates, clip=None):
    """Returns weights after an update for each rate; `variables` are the optimizer of each in NumPy."""
    for t, rate in enumerate(rates, 1):
        found = gradients(weights, (t - 1) * ROWS % len(X))
        if clip == "all":
            norm = math.sqrt(sum((g**2).sum() for g in found))
            found = [g * min(1.0, 0.1 / norm) for g in found]
        elif clip is not None:
            found = [clip(g) for g in found]
        weights = [own.step(w, g, rate, t) for own, w, g in zip(variables, weights, found, strict=True)]
    return weights


def differing(after, expected):
    """Returns by name how far weights are from what is expected, in parts of it, where it is too far."""
    off = {
        name: max(np.max(np.abs(a - b)) / np.max(np.abs(b)) for a, b in zip(own, expected[name], strict=True))
        for name, own in after.items()
    }
    return {name: distance for name, distance in off.items() if not distance < CLOSE}


RATES = dict(zip(KINDS, [0.05, 0.1, 1e-3] * len(KINDS), strict=False))


SOME = ["momentum", "decay", "adamw", "nadam", "muon", "clipnorm", "global_clipnorm"]


@pytest.mark.share(1)
@pytest.mark.parametrize(("replicas", "pieces", "names"), [(1, 1, list(KINDS)), (2, 2, SOME)])
def test_every_optimizer_of_keras_computes_with_the_numbers_it_was_given(replicas, pieces, names):
    kinds = {name: KINDS[name] for name in names}
    optimizers = {
        name: (lambda kind=kind, rate=RATES[name], own=own: kind(rate, **own))
        for name, (kind, own, *_) in kinds.items()
    }
    options = {"strategy": make_strategy(replicas), "micro_batches": pieces, "execution": "graph"}
    _, before, after = trained(optimizers, 4, **options)
    expected = {}
    for name, (_, _, kind, settings) in kinds.items():
        own = {key: value for key, value in settings.items() if key != "clip"}
        variables = [kind(**own), kind(**own)]
        expected[name] = oracle(before[name], variables, [RATES[name]] * 4, settings.get("clip"))
    assert differing(after, expected) == {}


def test_no_optimizer_of_keras_is_left_out():
    kinds = {kind for kind, *_ in KINDS.values()}
    named = {getattr(made, name) for name in dir(made) if name[0].isupper()}
    assert named - kinds == {
        made.LossScaleOptimizer,  # refused: looplab scales losses itself
        made.MultiOptimizer,
        made.OptimizerMap,
        made.Optimizer,
    }


def cosine(s, peak=0.1, steps=9, floor=0.05):
    return peak * ((1 - floor) * 0.5 * (1 + math.cos(math.pi * min(s, steps) / steps)) + floor)


def restarts(s, grows, falls):
    done, length, height = 0, 3, 1.0
    while s >= done + length:
        done, length, height = done + length, length * grows, height * falls
    return 0.1 * ((1 - 0.05) * 0.5 * height * (1 + math.cos(math.pi * (s - done) / length)) + 0.05)


made_schedules = keras.optimizers.schedules
SCHEDULES = {
    "cosine": (lambda: made_schedules.CosineDecay(0.1, 9, alpha=0.05), cosine),
    "warm_cosine": (
        lambda: made_schedules.CosineDecay(0.01, 9, alpha=0.05, warmup_target=0.1, warmup_steps=3),
        lambda s: 0.01 + (0.1 - 0.01) * s / 3 if s < 3 else cosine(s - 3),
    ),
    "restarts": (
        lambda: made_schedules.CosineDecayRestarts(0.1, 3, t_mul=1.0, m_mul=0.9, alpha=0.05),
        lambda s: restarts(s, 1.0, 0.9),
    ),
    "longer_restarts": (
        lambda: made_schedules.CosineDecayRestarts(0.1, 3, t_mul=1.7, m_mul=0.9, alpha=0.05),
        lambda s: restarts(s, 1.7, 0.9),
    ),
    "exponential": (lambda: made_schedules.ExponentialDecay(0.1, 7, 0.9), lambda s: 0.1 * 0.9 ** (s / 7)),
    "stairs": (
        lambda: made_schedules.ExponentialDecay(0.1, 4, 0.9, staircase=True),
        lambda s: 0.1 * 0.9 ** (s // 4),
    ),
    "piecewise": (
        lambda: made_schedules.PiecewiseConstantDecay([2, 5], [0.1, 0.05, 1e-3]),
        lambda s: [0.1, 0.05, 1e-3][(s > 2) + (s > 5)],
    ),
    "polynomial": (
        lambda: made_schedules.PolynomialDecay(0.1, 7, 1e-3, power=1.3),
        lambda s: (0.1 - 1e-3) * (1 - min(s, 7) / 7) ** 1.3 + 1e-3,
    ),
    "cycles": (
        lambda: made_schedules.PolynomialDecay(0.1, 3, 1e-3, power=1.3, cycle=True),
        lambda s: (0.1 - 1e-3) * (1 - s / (3 * max(1, math.ceil(s / 3)))) ** 1.3 + 1e-3,
    ),
    "inverse": (
        lambda: made_schedules.InverseTimeDecay(0.1, 7, 0.9),
        lambda s: 0.1 / (1 + 0.9 * s / 7),
    ),
    "looplab_warmup_cosine": (
        lambda: WarmupCosine(0.1, 9, 3, 0.05),
        lambda s: (
            0.1 * (s + 1) / 4
            if s < 3
            else 0.1 * (0.05 + 0.95 * (1 + math.cos(math.pi * min(s - 3, 6) / 6)) / 2)
        ),
    ),
    "looplab_warmup": (lambda: Warmup(0.1, 6), lambda s: 0.1 * min(1, (s + 1) / 7)),
    "looplab_warmup_before": (
        lambda: Warmup(warmup_steps=6, schedule=made_schedules.InverseTimeDecay(0.1, 7, 0.9)),
        lambda s: 0.1 / (1 + 0.9 * s / 7) * min(1, (s + 1) / 7),
    ),
    "looplab_cyclic": (
        lambda: Cyclic(0.1, 3, 0.07, 0.9),
        lambda s: 0.1 * (0.07 + 0.93 * 0.9 ** (s // 3) * (1 - abs(2 * (s % 3) / 3 - 1))),
    ),
    "looplab_piecewise": (
        lambda: Piecewise(0.1, [2, 5], [0.3, 0.07]),
        lambda s: 0.1 * [1, 0.3, 0.07][(s >= 2) + (s >= 5)],
    ),
    "own": (lambda: Own(), lambda s: 0.1 / (s + 1)),
}


class Own(made_schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1 / tf.cast(step + 1, tf.float64)


@pytest.mark.share(4)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_computed_in_float64(name):
    make, expected = SCHEDULES[name]
    step, factor = tf.Variable(0, dtype=tf.int64), tf.Variable(0.7, dtype=tf.float64)
    with looplab.strategy.precision.scope("float64"):
        rate = FollowStep(make(), step, factor)
        traced = tf.function(rate, autograph=False)
    for done in range(11):
        step.assign(done)
        for found in (rate(), traced()):
            assert found.dtype == tf.float64
            assert float(found) == pytest.approx(0.7 * expected(done), rel=CLOSE)


@pytest.mark.slow
def test_schedules_are_of_float64_under_replicas_and_in_pieces():
    names = ["warm_cosine", "longer_restarts", "piecewise", "looplab_warmup_before"]
    optimizers = {name: (lambda name=name: keras.optimizers.SGD(SCHEDULES[name][0]())) for name in names}
    options = {"strategy": make_strategy(2), "micro_batches": 2, "steps_per_execution": 4}
    _, before, after = trained(optimizers, 10, **options)
    expected = {
        name: oracle(before[name], [Sgd(), Sgd()], [SCHEDULES[name][1](s) for s in range(10)])
        for name in names
    }
    assert differing(after, expected) == {}


def test_no_schedule_of_keras_is_left_out():
    kinds = {type(make()) for make, _ in SCHEDULES.values()}
    named = {getattr(made_schedules, name) for name in dir(made_schedules) if name[0].isupper()}
    assert named - kinds == {made_schedules.LearningRateSchedule}


class Slower(looplab.Callback):
    """Scales the rate after some steps."""

    every = 2

    def on_step(self, event, controls):
        controls.scale_learning_rate(0.7)


@pytest.mark.share(1)
@pytest.mark.parametrize("mode", ["graph", pytest.param("xla_step", marks=pytest.mark.slow), "xla_loop"])
def test_factors_groups_and_averages_are_float64_in_every_mode(mode):
    class Watched(looplab.Callback):
        def on_train_begin(self, event, controls):
            rate = event.optimizers["optimizer"].learning_rate
            assert (rate.dtype, float(rate)) == (tf.float64, 0.1)

    trainer = looplab.Trainer(
        model,
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.3, use_ema=True, ema_momentum=0.9),
        "mse",
        precision="float64",
        execution=mode,
        callbacks=[Slower(), Watched()],
        parameter_groups={
            "kernels": {"match": "*/kernel", "learning_rate_scale": 0.3, "weight_decay": 0.01},
            "rest": {"learning_rate_scale": 0.7},
        },
    )
    weights = before = trainer.model.get_weights()
    trainer.fit((X, Y), batch_size=ROWS, steps=5, shuffle=False, verbose=0)
    variables = [Momentum(decay=0.01), Momentum(decay=0.3)]
    averages = None
    for t, rate in enumerate([0.1, 0.1, 0.07, 0.07, 0.049], 1):
        found = gradients(weights, (t - 1) * ROWS % len(X))
        rates = 0.3 * rate, 0.7 * rate
        weights = [
            own.step(w, g, r, t) for own, w, g, r in zip(variables, weights, found, rates, strict=True)
        ]
        last = weights if averages is None else averages
        averages = [0.9 * a + (1 - 0.9) * w for a, w in zip(last, weights, strict=True)]
    assert differing({"weights": trainer.model.get_weights()}, {"weights": weights}) == {}
    own = trainer.optimizers["optimizer"]._model_variables_moving_average
    assert differing({"averages": [a.numpy() for a in own]}, {"averages": averages}) == {}
    assert before[0].dtype == np.float64 and trainer.optimizers["optimizer"].learning_rate.dtype == tf.float64


def test_a_rate_that_a_keras_callback_sets_is_that_rate():
    def rate(epoch):
        return [0.1, 0.05, 1e-3][epoch]

    trainer = looplab.Trainer(
        model, lambda: keras.optimizers.SGD(0.3), "mse", precision="float64", run_dir=None,
        callbacks=[keras.callbacks.LearningRateScheduler(rate)],
    )  # fmt: skip
    before = trainer.model.get_weights()
    trainer.fit((X[:ROWS], Y[:ROWS]), batch_size=ROWS, epochs=3, shuffle=False, verbose=0)
    weights = before
    for epoch in range(3):
        weights = [w - rate(epoch) * g for w, g in zip(weights, gradients(weights, 0), strict=True)]
    assert differing({"": trainer.model.get_weights()}, {"": weights}) == {}


@pytest.mark.parametrize("rate", [0.05, 0.1, 1e-3, 3e-4, 0.0625, 123.456, 1.5e-7, 1e-20])
def test_an_object_made_in_float32_has_the_rate_that_was_written(rate, caplog):
    """Keras has rounded it by then."""
    optimizer = keras.optimizers.SGD(rate)
    assert given_rate(optimizer) == float(np.float32(rate))
    with looplab.strategy.precision.scope("float64"):
        assert given_rate(optimizer) == rate == given_rate(keras.optimizers.SGD(rate))
    assert not caplog.text


@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_an_object_made_in_float32_is_trained_with_that_rate(replicas):
    optimizer, strategy = keras.optimizers.SGD(0.05), make_strategy(replicas)
    trainer = looplab.Trainer(model, optimizer, "mse", precision="float64", strategy=strategy)
    trainer.fit((X, Y), batch_size=ROWS, steps=1, verbose=0)
    assert trainer.optimizers["optimizer"].learning_rate.numpy() == 0.05


def test_a_rate_that_cannot_be_known_any_more_is_said(caplog):
    trainer = looplab.Trainer(model, keras.optimizers.SGD(1 / 3), "mse", precision="float64")
    trainer.fit((X, Y), batch_size=ROWS, steps=1, verbose=0)
    assert "Trainer(optimizer=lambda: SGD(...))" in caplog.text and "0.33333334" in caplog.text
    caplog.clear()
    trainer = looplab.Trainer(model, lambda: keras.optimizers.SGD(1 / 3), "mse", precision="float64")
    trainer.fit((X, Y), batch_size=ROWS, steps=1, verbose=0)
    assert trainer.optimizers["optimizer"].learning_rate.numpy() == 1 / 3 and not caplog.text


@pytest.mark.slow
def test_one_optimizer_serves_both_precisions_one_after_the_other():
    schedule = made_schedules.ExponentialDecay(0.1, 7, 0.9)
    optimizer = keras.optimizers.Adam(schedule, beta_1=0.85)
    for precision in ("float64", "float32"):
        trainer = looplab.Trainer(model, optimizer, "mse", precision=precision, strategy=make_strategy(1))
        optimizer.built = False
        trainer.fit((X, Y), batch_size=ROWS, steps=2, verbose=0)
        rate = trainer.optimizers["optimizer"].learning_rate
        assert rate.dtype == precision
        assert isinstance(optimizer.beta_1, Double) == (precision == "float64") and optimizer.beta_1 == 0.85
    assert type(schedule.decay_rate) is float and rate.numpy() == schedule(2).numpy()


def test_a_number_that_is_set_later_counts_as_it_is():
    class Changes(looplab.Callback):
        every = 1

        def on_step(self, event, controls):
            event.optimizers["optimizer"].weight_decay = 0.3
            controls.rebuild()

    trainer = looplab.Trainer(
        model, lambda: keras.optimizers.SGD(0.1, weight_decay=0.1), "mse", precision="float64",
        callbacks=[Changes()],
    )  # fmt: skip
    weights = trainer.model.get_weights()
    trainer.fit((X, Y), batch_size=ROWS, steps=2, shuffle=False, verbose=0)
    for step, decay in enumerate([0.1, 0.3]):
        found = gradients(weights, step * ROWS)
        weights = [w - 0.1 * (g + decay * w) for w, g in zip(weights, found, strict=True)]
    assert differing({"": trainer.model.get_weights()}, {"": weights}) == {}


@pytest.mark.slow
def test_layers_of_float32_are_trained_among_those_of_float64():
    """Beside a tensor the numbers take its dtype."""

    def mixed():
        layers = [keras.layers.Dense(3, dtype="float32"), keras.layers.Dense(3, dtype="float64")]
        return keras.Sequential([keras.Input((4,)), *layers])

    optimizers = {
        name: (lambda kind=kind, own=own: kind(0.05, **own))
        for name, (kind, own, *_) in KINDS.items()
        # Not muon and global_clipnorm, which Keras has multiply both types with each other.
        if name in ("decay", "adamw", "nadam", "rmsprop", "adagrad", "ftrl", "lamb", "adafactor")
    }
    trainer = Several(models=dict.fromkeys(optimizers, mixed), optimizers=optimizers, precision="float64")
    trainer.fit((X, Y), batch_size=ROWS, steps=1, verbose=0)
    for own in trainer.models.values():
        assert [w.dtype for w in own.get_weights()] == ["float32"] * 2 + ["float64"] * 2
        assert all(np.isfinite(w).all() for w in own.get_weights())


def test_keras_itself_rounds_what_it_was_given():
    """The reason for all this; once Keras does not, `looplab.strategy.python_float64` can go."""
    assert tf.cast(0.1, tf.float64).numpy() == np.float32(0.1) == keras.ops.cast(0.1, "float64").numpy()
    assert made_schedules.ExponentialDecay(0.1, 7, 0.9)(0).dtype == tf.float32


def test_doubles_are_the_numbers_they_were():
    for value in (0.1, np.float32(0.1), [1, 0.1], (0.1, None)):
        again = as_given(as_double(value))
        assert again == value and type(again) in (float, list, tuple)
    kept = [object(), 3]
    assert as_double(kept) is kept and as_double(True) is True and as_double(3) == 3
    assert (
        tf.cast(as_double(0.1), tf.float64).numpy()
        == 0.1
        == tf.constant([as_double(0.1)], tf.float64).numpy()
    )
    assert (tf.constant(2.0) * as_double(0.1)).dtype == tf.float32


def test_a_schedule_stays_as_it_was_given():
    schedule = Warmup(warmup_steps=6, schedule=made_schedules.InverseTimeDecay(0.1, 7, 0.9))
    given = schedule(3).numpy()
    with looplab.strategy.precision.scope("float64"):
        rate = FollowStep(schedule, tf.Variable(3, dtype=tf.int64), tf.Variable(1.0, dtype=tf.float64))
    assert rate().dtype == tf.float64 and rate.base is schedule
    assert schedule(3).dtype == tf.float32 and schedule(3).numpy() == given
