"""Metrics that a model, a layer or the trainer keeps: logged, reset and saved as those that are given."""

import copy
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.errors import LooplabError
from looplab.strategy import precision
from tests.conftest import make_strategy

ROWS, BATCH = 13, 5
RNG = np.random.default_rng(0)
X, T = RNG.normal(size=(ROWS, 4)), RNG.integers(0, 2, (ROWS, 1)).astype(float)
HELD = X[:7], T[:7]


class Watch(keras.layers.Layer):
    """Makes its metric when it is built, and one that makes its variables when it is updated."""

    def build(self, shape):
        self.size = keras.metrics.Mean(name="size")
        self.lists = [keras.metrics.R2Score(name="r2")]

    def call(self, x):
        self.size.update_state(x**2)
        self.lists[0].update_state(x, 0.5 * x)
        return x


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        start = keras.initializers.Constant(np.linspace(-1, 1, 4)[:, None])
        self.watch, self.dense = Watch(), keras.layers.Dense(1, kernel_initializer=start)
        self.out = keras.metrics.MeanSquaredError(name="out")

    def call(self, x):
        out = self.dense(self.watch(x))
        self.out.update_state(tf.ones_like(out), out)
        return out


def rate():
    return keras.optimizers.SGD(0.25)


class Plain(looplab.Trainer):
    """Has in `compute_loss` what `model.fit` has with "mse"."""

    def compute_loss(self, batch, training):
        return (self.model(batch[0], training=training) - batch[1])[:, 0] ** 2


class Keeping(Plain):
    """Keeps metrics of its own, one for evaluations only, and returns the result of one by another name."""

    def setup(self):
        self.auc = keras.metrics.AUC(from_logits=True, name="auc", num_thresholds=20)
        self.kept = {"held": [keras.metrics.Mean(name="held")], "twice": keras.metrics.Mean(name="unseen")}
        self.again = self.kept["twice"]  # one object in two places is one metric

    def compute_loss(self, batch, training):
        x, target = batch
        out = self.model(x, training=training)
        self.auc.update_state(target, out)
        self.again(out)
        if not training:
            self.kept["held"][0].update_state(x)
        return (out - target)[:, 0] ** 2

    def train_step(self, batch):
        return {**self.minimize(self.compute_loss, batch), "area": self.auc.result()}


def trainer(kind=Plain, **options):
    options = {"execution": "graph", "precision": "float64"} | options
    if isinstance(options.get("strategy"), int):
        options["strategy"] = make_strategy(options["strategy"])
    return kind(Net, rate, **options)


def fit(made, **options):
    given = {
        "batch_size": BATCH,
        "epochs": 2,
        "shuffle": False,
        "verbose": 0,
        "validation_data": HELD,
    } | options
    return made.fit(X, T, **given).history


@pytest.fixture(scope="module")
def of_keras():
    with precision.scope("float64"):
        own = Net()
        own.compile(rate(), "mse", jit_compile=False)
        found = own.fit(X, T, validation_data=HELD, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
        return found.history, own.predict(X[:7], verbose=0)


ORDINARY = [{}, {"strategy": 2, "micro_batches": 2}, {"run_eagerly": True}, {"execution": "xla_loop"}]
SLOW = [
    {"strategy": 2},
    {"strategy": 4, "micro_batches": 2},
    {"micro_batches": 3},
    {"execution": "xla_step"},
    {"execution": "xla_step", "strategy": 2},
]
WAYS = [*ORDINARY, *(pytest.param(how, marks=pytest.mark.slow) for how in SLOW)]


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS, ids=lambda how: " ".join(f"{k}={v}" for k, v in how.items()) or "graph")
def test_a_metric_of_a_model_or_the_trainer_is_that_of_keras(of_keras, how):
    history, held = of_keras
    found = fit(trainer(Keeping, **how))
    for name, series in history.items():
        np.testing.assert_allclose(found[name], series, rtol=1e-12, err_msg=name)
    own = {name for name in found if name not in history} - {"learning_rate"}
    assert own == {"area", "val_auc", "val_held", "unseen", "val_unseen"}
    assert found["val_held"] == pytest.approx([HELD[0].mean()] * 2)
    metric = keras.metrics.AUC(from_logits=True, num_thresholds=20)
    metric.update_state(HELD[1], held)
    assert found["val_auc"][-1] == pytest.approx(float(metric.result()), rel=1e-6)
    assert found["val_unseen"][-1] == pytest.approx(held.mean())


