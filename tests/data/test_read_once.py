"""Generator objects: each batch is read once, trained on once, and what is asked for again is kept."""

import gc
import weakref

import keras
import numpy as np
import pytest

import looplab
from looplab.data import build_feed


class Batch(np.ndarray):
    """An array that can be referred to weakly."""


def batches(count=None, made=None):
    """Yields batches of which each example is the number of its batch."""
    number = 0
    while count is None or number < count:
        x = np.full((4, 3), number, "float32").view(Batch)
        if made is not None:
            made.append(weakref.ref(x))
        yield x, np.zeros((4, 1), "float32")
        number += 1


class Sees(looplab.Trainer):
    """Logs the number of the batch of each step."""

    def train_step(self, batch):
        return {**self.minimize(self.compute_loss, batch), "number": batch[0][0, 0]}


class Numbers(looplab.Callback):
    def __init__(self):
        self.every, self.seen = 1, []

    def on_step(self, event, controls):
        self.seen.append(int(event.values["number"]))


def trainer(**options):
    def model():
        return keras.Sequential([keras.layers.Dense(1, kernel_initializer="ones")])

    return Sees(model, "sgd", "mse", execution="graph", **options)


def test_training_reads_each_batch_once_and_a_second_fit_goes_on():
    data, numbers = batches(), Numbers()
    mine = trainer(callbacks=[numbers])
    mine.fit(data, steps_per_epoch=3, epochs=2, verbose=0)
    mine.fit(data, steps_per_epoch=3, epochs=3, verbose=0)
    assert numbers.seen == list(range(9))
    anew = Numbers()
    trainer(callbacks=[anew]).fit(batches(), steps_per_epoch=3, epochs=1, verbose=0)
    assert anew.seen == [0, 1, 2]


@pytest.mark.slow
def test_a_run_that_goes_on_in_another_process_skips_what_was_read(tmp_path):
    for epochs in (1, 2):
        numbers = Numbers()
        mine = trainer(callbacks=[numbers], run_dir=tmp_path / "run")
        mine.fit(batches(), steps_per_epoch=3, epochs=epochs, verbose=0)
    assert numbers.seen == [3, 4, 5]


def test_what_was_trained_on_is_not_kept():
    made = []
    feed = build_feed(
        batches(made=made), batch_size=None, shuffle=False, seed=0, steps_per_epoch=10, forward=True
    )
    feed.seek(0)
    for _ in range(40):
        next(feed.take(1))
    gc.collect()
    assert len(made) >= 40 and sum(each() is not None for each in made) < 12


def test_what_is_evaluated_or_predicted_is_the_same_each_time():
    held = looplab.Validation(batches(), steps=2)
    mine = trainer()
    history = mine.fit(
        batches(), steps_per_epoch=2, epochs=2, validation_data={"validation": held}, verbose=0
    )
    assert len(history.history["val_loss"]) == 2
    mine.models["model"].layers[0].kernel.assign(np.ones((3, 1)))
    mine.models["model"].layers[0].bias.assign([0.0])
    assert mine.evaluate(batches(3))["loss"] == pytest.approx((0 + 9 + 36) / 3)
    np.testing.assert_array_equal(mine.predict(batches(3))[:, 0], np.repeat([0.0, 3.0, 6.0], 4))
    np.testing.assert_array_equal(mine.predict(batches(), steps=2)[:, 0], np.repeat([0.0, 3.0], 4))


def test_one_that_ends_is_several_epochs_of_its_batches():
    numbers = Numbers()
    trainer(callbacks=[numbers]).fit(batches(3), epochs=2, verbose=0)
    assert numbers.seen == [0, 1, 2, 0, 1, 2]


def test_weights_by_class_weigh_its_batches():
    def labelled():
        while True:
            yield np.ones((2, 1), "float32"), np.array([[0], [1]])

    mine = looplab.Trainer(
        lambda: keras.Sequential([keras.layers.Dense(1, kernel_initializer="zeros")]), "sgd", "mse"
    )
    fitted = mine.fit(labelled(), steps_per_epoch=1, epochs=1, class_weight={0: 1.0, 1: 4.0}, verbose=0)
    assert fitted.history["loss"] == [pytest.approx((0 * 1 + 1 * 4) / 2)]  # as in Keras


@pytest.mark.parametrize(
    ("fit", "says"),
    [
        (
            lambda mine: mine.fit(batches(4), steps_per_epoch=3, epochs=2, verbose=0),
            r"generator object batches ended after 4 batches.*fit\(batches\) instead of fit\(batches\(\)\)",
        ),
        (lambda mine: mine.fit(batches(0), verbose=0), "the data is empty: the generator object batches"),
        (lambda mine: mine.fit((b for b in [1.0]), verbose=0), "Elements are whole batches"),
    ],
    ids=["too short", "empty", "no batches"],
)
def test_what_cannot_be_trained_on_is_refused(fit, says):
    with pytest.raises(looplab.DataError, match=says):
        fit(trainer())


def test_one_object_for_training_and_validation_is_refused():
    data = batches()
    with pytest.raises(looplab.ConfigurationError, match="validation_data: it is the generator object"):
        trainer().fit(data, steps_per_epoch=2, epochs=1, validation_data=data, validation_steps=2)
