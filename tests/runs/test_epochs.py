"""Epochs that are done are remembered: a fit with other data, or other batches, goes on after them."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import looplab
from looplab.runs.epochs import Epochs


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 13)), min_size=1, max_size=5))
def test_epochs_are_those_that_counting_by_hand_gives(fits):
    """Each fit has epochs of a length and trains some steps; an epoch that it leaves is begun anew."""
    step, done, epochs = 0, 0, None
    for length, steps in fits:
        before = epochs
        epochs = Epochs(length, None).follow(epochs, step)
        within = epochs.within(step) % length if epochs is before else 0
        assert epochs.done(step) == done and epochs.last_step(done) == step - within
        for _ in range(steps):
            end = epochs.end(step)
            step, within = step + 1, within + 1
            assert (epochs.epoch(step), epochs.within(step)) == (done + 1, within)
            assert epochs.ends(step) == (within == length) and end == step + length - within
            assert epochs.count(step) == done + 1
            if within == length:
                done, within = done + 1, 0


def make_model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def rows(count, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, 3)).astype("float32")
    return x, x[:, :1]


def as_arrays(data, batch):
    return {"x": data, "batch_size": batch}


def as_stream(data, batch):
    return {"x": tf.data.Dataset.from_tensor_slices(data).batch(batch)}


def as_generator(data, batch):
    return {"x": lambda: (tuple(p[i : i + batch] for p in data) for i in range(0, len(data[0]), batch))}


EVENTS = []  # not in the callback, whose fields a second fit puts back


class Heard(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        EVENTS.append(("train", self.params["epochs"]))

    def on_epoch_begin(self, epoch, logs=None):
        EVENTS.append(("begin", epoch))

    def on_train_batch_end(self, batch, logs=None):
        EVENTS.append(("batch", batch))

    def on_epoch_end(self, epoch, logs=None):
        EVENTS.append(("end", epoch))


class Cadence(looplab.Callback):
    """Notes the steps at which an interval is due."""

    def __init__(self, every):
        self.every, self._due = every, []

    def on_step(self, event, controls):
        self._due.append(event.step)


SECOND = {"more rows": (40, 4), "larger batches": (16, 8), "fewer rows": (8, 4), "as many steps": (32, 8)}


@pytest.mark.share(2)
@pytest.mark.parametrize("given", [as_arrays, as_stream, as_generator])
@pytest.mark.parametrize("case", SECOND)
def test_a_second_fit_makes_the_epochs_that_are_left(case, given):
    count, batch = SECOND[case]
    halves = Cadence("0.5ep")
    EVENTS.clear()
    trainer = looplab.Trainer(make_model, "sgd", "mse", execution="graph", callbacks=[Heard(), halves])
    first = trainer.fit(**given(rows(16), 4), epochs=2, verbose=0, validation_data=rows(4))
    kept = {name: [*series] for name, series in first.history.items()}
    second = trainer.fit(**given(rows(count, 1), batch), epochs=4, verbose=0, validation_data=rows(4))
    length = -(-count // batch)
    assert int(trainer.step.numpy()) == 8 + 2 * length
    assert first.history == kept and second.epoch == [0, 1, 2, 3]
    assert {len(series) for series in second.history.values()} == {4}
    assert second.history["loss"][:2] == first.history["loss"]
    epochs = [
        [("begin", e), *(("batch", b) for b in range(n)), ("end", e)]
        for e, n in enumerate([4, 4, length, length])
    ]
    expected = [("train", 2), *epochs[0], *epochs[1], ("train", 4), *epochs[2], *epochs[3]]
    assert expected == EVENTS
    assert halves._due == [2, 4, 6, 8, *(8 + -(-half * length // 2) for half in range(1, 5))]


def test_intervals_of_examples_count_those_that_were_seen():
    due = Cadence("10ex")
    trainer = looplab.Trainer(make_model, "sgd", "mse", execution="graph", callbacks=[due])
    trainer.fit(rows(16), batch_size=4, epochs=1, verbose=0)  # 16 examples in 4 steps
    trainer.fit(rows(12), batch_size=6, epochs=3, verbose=0)  # 6 in each of 4 more
    assert due._due == [3, 5, 7, 8]  # 12, 22, 34, 40 examples


def test_an_epoch_that_is_left_is_begun_anew_and_keeps_nothing():
    trainer = looplab.Trainer(
        make_model, lambda: keras.optimizers.SGD(0.0), "mse", ["mae"], execution="graph"
    )
    trainer.fit(rows(16), batch_size=4, steps=6, shuffle=False, verbose=0)
    history = trainer.fit(rows(8, 1), batch_size=4, epochs=2, shuffle=False, verbose=0).history
    expected = trainer.evaluate(rows(8, 1))
    assert int(trainer.step.numpy()) == 6 + 2
    for name in ("loss", "mae"):
        np.testing.assert_allclose(history[name][1], expected[name], rtol=1e-6)


def test_data_of_the_same_length_goes_on_within_its_epoch():
    trainer = looplab.Trainer(make_model, "sgd", "mse", execution="graph")
    trainer.fit(rows(16), batch_size=4, steps=6, verbose=0)
    trainer.fit(rows(16, 1), batch_size=4, epochs=2, verbose=0)
    assert int(trainer.step.numpy()) == 8


def test_passes_of_later_data_have_orders_of_their_own():
    class Sees(looplab.Trainer):
        def train_step(self, batch):
            return {**self.minimize(self.compute_loss, batch), "first": batch[0][0, 0]}

    def firsts(history):
        return [round(value, 5) for value in history["first"]]

    trainer = Sees(make_model, "sgd", "mse", execution="graph")
    trainer.fit(rows(8), batch_size=8, epochs=1, verbose=0)
    trainer.fit(rows(16, 1), batch_size=16, epochs=2, verbose=0)
    found = firsts(trainer.fit(rows(8), batch_size=8, epochs=3, verbose=0).history)
    assert found[0] != found[2]  # the rows come back, and not in the order they had


class Made(looplab.Trainer):
    def make_batch(self, step):
        self.asked = [*getattr(self, "asked", []), step]
        return rows(4, step)


def test_make_batch_is_asked_by_steps_of_the_run():
    trainer = Made(make_model, "sgd", "mse", execution="graph")
    trainer.fit(epochs=2, steps_per_epoch=3, verbose=0)
    history = trainer.fit(epochs=4, steps_per_epoch=2, verbose=0).history
    assert int(trainer.step.numpy()) == 10 and trainer.asked == [*range(10)]
    assert len(history["loss"]) == 4


class Stops(looplab.Callback):
    """Ends a fit in the middle of an epoch."""

    def __init__(self, at):
        self.every, self._at = "1st", at

    def on_step(self, event, controls):
        if event.step == self._at:
            controls.stop("here")


def values(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["epoch"], line["split"], line["values"]) for line in lines]


@pytest.mark.share(1)
@pytest.mark.promise(10)
@pytest.mark.parametrize("given", [as_arrays, as_stream])
def test_a_run_that_goes_on_with_other_data_resumes_exactly(tmp_path, given):
    def fit(name, count, batch, epochs, stops=None):
        trainer = looplab.Trainer(
            make_model,
            "sgd",
            "mse",
            ["mae"],
            run_dir=tmp_path / name,
            log_every="1st",
            execution="graph",
            allow_change=["data", "code"],  # a batch of another size is another trace
            callbacks=[Stops(stops)],
        )
        trainer.fit(**given(rows(count, count), batch), epochs=epochs, validation_data=rows(4), verbose=0)
        return trainer

    whole = fit("whole", 16, 4, 2)
    fit("cut", 16, 4, 2, stops=3)
    fit("cut", 16, 4, 2)
    whole = fit("whole", 25, 5, 4)
    fit("cut", 25, 5, 4, stops=11)
    fit("cut", 25, 5, 4, stops=16)
    cut = fit("cut", 25, 5, 4)
    assert int(cut.step.numpy()) == 8 + 2 * 5
    for one, other in zip(cut.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert values(tmp_path / "cut") == values(tmp_path / "whole")
    assert [e for s, e, split, _ in values(tmp_path / "cut") if split == "validation"] == [1, 2, 3, 4]
