"""Confusion matrix and precision-recall curve: exact on any number of replicas, shown for each split."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import looplab
from looplab.metrics import ConfusionMatrix, PRCurve
from tests.conftest import on_two_replicas

CLASSES = 3


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20))
@settings(max_examples=20)
def test_a_confusion_matrix_counts_pairs(pairs):
    true, said = np.array(pairs).T
    expected = np.zeros((CLASSES, CLASSES))
    np.add.at(expected, (true, said), 1)
    for targets in (true, true[:, None], np.eye(CLASSES)[true]):
        metric = ConfusionMatrix(CLASSES)
        metric.update_state(tf.constant(targets), tf.constant(5.0 * np.eye(CLASSES)[said]))
        np.testing.assert_array_equal(metric.result(), expected)
    weighted = ConfusionMatrix(CLASSES)
    weighted.update_state(tf.constant(true), tf.constant(np.eye(CLASSES)[said]), np.full(len(true), 0.5))
    np.testing.assert_array_equal(weighted.result(), expected / 2)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=1, max_size=30))
@settings(max_examples=20)
def test_a_curve_counts_what_a_threshold_lets_through(examples):
    true = np.array([own for own, _ in examples])
    scores = np.array([score / 10 for _, score in examples], "float32") + 0.001
    metric = PRCurve(thresholds=11)
    metric.update_state(tf.constant(true), tf.constant(scores[:, None]))
    (found,) = np.asarray(metric.result())
    for index, threshold in enumerate(np.linspace(0, 1, 11)):
        over = scores >= threshold
        tp, fp = (true & over).sum(), (~true & over).sum()
        np.testing.assert_array_equal(found[:4, index], [tp, fp, (~true & ~over).sum(), (true & ~over).sum()])
        assert found[4, index] == pytest.approx(tp / max(tp + fp, 1))
        assert found[5, index] == pytest.approx(tp / max(true.sum(), 1))


def test_each_class_has_a_curve_and_logits_are_understood():
    logits = tf.constant(np.random.default_rng(0).normal(size=(50, CLASSES)), tf.float32)
    true = tf.constant(np.arange(50) % CLASSES)
    curves = []
    for given_, from_logits in ((logits, True), (tf.nn.softmax(logits), False)):
        metric = PRCurve(CLASSES, from_logits=from_logits)
        metric.update_state(true, given_)
        curves.append(metric.result())
    np.testing.assert_array_equal(*curves)
    assert list(metric.pictures("pr")) == ["pr/0", "pr/1", "pr/2"]
    again = PRCurve.from_config(metric.get_config())
    assert again.get_config() == metric.get_config()


class Seen(looplab.Logger):
    def __init__(self):
        self.media, self.tags = [], set()

    def show(self, media):
        self.media.append(media)

    def write(self, record):
        self.tags |= set(record.values)


@pytest.mark.share(1)
@on_two_replicas
def test_a_run_shows_them_for_each_split_and_logs_no_mean_of_them(strategy):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 4)).astype("float32"), rng.integers(0, CLASSES, 23)
    seen = Seen()
    trainer = looplab.Trainer(
        lambda: keras.Sequential([keras.Input([4]), keras.layers.Dense(CLASSES, "softmax")]),
        "sgd",
        "sparse_categorical_crossentropy",
        ["accuracy", ConfusionMatrix(CLASSES), PRCurve(CLASSES)],
        strategy=strategy,
        loggers=[seen],
    )
    held = looplab.Validation((x[:9], y[:9]))
    trainer.fit(x, y, validation_data={"validation": held, "small": looplab.Validation((x[:4], y[:4]))},
                batch_size=5, epochs=2, verbose=0)  # fmt: skip
    where = [(media.step, media.split) for media in seen.media if media.tag == "confusion_matrix"]
    assert where == [
        (5, "validation"),
        (5, "small"),
        (5, "train"),
        (10, "validation"),
        (10, "small"),
        (10, "train"),
    ]
    assert not {tag for tag in seen.tags if "matrix" in tag or "curve" in tag}
    (counts,) = [
        m.data
        for m in seen.media
        if m.tag == "confusion_matrix/counts" and m.step == 10 and m.split == "small"
    ]
    guesses = trainer.predict(x[:4]).argmax(-1)
    expected = np.zeros((CLASSES, CLASSES), int)
    np.add.at(expected, (y[:4], guesses), 1)
    rows = [[int(cell) for cell in line.split("|")[2:-1]] for line in counts.splitlines()[2:]]
    np.testing.assert_array_equal(rows, expected)
    (picture,) = [
        m.data for m in seen.media if m.tag == "confusion_matrix" and m.step == 10 and m.split == "small"
    ]
    assert picture.shape == (1, 480, 480, 3) and picture.min() >= 0 and picture.max() <= 1
    assert set(trainer.evaluate(x, y)) == {"loss", "accuracy"}