@pytest.mark.slow
def test_evaluation_and_prediction_leave_what_training_has_seen():
    whole = fit(trainer(Keeping), steps=6, epochs=None)
    made = trainer(Keeping)
    for steps in (2, 4, 6):
        history = fit(made, steps=steps, epochs=None)
        first = made.evaluate(*HELD)
        made.predict(X)
        assert made.evaluate(*HELD) == first
    assert history == whole


@pytest.mark.slow
def test_a_run_that_is_broken_within_an_epoch_goes_on_with_what_they_have_seen(tmp_path):
    def run(folder, *ends):
        for steps in ends:
            made = trainer(Keeping, run_dir=tmp_path / folder)
            history = fit(made, steps=steps, epochs=None)
        return history

    assert run("whole", 6) == run("broken", 5, 6)
    paths = looplab.checkpoint.read(tmp_path / "whole" / "checkpoints" / "step-00000006")
    assert {"metrics/models/model/size/total", "trainer/auc/true_positives"} <= set(paths)
    restored = trainer(Keeping)  # sums of training are no weights
    restored.restore(tmp_path / "broken" / "checkpoints" / "step-00000005")
    assert fit(restored, steps=1, epochs=None)["unseen"] != 0
    assert float(restored.again.count.numpy()) == BATCH


class Tracker(Plain):
    """Keras' habit: the loss that is shown is a metric's."""

    def setup(self):
        self.tracker = keras.metrics.Mean(name="loss")

    def train_step(self, batch):
        loss = self.minimize(self.compute_loss, batch)["loss"]
        self.tracker.update_state(loss, sample_weight=tf.shape(batch[0])[0])
        return {"loss": self.tracker.result()}


@pytest.mark.slow
def test_the_loss_may_be_a_metrics():
    assert fit(trainer(Tracker, strategy=2))["loss"] == pytest.approx(fit(trainer())["loss"])
    with pytest.raises(LooplabError, match=r"spikes.monitor: a training step has no value 'loss'"):
        fit(trainer(Tracker, spikes=looplab.SpikeDetection("stop")))


def made_with(setup, loss, returned=lambda own: {}):
    class Own(Plain):
        def compute_loss(self, batch, training):
            values = super().compute_loss(batch, training)
            loss(self, values)
            return values

        def train_step(self, batch):
            return {**super().train_step(batch), **returned(self)}

    Own.setup = setup
    return trainer(Own)


def mean(own):
    own.mean = keras.metrics.Mean(name="mine")


def update(own, values):
    own.mean.update_state(values)


def named_alike(own):
    mean(own)
    own.other = keras.metrics.Mean(name="size")


def log_result(own, values):
    own.mean.update_state(values)
    own.log("own", own.mean.result())


WRONG = {
    "alike": (named_alike, lambda own, v: own.other(v), lambda own: {}, r"'size' would be .* of self.other"),
    "a name of the step": (mean, update, lambda own: {"mine": 1.0}, "'mine' would be the name of 2 values"),
    "derived": (mean, update, lambda own: {"root": own.mean.result() ** 0.5}, "'root', which is computed"),
    "logged": (mean, log_result, lambda own: {}, "'own' is the result of the metric 'mine'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused_by_name(name):
    *given, words = WRONG[name]
    with pytest.raises(LooplabError, match=words):
        fit(made_with(*given))


@pytest.mark.slow
def test_a_metric_from_outside_the_scope_is_refused_on_replicas():
    class Outside(Plain):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            self.mine = keras.metrics.Mean(name="mine")

    assert "mine" not in fit(trainer(Outside))
    with pytest.raises(LooplabError, match=r"'mine' of self.mine was created outside .* Create it in setup"):
        fit(trainer(Outside, strategy=2))


@pytest.mark.slow
def test_a_metric_that_no_step_updates_is_told_of(caplog):
    with caplog.at_level(logging.WARNING, "looplab"):
        history = fit(made_with(mean, lambda own, values: None))
    assert "mine" not in history
    assert "the metric 'mine' of self.mean is not logged: no step calls its update_state" in caplog.text


@pytest.mark.slow
def test_a_copy_of_a_metric_counts_for_itself():
    made = made_with(mean, update)
    fit(made)
    other = copy.deepcopy(made.mean)
    other.update_state(3.0)
    assert float(other.result()) == 3.0 and float(made.mean.count.numpy()) == 0
