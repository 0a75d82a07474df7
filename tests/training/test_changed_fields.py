"""What a step reads from Python counts as it is now: a change is noticed, said once, and traced anew."""

import dataclasses
import functools
import logging
from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.errors import ConfigurationError

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = X[:, :1] * 2


def network():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="stem"), keras.layers.Dense(1)])


def still():
    """An optimizer that leaves all as it is, so that a loss tells with which values it was computed."""
    return keras.optimizers.SGD(0.0)


class Beta(looplab.Trainer):
    """Its loss is `beta`, whatever the weights are."""

    beta = 1.0
    seen = 0

    def compute_loss(self, batch, training):
        return 0 * tf.reduce_sum(self.model(batch[0], training=training), -1) + self.value()

    def value(self):
        return self.beta


def fit(trainer, epochs, **more):
    return trainer.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, **more).history


def steps_of(trainer):
    return trainer._engine.loops.of("train")


def said(caplog):
    return [r.getMessage() for r in caplog.records if r.getMessage().endswith(", step traced anew")]


@pytest.fixture(autouse=True)
def _heard(caplog):
    caplog.set_level(logging.INFO, logger="looplab")


class Sets(looplab.Callback):
    every = None

    def __init__(self, does):
        self.does = does

    def on_epoch_begin(self, event, controls):
        self.does(event.epoch)


class KerasSets(keras.callbacks.Callback):
    def __init__(self, does):
        super().__init__()
        self.does = does

    def on_epoch_begin(self, epoch, logs=None):
        self.does(epoch + 1)


WAYS = {
    "graph": {"execution": "graph"},
    "xla_step": {"execution": "xla_step"},
    "xla_loop": {"execution": "xla_loop"},
    "eagerly": {"run_eagerly": True},
    "replicas": {"strategy": "simulated", "execution": "graph"},
    "micro": {"micro_batches": 2, "execution": "graph"},
    "auto": {},
}


