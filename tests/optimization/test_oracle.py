"""Whole updates against an oracle in NumPy float64, which shares no code with looplab or Keras.

A linear model over tokens, with a loss of two terms that have weights of their own (ragged tokens;
examples), a penalty, clipping, an optimizer and averages. Hyper-parameters are sums of few powers of two, so
that no rounding of them hides an error.
"""

from dataclasses import dataclass, field

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

import looplab
from tests.conftest import make_strategy

TOKENS, FEATURES = 3, 2
RATE, PENALTY, AVERAGE = 0.25, 0.125, 0.75


@dataclass
class Oracle:
    """Updates `weights` (`kernel` [features], `bias` [1]) by the formulas of the papers."""

    kind: str
    clip: str | None
    weights: dict[str, np.ndarray]
    slots: dict[str, np.ndarray] = field(default_factory=dict)
    averages: dict[str, np.ndarray] = field(default_factory=dict)
    updates: int = 0

    def loss_and_gradients(self, x, y, tokens):
        predicted = x @ self.weights["kernel"] + self.weights["bias"]  # [n, TOKENS]
        error, pooled = predicted - y, predicted.mean(axis=1)
        total = tokens.sum() or 1.0  # no tokens: nothing divided by nothing is nothing
        loss = (tokens * error**2).sum() / total + 2 * (pooled**2).mean()
        loss += PENALTY * (self.weights["kernel"] ** 2).sum()
        outer = 2 * tokens * error / total + (4 * pooled / len(x) / TOKENS)[:, None]
        kernel = np.einsum("nt,ntf->f", outer, x) + 2 * PENALTY * self.weights["kernel"]
        return loss, {"kernel": kernel, "bias": np.array([outer.sum()])}

    def clipped(self, gradients):
        if self.clip == "clipvalue":
            return {name: np.clip(g, -0.25, 0.25) for name, g in gradients.items()}
        norms = {name: np.sqrt((g**2).sum()) for name, g in gradients.items()}
        if self.clip == "global_clipnorm":
            norms = dict.fromkeys(norms, np.sqrt(sum(norm**2 for norm in norms.values())))
        if self.clip is None:
            return gradients
        return {name: g * min(1.0, 0.25 / norms[name]) if norms[name] else g for name, g in gradients.items()}

    def step(self, x, y, tokens):
        loss, gradients = self.loss_and_gradients(x, y, tokens)
        self.updates += 1
        for name, gradient in self.clipped(gradients).items():
            self.weights[name] = self.updated(name, self.weights[name], gradient)
            old = self.averages.get(name, self.weights[name])  # the first average is the weight
            self.averages[name] = AVERAGE * old + (1 - AVERAGE) * self.weights[name]
        return loss

    def slot(self, name, like):
        return self.slots.setdefault(name, np.zeros_like(like))

    def updated(self, name, weight, gradient):
        first = self.slot(f"{name}/first", weight)
        if self.kind == "sgd":  # with momentum (Polyak, 1964)
            self.slots[f"{name}/first"] = first = 0.5 * first - RATE * gradient
            return weight + first
        if self.kind == "lion":  # Chen et al., 2023, algorithm 2
            self.slots[f"{name}/first"] = 0.75 * first + 0.25 * gradient
            return weight - RATE * np.sign(0.5 * first + 0.5 * gradient)
        if self.kind == "adamw" and name != "bias":  # Loshchilov & Hutter, 2019; biases are left out
            weight = weight - RATE * 0.0625 * weight
        second = self.slot(f"{name}/second", weight)  # Kingma & Ba, 2015, the form before section 2.1
        self.slots[f"{name}/first"] = first = 0.5 * first + 0.5 * gradient
        self.slots[f"{name}/second"] = second = 0.75 * second + 0.25 * gradient**2
        rate = RATE * np.sqrt(1 - 0.75**self.updates) / (1 - 0.5**self.updates)
        return weight - rate * first / (np.sqrt(second) + 2.0**-10)


