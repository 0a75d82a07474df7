"""`check_step` finds losses that compare examples across the batch, however it may split the batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.testing import StepDiffers, check_step

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(8, 3)).astype("float32"), RNG.normal(size=8).astype("float32")
SPLITS = {
    "replicas": {"replicas": (2,), "micro_batches": (1,), "modes": ()},
    "micro-batches": {"replicas": (1,), "micro_batches": (2,), "modes": ()},
    "neither": {"replicas": (1,), "micro_batches": (1,), "modes": ("graph",)},
}


def model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def normalized():
    return keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)])


class Own(looplab.Trainer):
    def compute_loss(self, batch, training):
        x, y = batch
        return self.values(y, self.model(x, training=training)[:, 0])

    def values(self, y, predictions):
        return tf.square(y - predictions)


class Mean(Own):
    """Compares each example with the mean of the batch."""

    def values(self, y, predictions):
        return tf.square(predictions - tf.reduce_mean(predictions)) + tf.square(y - predictions)


class Ranks(Own):
    """Compares each example with its neighbour."""

    def values(self, y, predictions):
        return tf.nn.relu(1.0 - (predictions - tf.roll(predictions, 1, axis=0)))


class Hidden(Own):
    """Its values do not show it: only the gradient does."""

    def values(self, y, predictions):
        mean = tf.reduce_mean(predictions)
        return tf.square(y - predictions) * (1.0 + mean - tf.stop_gradient(mean))


class Weighted(Own):
    """Weighs each example by its share of the batch."""

    def values(self, y, predictions):
        return {"fit": tf.square(y - predictions), "rank": (predictions, tf.nn.softmax(predictions))}


class Broadcast(looplab.Trainer):
    """Targets [n] against predictions [n, 1], in a loss that no trace for other rows tells of."""

    def compute_loss(self, batch, training):
        x, y = batch
        if (y.shape[0] or 0) > len(Y):
            raise ValueError("made for few rows")
        return tf.square(y - self.model(x, training=training))


class Gathered(Mean):
    separable = False

    def values(self, y, predictions):
        return tf.square(predictions - tf.reduce_mean(self.all_gather(predictions)))


def refused(trainer, batch=(X, Y), **asked):
    with pytest.raises(StepDiffers) as caught:
        check_step(trainer, batch, **asked)
    return caught.value


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("kind", "axis", "split"),
    [
        *((Mean, "axis 0", split) for split in SPLITS),
        *((Broadcast, "axis 1", split) for split in SPLITS),
        (Ranks, "axis 0", "neither"),
        (Weighted, "axis 0", "micro-batches"),
    ],
)
def test_a_loss_that_looks_across_the_batch_is_found(kind, axis, split):
    error = refused(kind(model, "sgd"), **SPLITS[split])
    assert error.cause == "across the batch", error
    said = str(error)
    assert "looks across the batch" in said and axis in said
    assert "separable = False" in said and "self.all_gather(" in said


def test_a_loss_with_other_values_alone_is_shown_an_example():
    said = str(refused(Mean(model, "sgd"), **SPLITS["neither"]))
    assert "the step's loss on the batch differs from that on its two halves" in said
    assert "among all 8, " in said and "among 4)" in said


def test_shapes_that_broadcast_are_named():
    said = str(refused(Broadcast(model, "sgd"), **SPLITS["neither"]))
    assert "shape [8, 8] for 8 examples and [4, 4] for 4" in said and "y[:, None]" in said


def test_a_gradient_that_looks_across_is_found_where_values_do_not():
    error = refused(Hidden(model, "sgd"), **SPLITS["neither"])
    assert error.cause == "across the batch" and "separable = False" in str(error)


def test_a_term_of_several_is_named():
    assert "the loss term 'rank' looks across" in str(refused(Weighted(model, "sgd"), **SPLITS["neither"]))


@pytest.mark.share(1)
@pytest.mark.parametrize(
    "trainer",
    [
        lambda: Own(model, "sgd"),
        lambda: Own(normalized, "sgd"),
        lambda: looplab.Trainer(normalized, "sgd", "mse", ["mae"]),
        lambda: Gathered(model, "sgd"),
    ],
    ids=["each example", "batch normalisation", "Keras", "not separable"],
)
def test_others_pass_where_nothing_is_split(trainer):
    report = check_step(trainer(), (X, Y), **SPLITS["neither"])
    assert {row.verdict for row in report.rows} == {"same"}


class Noisy(Own):
    """Draws in Python, which no seed decides."""

    def values(self, y, predictions):
        return tf.square(y - predictions) * np.random.default_rng().uniform(1.0, 2.0)


def test_a_loss_that_is_another_one_each_time_is_not_said_to_look_across():
    check_step(Noisy(model, "sgd"), (X, Y), **SPLITS["neither"])


def test_a_step_with_a_tape_of_its_own_is_said_not_to_be_compared_on_slices():
    class Tape(Own):
        def train_step(self, batch):
            variables = self.model.trainable_variables
            with tf.GradientTape() as tape:
                total = tf.reduce_sum(self.compute_loss(batch, True))
            self.apply_gradients(tape.gradient(total, variables), variables, weight=8.0)
            return {"loss": total}

    report = check_step(Tape(model, "sgd"), (X, Y), **SPLITS["neither"])
    assert report.notes == ["the step makes its gradients itself: not compared on slices"]


@pytest.mark.slow
def test_what_is_gathered_passes_on_replicas():
    report = check_step(Gathered(model, "sgd"), (X, Y), **SPLITS["replicas"])
    assert {row.verdict for row in report.rows} == {"same"}