def slow(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.share(1)
@pytest.mark.parametrize(
    "way", ["eagerly", "replicas", *slow("graph", "xla_step", "xla_loop", "micro", "auto")]
)
def test_a_field_counts_from_its_change_on_in_every_mode(way, caplog):
    trainer = Beta(network, still, **WAYS[way])
    callback = (Sets if way in ("graph", "xla_loop") else KerasSets)(
        lambda e: setattr(trainer, "beta", e + 0.5)
    )
    history = fit(trainer, 2, callbacks=[callback], validation_data=(X, Y))
    assert history["loss"] == history["val_loss"] == [1.5, 2.5]
    trainer.beta = 7.0
    assert trainer.evaluate(X, Y)["loss"] == 7.0
    assert fit(trainer, 3, validation_data=(X, Y))["loss"] == [1.5, 2.5, 7.0]
    eager = way == "eagerly"
    lines = ["beta: 1.5 -> 2.5, step traced anew", "beta: 2.5 -> 7.0, step traced anew"]
    assert said(caplog) == ([] if eager else lines)


def test_nothing_is_traced_where_nothing_that_the_step_reads_has_changed(caplog):
    trainer = Beta(network, still, execution="graph")
    trainer.samples = []

    def count(epoch):
        trainer.seen += 1
        trainer.samples.append(epoch)
        trainer.beta = float("1.0")  # as it was

    fit(trainer, 1, callbacks=[Sets(count)], validation_data=(X, Y))
    loop, traces = steps_of(trainer), steps_of(trainer).traces()
    fit(trainer, 4, callbacks=[Sets(count)], validation_data=(X, Y))
    trainer.evaluate(X, Y)
    assert steps_of(trainer) is loop and loop.traces() == traces == (1, 1)
    assert trainer.seen == 4 and not said(caplog)
    assert "__getattribute__" not in vars(Beta)


@dataclasses.dataclass
class Settings:
    weight: float = 1.0
    calls: int = 0


def _set(**fields):
    return lambda trainer: [setattr(trainer, name, value) for name, value in fields.items()]


KINDS = {  # the field, how value() reads it, how it changes, the loss afterwards, what is said
    "list": ([1.0], lambda t: sum(t.beta), lambda t: t.beta.append(2.0), 3.0, "beta: [1.0] -> [1.0, 2.0]"),
    "dict": (
        {"a": 1.0},
        lambda t: t.beta["a"],
        lambda t: t.beta.update(a=2.0),
        2.0,
        "beta: {'a': 1.0} -> {'a': 2.0}",
    ),
    "array": (
        np.ones(9),
        lambda t: float(t.beta.sum()),
        lambda t: t.beta.__setitem__(0, 3.0),
        11.0,
        "beta: changed in place",
    ),
    "record": (
        Settings(),
        lambda t: t.beta.weight,
        lambda t: setattr(t.beta, "weight", 2.0),
        2.0,
        "beta.weight: 1.0 -> 2.0",
    ),
    "records": (
        [Settings()],
        lambda t: t.beta[0].weight,
        lambda t: setattr(t.beta[0], "weight", 2.0),
        2.0,
        "beta[0].weight: 1.0 -> 2.0",
    ),
    "tensor": (1.0, lambda t: t.beta, _set(beta=tf.constant(2.0)), 2.0, "beta: 1.0 -> <tf.Tensor"),
    "function": (
        1.0,
        lambda t: t.beta() if callable(t.beta) else t.beta,
        _set(beta=lambda: 2.0),
        2.0,
        "beta: 1.0 -> ",
    ),
    "partial": (
        functools.partial(float, 1),
        lambda t: t.beta(),
        _set(beta=functools.partial(float, 2)),
        2.0,
        "beta: functools.partial(<class 'float'>, 1) -> ",
    ),
    "deleted": (5.0, lambda t: t.beta, lambda t: delattr(t, "beta"), 1.0, "beta: 5.0 -> 1.0"),
    "nan": (
        float("nan"),
        lambda t: 0.0 if t.beta != t.beta else t.beta,
        _set(beta=2.0),
        2.0,
        "beta: nan -> 2.0",
    ),
    "bool": (1, lambda t: 1.0 if t.beta is not True else 2.0, _set(beta=True), 2.0, "beta: 1 -> True"),
    "absent": (1.0, lambda t: getattr(t, "extra", 1.0), _set(extra=2.0), 2.0, "extra: absent -> 2.0"),
    "of class": (
        1.0,
        lambda t: type(t).shared,
        lambda t: setattr(type(t), "shared", 2.0),
        2.0,
        "shared: 1.0 -> 2.0",
    ),
    "property": (1.0, lambda t: t.doubled, _set(beta=2.0), 4.0, "beta: 1.0 -> 2.0"),
}


class Fields(Beta):
    shared = 1.0

    @property
    def doubled(self):
        return 2 * self.beta


@pytest.mark.share(1)
@pytest.mark.parametrize("kind", KINDS)
def test_a_field_of_any_kind(kind, caplog):
    field, reads, change, after, line = KINDS[kind]

    class Own(Fields):
        def value(self):
            return reads(self)

    trainer = Own(network, still, execution="graph")
    if kind == "of class":
        Own.value = lambda self: type(self).shared
        Own.shared = 1.0
    trainer.beta = field
    fit(trainer, 1)
    loop = steps_of(trainer)
    fit(trainer, 2)
    assert steps_of(trainer) is loop
    change(trainer)
    assert fit(trainer, 3)["loss"][-1] == after
    (message,) = said(caplog)
    assert message.startswith(line)
    loop = steps_of(trainer)
    fit(trainer, 4)
    assert steps_of(trainer) is loop and len(said(caplog)) == 1


def test_what_the_step_itself_changes_is_said_once_and_traces_nothing(caplog):
    class Counts(Beta):
        count, scratch = 0, 0.0

        def train_step(self, batch):
            self.count += 1
            self.scratch = tf.reduce_sum(batch[0])
            self.made = lambda: self.scratch  # another one in each trace
            return {**self.minimize(self.compute_loss, batch), "scratch": self.made()}

    trainer = Counts(network, still, execution="graph")
    fit(trainer, 2, callbacks=[Sets(lambda epoch: None)])
    loop = steps_of(trainer)
    fit(trainer, 4, callbacks=[Sets(lambda epoch: None)])
    assert steps_of(trainer) is loop and not said(caplog)
    (warning,) = [r.getMessage() for r in caplog.records if "the step itself changes" in r.getMessage()]
    assert "changes count (" in warning and "tf.Variable" in warning


@pytest.mark.slow
def test_the_remedy_is_named_once_at_the_fifth_change(caplog):
    trainer = Beta(network, still, execution="graph")
    fit(trainer, 7, callbacks=[Sets(lambda epoch: setattr(trainer, "beta", float(epoch)))])
    assert len(said(caplog)) == 6
    (remedy,) = [r.getMessage() for r in caplog.records if "has changed 5 times" in r.getMessage()]
    assert "self.beta = tf.Variable(6.0, trainable=False)" in remedy


class Scaled(keras.losses.Loss):
    factor = 1.0

    def call(self, y_true, y_pred):
        return self.factor + 0 * y_pred


class Biased(keras.metrics.Mean):
    def __init__(self, bias):
        super().__init__(name="biased")
        self.bias, self.asked = bias, 0

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(self.bias + 0 * y_pred)

    def result(self):
        self.asked += 1  # on the host: no step reads it
        return super().result()


@pytest.mark.parametrize("way", ["graph", *slow("replicas", "eagerly")])
def test_a_field_of_a_given_loss_and_of_a_metric(way, caplog):
    loss, metric = Scaled(), Biased(1.0)
    trainer = looplab.Trainer(
        network, still, loss, metrics=[] if way == "replicas" else [metric], **WAYS[way]
    )
    fit(trainer, 2, validation_data=(X, Y))
    assert not said(caplog)
    loss.factor = metric.bias = 3.0
    history = fit(trainer, 3, validation_data=(X, Y))
    assert history["loss"] == history["val_loss"] == [1.0, 1.0, 3.0]
    if way != "eagerly":
        lines = ["loss.factor: 1.0 -> 3.0", "metric biased.bias: 1.0 -> 3.0"]
        assert (
            sorted(said(caplog)[0].removesuffix(", step traced anew").split("; "))
            == lines[: 1 + (way == "graph")]
        )
    if way != "replicas":
        assert history["biased"] == history["val_biased"] == [1.0, 1.0, 3.0]


def kernels(trainer):
    return [layer.kernel.numpy().copy() for layer in trainer.model.layers]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["graph", *slow("xla_loop", "eagerly", "replicas")])