def optimizer(kind, clip):
    common = {"use_ema": True, "ema_momentum": AVERAGE, **({clip: 0.25} if clip else {})}
    moments = {"beta_1": 0.5, "beta_2": 0.75}
    if kind == "sgd":
        return keras.optimizers.SGD(RATE, momentum=0.5, **common)
    if kind == "lion":
        return keras.optimizers.Lion(RATE, **moments, **common)
    if kind == "adam":
        return keras.optimizers.Adam(RATE, **moments, epsilon=2.0**-10, **common)
    made = keras.optimizers.AdamW(RATE, weight_decay=0.0625, **moments, epsilon=2.0**-10, **common)
    made.exclude_from_weight_decay(var_names=["bias"])
    return made


class Tokens(looplab.Trainer):
    def compute_loss(self, batch, training):
        x, y, tokens = batch
        predicted = self.model(x, training=training)[..., 0]
        pooled = tf.reduce_mean(predicted, axis=1)
        return {"tokens": ((predicted - y) ** 2, tokens), "pooled": 2 * pooled**2}


class Losses(looplab.Callback):
    def __init__(self):
        self.seen = []

    def on_step(self, event, controls):
        self.seen.append(event.values["loss"])


def model():
    dense = keras.layers.Dense(
        1, kernel_regularizer=keras.regularizers.L2(PENALTY), bias_initializer="random_normal"
    )
    return keras.Sequential([keras.Input((TOKENS, FEATURES)), dense])


CELLS = {
    "seed": st.integers(0, 10_000),
    "size": st.integers(1, 19),
    "batch": st.integers(1, 8),
    "replicas": st.integers(1, 4),
    "micro": st.integers(1, 3),
    "kind": st.sampled_from(["sgd", "adam", "adamw", "lion"]),
    "clip": st.sampled_from([None, "clipnorm", "global_clipnorm", "clipvalue"]),
    "ragged": st.sampled_from(["whole", "ragged", "some empty", "none"]),
}


@settings(max_examples=1)
@given(**CELLS)
@example(seed=1, size=9, batch=8, replicas=4, micro=3, kind="adamw", clip="global_clipnorm", ragged="ragged")
@example(seed=2, size=3, batch=8, replicas=4, micro=2, kind="lion", clip=None, ragged="none")
@pytest.mark.promise(4)
@pytest.mark.promise(8)
def test_p01_p04_any_split_makes_the_oracles_updates(**cell):
    holds(**cell)


@pytest.mark.slow
@settings(max_examples=20)
@given(**CELLS)
@pytest.mark.promise(4)
@pytest.mark.promise(8)
def test_p01_p04_so_do_many(**cell):
    holds(**cell)


def holds(seed, size, batch, replicas, micro, kind, clip, ragged):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(size, TOKENS, FEATURES)), rng.normal(size=(size, TOKENS))
    least = {"whole": TOKENS, "ragged": 1, "some empty": 0, "none": 0}[ragged]
    lengths = rng.integers(least, (0 if ragged == "none" else TOKENS) + 1, size)
    tokens = rng.integers(1, 4, (size, TOKENS)) * (np.arange(TOKENS) < lengths[:, None]) * 0.5
    losses = Losses()
    trainer = Tokens(
        model,
        lambda: optimizer(kind, clip),
        strategy=make_strategy(replicas),
        precision="float64",
        micro_batches=micro,
        callbacks=[losses],
        seed=seed,
    )
    kernel, bias = trainer.model.get_weights()
    oracle = Oracle(kind, clip, {"kernel": kernel[:, 0].copy(), "bias": bias.copy()})
    trainer.fit((x, y, tokens), batch_size=batch, epochs=2, shuffle=False, verbose=0)
    expected = [
        oracle.step(x[start : start + batch], y[start : start + batch], tokens[start : start + batch])
        for _ in range(2)
        for start in range(0, size, batch)
    ]
    np.testing.assert_allclose(losses.seen, expected, rtol=1e-10, atol=1e-10)
    assert_equal(trainer.model.get_weights(), oracle.weights)
    with trainer.averaged_weights():
        assert_equal(trainer.model.get_weights(), oracle.averages)


def assert_equal(weights, expected):
    for found, name in zip(weights, ("kernel", "bias"), strict=True):
        scale = np.abs(expected[name]).max() or 1.0
        np.testing.assert_allclose(found.ravel(), expected[name], rtol=0, atol=1e-10 * scale, err_msg=name)
