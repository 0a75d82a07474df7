"""A person's Python over tensors works in steps, losses and metrics; looplab's own is left alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from tests.conftest import make_strategy

X = np.linspace(-1, 1, 24, dtype="float32").reshape(12, 2)
Y = X.sum(axis=1, keepdims=True)


def model():
    return keras.Sequential([keras.layers.Dense(1)])


def huber(y_true, y_pred):
    error = y_true - y_pred
    if tf.reduce_mean(tf.abs(error)) > 100.0:
        return tf.abs(error)[:, 0]
    return tf.square(error)[:, 0]


class Counted(keras.metrics.Metric):
    def __init__(self, name="counted"):
        super().__init__(name=name)
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        for value in y_pred[:, 0]:
            if value < 1e6:
                self.total.assign_add(1.0)

    def result(self):
        return self.total


class Branches(looplab.Trainer):
    """`if`, `while` and `for` over tensors, in the step and in the loss."""

    def train_step(self, batch):
        logs = self.minimize(self.compute_loss, batch)
        rounds = tf.constant(0.0)
        while rounds < 3.0:
            rounds += 1.0
        if self.step % 2 == 0:
            even = tf.constant(1.0)
        else:
            even = tf.constant(0.0)
        return {**logs, "rounds": rounds, "even": even}

    def compute_loss(self, batch, training):
        x, y = batch
        values = self.square(self.model(x, training=training) - y)
        if tf.reduce_sum(values) > 1e9:
            values = tf.zeros_like(values)
        self.update_metrics(y, self.model(x))
        return values

    def square(self, error):
        total = tf.zeros_like(error)
        for _ in tf.range(2):
            total += error * error / 2.0
        return total[:, 0]

    def predict_step(self, batch):
        found = self.model(batch)
        if tf.reduce_sum(found) > 1e9:
            found = -found
        return found


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("replicas", "execution"),
    [
        (2, "graph"),
        (1, "xla_step"),
        (1, "eager"),
        pytest.param(1, "graph", marks=pytest.mark.slow),
        pytest.param(2, "xla_step", marks=pytest.mark.slow),
        pytest.param(2, "eager", marks=pytest.mark.slow),
    ],
)
def test_python_over_tensors_works_wherever_a_person_writes_it(replicas, execution):
    how = {"run_eagerly": True} if execution == "eager" else {"execution": execution}
    metrics = [Counted] if execution != "xla_step" else []  # its loop has no fixed length
    trainer = Branches(model, "sgd", metrics=metrics, strategy=make_strategy(replicas), **how)
    history = trainer.fit((X, Y), batch_size=4, verbose=0).history
    assert history["rounds"] == [3.0]
    assert history["even"] == [pytest.approx(2 / 3)]  # of steps 0, 1 and 2
    assert not metrics or history["counted"] == [12.0]
    assert trainer.predict(X).shape == (12, 1)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_so_it_does_in_a_loss_function(replicas):
    trainer = looplab.Trainer(model, "sgd", huber, strategy=make_strategy(replicas))
    plain = looplab.Trainer(model, "sgd", "mse", strategy=make_strategy(replicas))
    losses = [each.fit(X, Y, batch_size=5, verbose=0).history["loss"] for each in (trainer, plain)]
    assert losses[0] == pytest.approx(losses[1])


def test_only_a_persons_code_is_translated(monkeypatch):
    from tensorflow.python.autograph.impl import api

    seen = []
    convert = api._convert_actual
    monkeypatch.setattr(
        api, "_convert_actual", lambda entity, ctx: seen.append(entity.__module__) or convert(entity, ctx)
    )
    Branches(model, "sgd", metrics=[Counted]).fit((X, Y), batch_size=4, validation_data=(X, Y), verbose=0)
    assert set(seen) == {__name__, "looplab.execution.autograph"}  # there the line that stands for a function


class Seldom(looplab.Trainer):
    """Makes its update under an `if`."""

    def train_step(self, batch):
        if self.step % 2 == 0:
            return self.minimize(self.compute_loss, batch)
        return {"loss": 0.0, "skipped": 1.0}


class Torn(looplab.Trainer):
    """Has such an `if` in its loss, where no update is made."""

    def compute_loss(self, batch, training):
        values = self.model(batch[0])[:, 0]
        if self.step % 2 == 0:
            return {"even": values}
        return {"odd": values, "rest": values}


@pytest.mark.parametrize("kind", [Seldom, Torn])
def test_an_update_under_an_if_is_told_of_when(kind):
    trainer = kind(lambda: keras.Sequential([keras.layers.Dense(1)]), "sgd", "mse", execution="graph")
    with pytest.raises(looplab.errors.ControlFlowError, match="the same nested structure") as error:
        trainer.build(np.ones((4, 2), "float32"), np.ones((4, 1), "float32"))
    assert ("Gate an update with minimize(..., when=condition)" in str(error.value)) == (kind is Seldom)