def test_what_is_trainable_counts_and_back(way, caplog):
    trainer = looplab.Trainer(network, lambda: keras.optimizers.Adam(0.1), "mse", **WAYS[way])
    stem, seen = trainer.model.layers[0], []

    def freeze(epoch):
        seen.append(kernels(trainer))
        stem.trainable = epoch != 2

    fit(trainer, 3, callbacks=[KerasSets(freeze)])
    seen.append(kernels(trainer))
    moved = [[bool((a != b).any()) for a, b in zip(*pair, strict=True)] for pair in pairwise(seen)]
    assert moved == [[True, True], [False, True], [True, True]]
    assert [line.partition(",")[0] for line in said(caplog)] == (
        [] if way == "eagerly" else ["stem.trainable: True -> False", "stem.trainable: False -> True"]
    )


@pytest.mark.slow
def test_a_frozen_weight_alone_and_as_a_new_run_has_it():
    def run(freeze):
        trainer = looplab.Trainer(network, lambda: keras.optimizers.SGD(0.1), "mse", seed=3)
        freeze(trainer)
        fit(trainer, 2)
        return kernels(trainer)

    def early(trainer):
        trainer.model.layers[0].kernel.trainable = False

    def late(trainer):
        trainer.rehearse(X, Y, epochs=2)
        trainer.model.layers[0].kernel.trainable = False

    np.testing.assert_array_equal(run(early)[0], run(late)[0])
    np.testing.assert_array_equal(run(early)[1], run(late)[1])


@pytest.mark.share(1)
@pytest.mark.parametrize("way", ["graph", "eagerly"])
def test_what_no_optimizer_was_built_for_is_refused_with_the_remedy(way):
    trainer = looplab.Trainer(network, lambda: keras.optimizers.Adam(0.1), "mse", **WAYS[way])
    trainer.model.layers[0].trainable = False
    fit(trainer, 1)
    trainer.model.layers[0].trainable = True
    trainer.evaluate(X, Y)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"stem.trainable: False -> True.*stem/kernel.*Freeze"):
            fit(trainer, 2)
    trainer.model.layers[0].trainable = False
    fit(trainer, 2)
    again = looplab.Trainer(trainer.model, lambda: keras.optimizers.Adam(0.1), "mse", **WAYS[way])
    trainer.model.layers[0].trainable = True
    before = kernels(again)
    fit(again, 1)
    assert all((a != b).any() for a, b in zip(before, kernels(again), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["graph", *slow("replicas")])
def test_other_layers_are_run_where_variables_stay_and_else_refused(way, caplog):
    trainer = looplab.Trainer(network, still, "mse", **WAYS[way])
    fit(trainer, 1)
    before = trainer.evaluate(X, Y)["loss"]
    trainer.model.add(keras.layers.Rescaling(0.0))
    assert trainer.evaluate(X, Y)["loss"] == pytest.approx(np.mean(Y**2)) != before
    np.testing.assert_array_equal(trainer.predict(X), 0 * Y)
    assert fit(trainer, 2)["loss"][-1] == pytest.approx(np.mean(Y**2))
    assert said(caplog) == ["the layers of model: none -> rescaling, step traced anew"]
    trainer.model.add(keras.layers.Dense(1, name="another"))
    with pytest.raises(ConfigurationError, match=r"none -> another.*new: model/another/kernel.*new Trainer"):
        fit(trainer, 3)


def test_predictions_are_those_of_the_layers_and_fields_of_now():
    class Scales(looplab.Trainer):
        scale = 1.0

        def predict_step(self, batch):
            return self.scale * super().predict_step(batch)

    trainer = Scales(network)
    before = trainer.predict(X)
    trainer.scale = 2.0
    np.testing.assert_allclose(trainer.predict(X), 2 * before, rtol=1e-6)
    trainer.model.pop()
    trainer.model.add(keras.layers.Dense(5))
    assert trainer.predict(X).shape == (8, 5)


@pytest.mark.slow
def test_another_method_of_the_same_trainer_counts():
    trainer = Beta(network, still, execution="graph")
    fit(trainer, 1)
    trainer.value = lambda: 4.0
    assert fit(trainer, 2)["loss"] == [1.0, 4.0]
    trainer.train_step = lambda batch: {"loss": tf.constant(9.0)}
    trainer.compute_loss = None
    assert fit(trainer, 3)["loss"] == [1.0, 4.0, 9.0]


@pytest.mark.slow
def test_another_number_of_updates_is_that_of_a_step_in_python():
    class Twice(looplab.Trainer):
        more = False

        def train_step(self, batch):
            logs = self.minimize(self.compute_loss, batch)
            again = self.minimize(self.compute_loss, batch) if self.more else logs
            return {**logs, "again": again["loss"]}

    def run(**how):
        trainer = Twice(network, lambda: keras.optimizers.SGD(0.05), "mse", **how)
        history = fit(trainer, 4, callbacks=[Sets(lambda epoch: setattr(trainer, "more", epoch > 2))])
        return history["loss"], kernels(trainer)

    for one, other in zip(*(run(**WAYS[way]) for way in ("graph", "eagerly")), strict=True):
        for own, its in zip(one, other, strict=True):
            np.testing.assert_allclose(own, its, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Sets, *slow(KerasSets)])
