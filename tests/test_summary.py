"""`looplab.summary` inside steps: the value of exactly the step that is due, however steps are grouped."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab import summary

ROWS, BATCH = 11, 4  # 3 steps an epoch, the last with 3 rows
X = np.arange(ROWS, dtype="float32").reshape(-1, 1)


class Noted(looplab.Logger):
    """Keeps what it is shown."""

    def __init__(self):
        self.media, self.scalars = [], []

    def show(self, media):
        self.media.append(media)

    def write(self, record):
        self.scalars += [(record.step, tag, v) for tag, v in record.values.items() if tag.startswith("mine")]

    def of(self, tag):
        return {media.step: media.data for media in self.media if media.tag == tag}


class Showing(looplab.Trainer):
    def compute_loss(self, batch, training):
        x, _ = batch
        if training:
            summary.histogram("rows", x, every=2)
            summary.image("pictures", tf.reshape(x, [-1, 1, 1, 1]) / 10, every="1ep", most=2)
            summary.text("said", "as it was *traced*", every="2ep")
            summary.scalar("mine/least", tf.reduce_min(x), every="3st")
        return super().compute_loss(batch, training)


def train(kind=Showing, **how):
    noted = Noted()
    trainer = kind(
        lambda: keras.Sequential([keras.Input([1]), keras.layers.Dense(1)]),
        keras.optimizers.SGD(0.001),
        "mse",
        loggers=[noted],
        **how,
    )
    trainer.fit(X, X, validation_data=(X, X), batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    return noted, [variable.numpy() for variable in trainer.model.weights]


WAYS = [{}, {"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 1}, {"micro_batches": 2}]


@pytest.mark.share(2)
@pytest.mark.promise(29, 30)
@pytest.mark.parametrize("how", WAYS, ids=lambda how: next(iter(how), "graph"))
def test_a_step_shows_its_own_value_when_it_is_due(strategy, how):
    noted, _ = train(strategy=strategy, **how)
    first = 2 if strategy != "auto" or "micro_batches" in how else 4  # rows of the first replica, or part
    if strategy != "auto" and "micro_batches" in how:
        first = 1
    rows = {2: X[4:8], 4: X[:4], 6: X[8:]}
    share = {step: own[: len(own) * first // 4] for step, own in rows.items()}
    found = noted.of("rows")
    assert list(found) == [2, 4, 6]
    for step, own in share.items():
        np.testing.assert_array_equal(found[step], own)
    pictures = noted.of("pictures")
    assert list(pictures) == [3, 6]
    for picture in pictures.values():
        np.testing.assert_allclose(picture, share[6][:2].reshape(-1, 1, 1, 1) / 10)
    assert noted.of("said") == {6: "as it was *traced*"}
    least = share[6].min(initial=np.inf)  # inf of a part without rows
    assert noted.scalars == [(3, "mine/least", least), (6, "mine/least", least)]
    assert {media.split for media in noted.media} == {"train"}


def test_showing_changes_nothing():
    shown, silent = train()[1], train(looplab.Trainer)[1]
    for mine, expected in zip(shown, silent, strict=True):
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize(
    ("show", "said"),
    [
        (lambda x: summary.text("t", tf.constant("late")), "'t' is a .*not a Python string"),
        (
            lambda x: summary.image("t", x),
            r"'t' has the shape \[\?, 1\]; expected \[n, height, width, channels\]",
        ),
        (lambda x: summary.image("t", tf.zeros([10, 64])), r"the shape \[10, 64\]; expected"),
        (lambda x: summary.image("t", tf.zeros([])), r"the shape \[\]; expected"),
        (lambda x: summary.image("t", tf.zeros([2, 5, 5, 1], tf.int32)), r"'t' is int32; expected uint8"),
        (lambda x: summary.image("t", None), "'t' is None; leave it out"),
        (
            lambda x: summary.image("t", tf.zeros([9, 5, 5, 2])),
            r"\[9, 5, 5, 2\], so 2 channels; expected 1, 3 or 4",
        ),
        (lambda x: summary.scalar("t", x), "'t' has the shape .*expected a scalar"),
        (lambda x: summary.histogram("t", tf.as_string(x)), "'t' is a string tensor"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_the_first_step(show, said):
    class Wrong(looplab.Trainer):
        def train_step(self, batch):
            show(batch[0])
            return super().train_step(batch)

    with pytest.raises(looplab.LossError, match=said):
        train(Wrong)


@pytest.mark.parametrize("tag", ["loss", "mae", "epoch_mae", "learning_rate", "own"])
def test_a_tag_that_is_logged_anyway_is_refused(tag):
    class Doubled(looplab.Trainer):
        def train_step(self, batch):
            summary.scalar(tag, 1.0)
            return super().train_step(batch) | {"own": 2.0}

    with pytest.raises(looplab.LossError, match=f"the tag '{tag}' is logged already.*'shown/{tag}'"):
        train(Doubled, metrics=["mae"])


def test_a_number_of_images_below_one_is_refused():
    class Wrong(looplab.Trainer):
        def train_step(self, batch):
            summary.image("t", tf.zeros([1, 5, 5, 1]), most=0)
            return super().train_step(batch)

    with pytest.raises(looplab.ConfigurationError, match="most: 0 is not a whole number of at least 1"):
        train(Wrong)


def test_an_interval_by_the_clock_is_refused():
    class Wrong(looplab.Trainer):
        def train_step(self, batch):
            summary.histogram("t", batch[0], every="1min")
            return super().train_step(batch)

    with pytest.raises(looplab.ConfigurationError, match="summary of 't', every: 1min is wall-clock time"):
        train(Wrong)


def test_outside_of_a_step_it_says_where_it_belongs():
    with pytest.raises(looplab.LossError, match=r"looplab\.summary work only inside a step"):
        summary.scalar("t", 1.0)
