"""What `fit` does with data: weights by class and held-out examples as Keras, augmentation in the step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.data import split_and_weigh
from tests.conftest import make_strategy

rng = np.random.default_rng(0)
X = rng.normal(size=(22, 3)).astype("float32")
Y = rng.integers(0, 3, 22)
LOSS = "sparse_categorical_crossentropy"


def net():
    return keras.Sequential([keras.Input([3]), keras.layers.Dense(3, "softmax", kernel_initializer="ones")])


def trainer(loss=LOSS, **options):
    return looplab.Trainer(net, keras.optimizers.SGD(0.5), loss, **options)


@pytest.mark.share(1)
@pytest.mark.parametrize("one_hot", [False, True], ids=["classes", "one-hot"])
def test_class_weight_makes_the_updates_of_keras(one_hot):
    loss = "categorical_crossentropy" if one_hot else LOSS
    targets = np.eye(3, dtype="float32")[Y] if one_hot else Y
    options = {
        "batch_size": 8,
        "epochs": 2,
        "class_weight": {0: 3.0, 2: 0.25},
        "shuffle": False,
        "verbose": 0,
    }
    keras_model = net()
    keras_model.compile(keras.optimizers.SGD(0.5), loss)
    expected = keras_model.fit(X, targets, validation_split=0.3, **options).history
    ours = trainer(loss)
    found = ours.fit(X, targets, validation_split=0.3, **options).history
    for own, others in zip(ours.model.get_weights(), keras_model.get_weights(), strict=True):
        np.testing.assert_allclose(own, others, rtol=1e-5)
    np.testing.assert_allclose(found["val_loss"], expected["val_loss"], rtol=1e-5)  # not weighted


def test_class_weight_is_refused_where_it_has_no_meaning():
    def fit(*data, **more):
        trainer().fit(*data, verbose=0, **more)

    with pytest.raises(looplab.ConfigurationError, match="already has a sample_weight"):
        fit(X, Y, sample_weight=np.ones(22), class_weight={0: 2.0})
    with pytest.raises(looplab.ConfigurationError, match="one target"):
        fit(X, class_weight={0: 2.0})
    with pytest.raises(looplab.ConfigurationError, match="from class to weight"):
        fit(X, Y, class_weight={"a": 2.0})
    with pytest.raises(looplab.ConfigurationError, match="validation_split and validation_data"):
        fit(X, Y, validation_split=0.2, validation_data=(X, Y))
    with pytest.raises(looplab.ConfigurationError, match="above 0 and below 1"):
        fit(X, Y, validation_split=1.5)


def test_weights_of_classes_that_cannot_be_are_refused_and_of_unseen_ones_said(caplog):
    def fit(y, class_weight, loss=LOSS, data=None):
        caplog.clear()
        given = (X, y) if data is None else data
        trainer(loss).fit(given, class_weight=class_weight, verbose=0)
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    says = "class_weight: there is no class 3, -1; {} has 3 classes, 0 to 2."
    with pytest.raises(looplab.ConfigurationError, match=says.format("the model's output")):
        fit(Y, {0: 2.0, 3: 1.0, -1: 1.0})
    with pytest.raises(looplab.ConfigurationError, match=says.format("the model's output")):
        fit(Y, {3: 1.0, -1: 1.0}, data=tf.data.Dataset.from_tensor_slices((X, Y)).batch(8))
    one_hot = np.eye(3, dtype="float32")[Y]
    data = tf.data.Dataset.from_tensor_slices((X, one_hot)).batch(8)
    for kind in (None, data):
        with pytest.raises(looplab.ConfigurationError, match=says.format("the one-hot target")):
            fit(one_hot, {3: 1.0, -1: 1.0}, "categorical_crossentropy", kind)
    assert fit(np.minimum(Y, 1), {0: 2.0, 2: 5.0}) == [
        "class_weight: no training example has the class 2; the classes in the data are 0, 1"
    ]
    assert fit(Y, {0: 2.0, 2: 5.0}) == []


def test_a_split_of_examples_that_are_sorted_by_class_is_said(caplog):
    def split(y):
        caplog.clear()
        trainer().fit(X, y, validation_split=0.5, verbose=0)
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    assert split(np.sort(Y)) == [
        "validation_split=0.5 holds out the last examples: the training examples lack the class 2, the "
        "held-out examples lack the class 0. Shuffle the examples once before, or give validation_data"
    ]
    assert split(np.arange(22) % 3) == []
    caplog.clear()
    split_and_weigh((X, np.arange(22)), None, 0.5, None)  # counts, not classes
    assert caplog.records == []


def test_labels_out_of_range_are_found_before_training():
    wrong = Y.copy()
    wrong[7], wrong[9] = 3, -1
    with pytest.raises(
        looplab.DataError, match=r"training data: the label of row 7 .* is 3.*3 classes.* 2 of 22"
    ):
        trainer().fit(X, wrong, verbose=0)
    with pytest.raises(looplab.DataError, match="validation data: the label of row 7"):
        trainer().fit(X, Y, validation_data=(X, wrong), verbose=0)
    data = tf.data.Dataset.from_tensor_slices((X, wrong)).batch(8)  # known when it is read
    with pytest.raises(looplab.DataError, match=r"a label is out of range: it is (3|-1).*batch"):
        trainer().fit(data, verbose=0)


IMAGES = rng.uniform(size=(12, 6, 6, 1)).astype("float32")
CLASSES = rng.integers(0, 2, 12)


def augmented():
    return keras.Sequential([
        keras.Input([6, 6, 1]),
        keras.layers.RandomFlip(),
        keras.layers.RandomTranslation(0.3, 0.3),
        keras.layers.Flatten(),
        keras.layers.Dense(2, "softmax"),
    ])  # fmt: skip


class Seeing(looplab.Trainer):
    """Logs what the augmentation made of the first image on this replica."""

    def train_step(self, batch):
        images = self.model.layers[1](
            self.model.layers[0](tf.ones_like(batch[0]) * RAMP, training=True), training=True
        )
        return {**self.minimize(self.compute_loss, batch), "seen": tf.reduce_mean(images[:, 0, 0, 0])}


RAMP = np.arange(36, dtype="float32").reshape(1, 6, 6, 1)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_augmentation_inside_the_step_is_seeded_and_resumes(tmp_path, replicas):
    def fit(run_dir, epochs, seed=0):
        made = Seeing(
            augmented, "sgd", LOSS, seed=seed, strategy=make_strategy(replicas), run_dir=run_dir, log_every=1
        )
        history = made.fit(IMAGES, CLASSES, batch_size=4, epochs=epochs, verbose=0)
        return made.model.get_weights(), history.history["seen"]

    whole, seen = fit(tmp_path / "whole", 2)
    assert len(set(seen)) == 2
    fit(tmp_path / "cut", 1)
    resumed, again = fit(tmp_path / "cut", 2)
    assert again == seen
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)
    assert fit(None, 2, seed=1)[1] != seen


@pytest.mark.slow
def test_replicas_augment_their_rows_differently():
    class Ways(looplab.Trainer):
        def train_step(self, batch):
            same = tf.repeat(RAMP, tf.shape(batch[0])[0], axis=0)
            image = self.model.layers[1](same, training=True)[0, 0, 0, 0]
            both = self.all_gather(image[None])
            return {**self.minimize(self.compute_loss, batch), "apart": tf.abs(both[0] - both[-1])}

    made = Ways(augmented, "sgd", LOSS, strategy=make_strategy(2))
    assert made.fit(IMAGES, CLASSES, batch_size=4, epochs=1, verbose=0).history["apart"][0] > 0
