"""Losses that look across the batch are found by the shapes of a trace, and refused on parts of it."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.optimization.separability import dependence
from tests.conftest import make_strategy

RNG = np.random.default_rng(0)
N, CLASSES = 6, 4
X = RNG.normal(size=(8, 3)).astype("float32")
Y = X[:, :1]


def examples_for(name):
    """Targets and predictions that a loss of Keras takes."""
    labels = RNG.integers(0, CLASSES, N).astype("int32")
    shares = RNG.dirichlet(np.ones(CLASSES), N).astype("float32")
    if name == "CTC":
        return RNG.integers(1, 3, (N, 2)).astype("int32"), RNG.normal(size=(N, 5, CLASSES)).astype("float32")
    if "Sparse" in name or name in ("Circle", "CategoricalGeneralizedCrossEntropy"):
        return labels, shares
    if "Categorical" in name:
        return np.eye(CLASSES, dtype="float32")[labels], shares
    if "inary" in name or "inge" in name:
        return RNG.integers(0, 2, (N, CLASSES)).astype("float32"), shares
    return RNG.uniform(0.1, 0.9, (2, N, CLASSES)).astype("float32")


KERAS = sorted(
    name
    for name, own in vars(keras.losses).items()
    if isinstance(own, type) and issubclass(own, keras.losses.Loss) and own is not keras.losses.Loss
)


@pytest.mark.share(8)
@pytest.mark.parametrize("name", KERAS)
def test_shapes_tell_of_every_keras_loss_what_numbers_tell(name):
    loss = getattr(keras.losses, name)(reduction=None)
    targets, predictions = examples_for(name)
    whole = np.asarray(loss(targets, predictions))
    depends = whole.shape != (N,)  # one value for all
    if not depends:
        each = [np.asarray(loss(targets[i : i + 1], predictions[i : i + 1])) for i in range(N)]
        depends = not np.allclose(whole, np.concatenate(each), atol=1e-5)
    said = dependence(loss.call, tf.constant(targets), tf.constant(predictions))
    assert (said is not None) == depends, said


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda p: tf.reduce_sum(p**2, 1), None),
        (lambda p: tf.nn.softmax(p)[:, 0], None),
        (lambda p: tf.reshape(p, [-1]) ** 2, None),
        (lambda p: tf.reduce_sum(p, 1) - tf.reduce_mean(p), "Mean over axis 0"),
        (lambda p: p[:, 0] / tf.reduce_max(p[:, 0]), "Max over axis 0"),
        (lambda p: tf.reduce_sum(p - p[0], 1), "StridedSlice over axis 0"),
        (lambda p: tf.reduce_sum(p @ tf.transpose(p), 1), r"\[n, n\]"),
        (lambda p: tf.reduce_sum(tf.nn.softmax(p @ tf.transpose(p)), 1), r"\[n, n\]"),
    ],
)
def test_what_shapes_tell_of_a_function(function, words):
    said = dependence(function, tf.zeros([5, 3]))
    assert said is None if words is None else re.search(words, said)


def make_model(width=1):
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(width)])


LABELS = (np.arange(8) % 3).astype("int32")


@pytest.mark.share(5)
@pytest.mark.parametrize(
    "options", [{"replicas": 2}, {"micro_batches": 2}, {"micro_batches": 2, "replicas": 2}]
)
@pytest.mark.parametrize("loss", ["circle", keras.losses.Circle(), "dice"])
@pytest.mark.promise(41)
def test_a_keras_loss_across_the_batch_is_not_computed_on_parts_of_it(loss, options):
    replicas = options.get("replicas", 1)
    trainer = looplab.Trainer(
        lambda: make_model(3),
        "sgd",
        loss,
        strategy=make_strategy(replicas),
        micro_batches=options.get("micro_batches", 1),
    )
    targets = LABELS if loss != "dice" else np.eye(3, dtype="float32")[LABELS]
    with pytest.raises(looplab.LossError, match=r"cannot be computed on \d parts of it.*Use one device and"):
        trainer.fit(X, targets, batch_size=8, verbose=0)
    if replicas > 1:
        with pytest.raises(looplab.LossError, match="cannot be computed on 2 parts"):
            trainer.evaluate(X, targets, batch_size=8)


def test_on_one_device_it_trains_as_in_keras():
    model = make_model(3)
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    trainer = looplab.Trainer(model, keras.optimizers.SGD(0.125), "circle", execution="graph")
    shown = trainer.fit(X, LABELS, batch_size=4, shuffle=False, verbose=0).history["loss"]
    again.compile(keras.optimizers.SGD(0.125), "circle", run_eagerly=True)
    expected = again.fit(X, LABELS, batch_size=4, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(shown, expected, rtol=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], again.get_weights()[0], rtol=1e-5, atol=1e-6)


def own(give, separable=True):
    """A trainer whose loss gives what a function makes of predictions [n, 1] and targets [n]."""

    def compute_loss(self, batch, training):
        return give(self.model(batch[0], training=training), batch[1])

    return type("Own", (looplab.Trainer,), {"compute_loss": compute_loss, "separable": separable})


TWICE = {
    "values": lambda p, y: (p - y) ** 2,
    "a term": lambda p, y: {"first": (p[:, 0] - y) ** 2, "second": tf.abs(p - y)},
    "weighted values": lambda p, y: ((p - y) ** 2, tf.ones_like(y)),
    "weights": lambda p, y: ((p[:, 0] - y) ** 2, tf.ones_like(p) * y),
}


@pytest.mark.share(4)
@pytest.mark.parametrize("batch_size", [4, 3])  # of 8 rows: all batches of one size, and not
@pytest.mark.parametrize("case", TWICE)
@pytest.mark.promise(41)
def test_values_with_the_examples_along_two_axes_are_refused(case, batch_size):
    trainer = own(TWICE[case])(make_model, "sgd")
    with pytest.raises(looplab.LossError, match=r"examples along two axes, 0 and 1.*targets\[:, None\]"):
        trainer.fit(X, Y[:, 0], batch_size=batch_size, verbose=0)
    with pytest.raises(looplab.LossError, match="examples along two axes"):
        own(TWICE[case])(make_model, "sgd").evaluate(X, Y[:, 0], batch_size=batch_size)


def test_weights_of_examples_are_not_laid_along_another_axis():
    give = lambda p, y: (tf.stack([p[:, 0] - y] * 4, 1) ** 2, tf.ones_like(y))  # noqa: E731
    with pytest.raises(
        looplab.LossError, match=r"weights of the loss term 'loss' have shape \[n\].*weights\[:, None\]"
    ):
        own(give)(make_model, "sgd").fit(X, Y[:, 0], batch_size=4, verbose=0)


RIGHT = {
    "as many values as rows": lambda p, y: tf.stack([p[:, 0] - y] * 4, 1) ** 2,
    "weights of positions": lambda p, y: (tf.stack([p[:, 0] - y] * 4, 1) ** 2, tf.range(1.0, 5.0)),
    "an open axis": lambda p, y: tf.tile(
        (p[:, 0] - y)[:, None], [1, tf.cast(tf.reduce_max(y) * 0 + 2, tf.int32)]
    ),
}


@pytest.mark.share(1)
@pytest.mark.parametrize("case", RIGHT)
def test_other_axes_are_no_examples(case):
    own(RIGHT[case])(make_model, "sgd", execution="graph").fit(X, Y[:, 0], batch_size=4, epochs=1, verbose=0)


def test_a_loss_may_say_that_it_compares_examples():
    trainer = own(lambda p, y: (p - tf.transpose(p)) ** 2, separable=False)(
        make_model, "sgd", execution="graph"
    )
    trainer.fit(X, Y[:, 0], batch_size=4, verbose=0)


class Squares(keras.losses.Loss):
    """As a person writes it; Keras trains it on [n, n]."""

    def call(self, y_true, y_pred):
        return keras.ops.mean((y_true - y_pred) ** 2, axis=-1)


def test_a_loss_object_that_holds_n_against_n_1_is_refused():
    trainer = looplab.Trainer(make_model, "sgd", Squares())
    with pytest.raises(looplab.LossError, match=r"targets of shape \[n\] with predictions of shape \[n, 1\]"):
        trainer.fit(X, Y[:, 0], verbose=0)
    looplab.Trainer(make_model, "sgd", Squares(), execution="graph").fit(X, Y, verbose=0)


def test_weights_of_examples_weigh_all_values_of_each_in_a_keras_loss():
    def make_sequence():
        return keras.Sequential([keras.Input((4, 3)), keras.layers.Dense(2, "softmax")])

    x = RNG.normal(size=(4, 4, 3)).astype("float32")
    y, w = RNG.integers(0, 2, (4, 4)).astype("int32"), np.array([0.0, 1.0, 2.0, 3.0], "float32")
    trainer = looplab.Trainer(make_sequence, "sgd", "sparse_categorical_crossentropy", execution="graph")
    found = trainer.evaluate((x, y, w))["loss"]
    values = -np.log(np.take_along_axis(trainer.predict(x), y[..., None], -1))[..., 0]
    np.testing.assert_allclose(found, (values * w[:, None]).mean(), rtol=1e-5)