def test_a_run_that_goes_on_has_what_was_in_force(tmp_path, kind):
    """A callback changes a field, a list, a loss and what is trainable by epoch; the run stops within one."""

    class Weighted(looplab.Trainer):
        beta, parts = 1.0, ()

        def compute_loss(self, batch, training):
            return self.beta * sum(self.parts) * super().compute_loss(batch, training).total[None]

    class Loss(keras.losses.Loss):
        factor = 1.0

        def call(self, y_true, y_pred):
            return self.factor * tf.reduce_mean((y_true - y_pred) ** 2, -1)

    def run(folder, *lengths):
        for steps in lengths:
            trainer = Weighted(
                network, lambda: keras.optimizers.Adam(0.1), loss := Loss(), run_dir=folder, execution="graph"
            )
            trainer.parts = [1.0]

            def change(epoch, trainer=trainer, loss=loss):
                trainer.beta, trainer.model.layers[0].trainable = 1.0 + epoch, epoch != 2
                trainer.parts[:] = [1.0] * (epoch + 1)
                loss.factor = 1.0 / epoch

            trainer.fit(X, Y, batch_size=2, steps=steps, callbacks=[kind(change)], verbose=0)
        return kernels(trainer), trainer

    whole, _ = run(tmp_path / "whole", 12)
    parted, trainer = run(tmp_path / "parts", 6, 9, 12)
    for one, other in zip(whole, parted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (trainer.beta, len(trainer.parts)) == (4.0, 4)


def test_what_a_user_sets_before_a_run_goes_on_counts_and_is_said(tmp_path, caplog):
    def run(beta, steps):
        trainer = Beta(network, still, run_dir=tmp_path, run_eagerly=True)
        trainer.beta = beta
        change = Sets(lambda epoch: setattr(trainer, "beta", beta + epoch))
        return trainer.fit(X, Y, batch_size=4, steps=steps, callbacks=[change], verbose=0).history["loss"]

    assert run(1.0, 3) == [2.0, 3.0]
    assert run(10.0, 4) == [2.0, 6.5]  # the mean of 3 and 10
    assert (
        "beta was 3.0 at the checkpoint, but is 10.0 now: the run goes on with the present value."
        in caplog.text
    )


def test_a_metric_and_a_number_that_a_change_brings_are_shown_and_reset_from_there_on():
    class Later(looplab.Trainer):
        watched = False

        def setup(self):
            self.seen = keras.metrics.Sum(name="seen")

        def compute_loss(self, batch, training):
            if self.watched:
                self.seen.update_state(keras.ops.ones_like(batch[1]))
                self.log("size", keras.ops.shape(batch[1])[0])
            return super().compute_loss(batch, training)

    trainer = Later(network, lambda: keras.optimizers.SGD(0.05), "mse", execution="graph")
    assert "seen" not in fit(trainer, 1)
    trainer.watched = True
    history = fit(trainer, 3)
    assert history["seen"] == [float(Y.size)] * 2 and history["size"] == [8.0] * 2
