"""`self.log`: a weighted mean over the global batch, over epochs and over evaluations."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.errors import ConfigurationError, LooplabError, LossError
from tests.conftest import make_strategy

ROWS, BATCH = 13, 5  # a last batch of three, and with 4 replicas one that has none
RNG = np.random.default_rng(0)
X, T = RNG.normal(size=(ROWS, 4)), RNG.normal(size=(ROWS, 1))
W = RNG.uniform(0, 2, ROWS) * (np.arange(ROWS) % 3 > 0)


class Logging(looplab.Trainer):
    """Logs values of every kind; `compute_loss` sees slices, `train_step` the rows of a replica."""

    def compute_loss(self, batch, training):
        x, target, weight = batch
        self.log("sum", tf.reduce_sum(x, -1))
        self.log("squares", x**2)
        self.log("weighted", x[:, 0], weight)
        self.log("rows", x[:, 1:], weight)
        self.log("cells", x, x**2)
        self.log("twice", tf.reduce_max(x, -1))
        self.log("twice", tf.reduce_min(x, -1), 2.0)
        self.log("first", tf.reduce_mean(x[:, 0]))  # a number weighs with its examples
        self.log("positive", x[:, 0] > 0)
        self.log("counted", 3, weight=tf.size(x))
        if training:
            self.log("training/mean", x[:, 2])
        else:
            self.log("testing", x[:, 3])
        return (self.model(x) - target)[:, 0] ** 2

    def train_step(self, batch):
        self.log("outside", tf.reduce_mean(batch[0]))
        return self.minimize(self.compute_loss, batch)


def expected(x, w, training=True):
    twice = np.concatenate([x.max(-1), x.min(-1)]), np.repeat([1.0, 2.0], len(x))
    own = {
        "sum": x.sum(-1).mean(),
        "squares": (x**2).mean(),
        "weighted": np.average(x[:, 0], weights=w),
        "rows": np.average(x[:, 1:].mean(-1), weights=w),
        "cells": (x**3).sum() / (x**2).sum(),
        "twice": np.average(twice[0], weights=twice[1]),
        "first": x[:, 0].mean(),
        "positive": (x[:, 0] > 0).mean(),
        "counted": 3.0,
    }
    if training:
        return own | {"training/mean": x[:, 2].mean(), "outside": x.mean()}
    return own | {"testing": x[:, 3].mean()}


def model():
    return keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])


def make(kind, **options):
    options = {"execution": "graph", "precision": "float64"} | options
    options["strategy"] = make_strategy(options.get("strategy", 1))
    return kind(model, lambda: keras.optimizers.SGD(0.1), **options)


ORDINARY = [{}, {"strategy": 2, "micro_batches": 2}, {"run_eagerly": True}, {"execution": "xla_loop"}]
SLOW = [
    {"strategy": 2},
    {"strategy": 4, "micro_batches": 2},
    {"micro_batches": 3},
    {"execution": "xla_step"},
    {"execution": "xla_step", "strategy": 2, "micro_batches": 2},
    {"steps_per_execution": 1},
]
WAYS = [*ORDINARY, *(pytest.param(how, marks=pytest.mark.slow) for how in SLOW)]


@pytest.mark.share(1)
@pytest.mark.parametrize("how", WAYS, ids=lambda how: " ".join(f"{k}={v}" for k, v in how.items()) or "graph")
def test_a_logged_value_is_the_mean_over_the_batch_the_epoch_and_the_evaluation(how, tmp_path):
    trainer = make(Logging, run_dir=tmp_path, log_every=1, **how)
    history = trainer.fit((X, T, W), validation_data=(X[:7], T[:7], W[:7]), batch_size=BATCH, epochs=2,
                          shuffle=False, verbose=0).history  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    wanted = {"train": expected(X, W), "validation": expected(X[:7], W[:7], training=False)}
    for prefix, split in (("", "train"), ("val_", "validation")):
        for name, value in wanted[split].items():
            np.testing.assert_allclose(history[prefix + name], [value] * 2, rtol=1e-12, err_msg=name)
            logged = [line["values"][f"epoch_{name}"] for line in lines
                      if line["split"] == split and f"epoch_{name}" in line["values"]]  # fmt: skip
            assert logged == history[prefix + name]
    assert "testing" not in history and "val_outside" not in history
    for index, first in enumerate(range(0, ROWS, BATCH)):  # each step's own values
        (step,) = (line["values"] for line in lines if line["step"] == index + 1 and "loss" in line["values"])
        for name, value in expected(X[first : first + BATCH], W[first : first + BATCH]).items():
            np.testing.assert_allclose(step[name], value, rtol=1e-12, err_msg=name)
    evaluated = trainer.evaluate((X, T, W), batch_size=BATCH)
    for name, value in expected(X, W, training=False).items():
        np.testing.assert_allclose(evaluated[name], value, rtol=1e-12, err_msg=name)


class One(looplab.Trainer):
    """Logs one value, as `given` says."""

    given = staticmethod(lambda trainer, x: trainer.log("own", x))

    def compute_loss(self, batch, training):
        self.given(self, batch[0])
        return (self.model(batch[0]) - batch[1])[:, 0] ** 2


def one(given, base=One, **options):
    return make(type("One", (base,), {"given": staticmethod(given)}), **options)


def fit(trainer, **options):
    return trainer.fit(X, T, **({"batch_size": BATCH, "verbose": 0} | options)).history


def within(trainer, x):
    tf.cond(tf.reduce_sum(x) > 0, lambda: (trainer.log("own", x), 0.0)[1], lambda: 0.0)


WRONG = {
    "None": (lambda t, x: t.log("own", None), "the value of 'own' is None"),
    "weight of text": (lambda t, x: t.log("own", x, "much"), "the weight of 'own' has the dtype string"),
    "a dict": (lambda t, x: t.log("own", {"a": x}), r"the value of 'own' is .* \(dict\)"),
    "complex": (lambda t, x: t.log("own", tf.cast(x, tf.complex64)), "has the dtype complex64"),
    "a vector": (lambda t, x: t.log("own", tf.reduce_mean(x, 0)), r"\(4,\), whose first axis is not that"),
    "weights": (lambda t, x: t.log("own", x[:, 0], x), "the weight of 'own' has the shape"),
    "loss": (lambda t, x: t.log("loss", x), "'loss' is the name of the total loss"),
    "no name": (lambda t, x: t.log("", x), "self.log: the name '' cannot be a tag"),
    "epoch_": (lambda t, x: t.log("epoch_own", x), "the name would mean that of 'own'"),
    "a condition": (within, "'own' is logged inside a tf.while_loop, a tf.cond .* weight=tf.where"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_logged_is_refused_by_name(name):
    given, words = WRONG[name]
    with pytest.raises(LooplabError, match=words):
        fit(one(given))


class Clashing(One):
    def train_step(self, batch):
        return {**super().train_step(batch), "own": 1.0}


def test_names_that_clash_are_refused():
    with pytest.raises(
        ConfigurationError, match="'own' would be the name of 2 values, of what the step returns"
    ):
        fit(make(Clashing))
    with pytest.raises(
        ConfigurationError, match=r"'mean' would be the name of 2 values, of self.log in the step"
    ):
        fit(one(lambda t, x: (t.log("mean", x), t.update_metrics(x, x)), metrics=[keras.metrics.Mean]))


def test_it_says_where_it_may_be_called():
    trainer = make(One)
    with pytest.raises(LossError, match=r"log and looplab.summary work only inside a step: call them from"):
        trainer.log("own", 1.0)

    class Predicting(One):
        def predict_step(self, batch):
            self.log("own", batch)
            return batch

    with pytest.raises(LossError, match="'own' is logged in predict_step"):
        make(Predicting).predict(X)


def test_a_monitor_may_wait_for_it():
    stop = keras.callbacks.EarlyStopping("val_own", patience=0, mode="min")
    assert len(fit(make(One), validation_data=(X, T), epochs=5, callbacks=[stop])["own"]) == 2
    with pytest.raises(ConfigurationError, match=r"nothing produces 'val_owm'.*'val_own'"):
        fit(make(One), validation_data=(X, T), callbacks=[keras.callbacks.EarlyStopping("val_owm")])


def test_steps_in_python_log_the_same_names_and_weigh_nothing_where_there_is_nothing():
    def sometimes(trainer, x):
        if int(trainer.step.numpy()) % 2 == 0:
            trainer.log("own", x)

    with pytest.raises(LossError, match=r"'own': a step returns or logs it .* but another step does not"):
        fit(one(sometimes, run_eagerly=True))

    def gated(trainer, x):
        trainer.log("own", x, tf.where(trainer.step % 2 == 0, 1.0, 0.0))

    of_two = np.concatenate([X[:5], X[10:]])
    for options in ({}, {"run_eagerly": True}):
        np.testing.assert_allclose(fit(one(gated, **options), shuffle=False)["own"], [of_two.mean()])


class Gated(One):
    """A step whose update is made at every other step; what it logs is computed all the same."""

    def train_step(self, batch):
        return self.minimize(self.compute_loss, batch, when=self.step % 2 == 0)


def test_steps_without_an_update_count_as_their_losses_do():
    assert fit(make(Gated), shuffle=False)["own"] == pytest.approx([X.mean()])

    def bad(trainer, x):  # the second batch is not finite, and passed over
        trainer.log("own", x)
        trainer.log("bad", tf.where(trainer.step == 1, x * np.nan, x))

    class Bad(One):
        def compute_loss(self, batch, training):
            values = super().compute_loss(batch, training)
            return values / tf.where(self.step == 1, tf.zeros_like(values), tf.ones_like(values))

    history = fit(one(bad, Bad, on_nonfinite="skip"), shuffle=False)
    of_two = np.concatenate([X[:5], X[10:]])
    assert history["own"] == pytest.approx([of_two.mean()]) and history["bad"] == history["own"]


@pytest.mark.slow
def test_check_step_compares_it():
    class Spread(One):  # a number of a slice that is no mean over its examples
        given = staticmethod(lambda trainer, x: trainer.log("own", tf.math.reduce_std(x)))

    def check(kind, batch):
        def made(**options):
            return kind(model, lambda: keras.optimizers.SGD(0.1), precision="float64", **options)

        looplab.testing.check_step(made, batch, replicas=(2,), micro_batches=(2,), modes=("eager",))

    check(Logging, (X, T, W))
    with pytest.raises(looplab.testing.StepDiffers, match="own"):
        check(Spread, (X, T))
