"""The rate that is shown at a step is the one that the step used: the distance that the weight moved.

The gradient is 1, so that each step moves the weight by its rate. All rates are sums of few powers of two.
"""

import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import looplab
from looplab.loggers import read_records

X = np.ones((24, 1), "float32")
FIT = {"batch_size": 4, "shuffle": False, "verbose": 0}  # epochs of 6 steps


class Falls(keras.optimizers.schedules.LearningRateSchedule):
    """1, 7/8, 6/8 and so on, up and down over 16 steps."""

    def __call__(self, step):
        return tf.abs(8.0 - tf.cast(step % 16, tf.float32)) / 8.0


def scheduled(step):
    """What the update of completed step `step` uses, but for the factor."""
    return abs(8 - (step - 1) % 16) / 8


def model():
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])


class Slides(looplab.Trainer):
    """Moves each weight by the rate of its optimizer."""

    def compute_loss(self, batch, training):
        return self.model(batch, training=training)

    def compute_metrics(self, *_):
        return {}


class Seen(looplab.Callback):
    """What callbacks are told, and how far the weight moved, by step."""

    def __init__(self, every=1):
        self.every, self.on_steps, self.on_epochs, self.weights = every, {}, {}, {}

    def on_train_begin(self, event, controls):
        self.note(event)

    def note(self, event):
        (own,) = event.models["model"].get_weights()
        self.weights[event.step] = float(own[0, 0])

    def on_step(self, event, controls):
        self.note(event)
        self.on_steps[event.step] = event.epoch_values()["learning_rate"]

    def on_epoch_end(self, event, controls):
        self.on_epochs[event.step] = event.values["learning_rate"]

    @property
    def moved(self):
        last = 0
        found = {}
        for step, weight in sorted(self.weights.items()):
            if step == last + 1:
                found[step] = self.weights[last] - weight
            last = step
        return found


class Scales(looplab.Callback):
    """Scales the rate at some steps in one of the hooks."""

    def __init__(self, hook, steps, by=0.5, every=None):
        self.every, self.steps, self.by = every, steps, by
        setattr(self, hook, self.scale)

    def scale(self, event, controls):
        if event.step in self.steps:
            controls.scale_learning_rate(self.by)


def make(*callbacks, rate=Falls, **options):
    options.setdefault("optimizer", lambda: keras.optimizers.SGD(rate()))
    return Slides(model, callbacks=list(callbacks), **options)


def logged(run_dir, tag="learning_rate"):
    return {r.step: r.values[tag] for r in read_records(run_dir / "metrics.jsonl") if tag in r.values}


def on_board(run_dir, tag="learning_rate"):
    board = EventAccumulator(str(run_dir / "tensorboard" / "train"), size_guidance={"scalars": 0})
    board.Reload()
    return {one.step: one.value for one in board.Scalars(tag)}


@pytest.mark.share(1)
@pytest.mark.parametrize("length", [1, 4, pytest.param("auto", marks=pytest.mark.slow)])
def test_every_rate_that_is_shown_is_that_of_its_step(length, tmp_path):
    seen, monitor = Seen("4st"), looplab.callbacks.LearningRateMonitor("5st")
    trainer = make(seen, monitor, steps_per_execution=length, run_dir=tmp_path)
    history = trainer.fit(X, validation_data=X, **FIT, epochs=3)
    expected = {step: scheduled(step) for step in (5, 6, 10, 12, 15, 18)}
    assert logged(tmp_path) == on_board(tmp_path) == expected
    assert history.history["learning_rate"] == [scheduled(step) for step in (6, 12, 18)]
    assert seen.on_epochs == {step: scheduled(step) for step in (6, 12, 18)}
    assert seen.on_steps == {step: scheduled(step) for step in (4, 8, 12, 16)}
    # What Keras reads is the rate that comes.
    assert float(trainer.optimizers["optimizer"].learning_rate) == scheduled(19)


def test_it_is_what_the_update_has_used(tmp_path):
    seen, monitor = Seen(), looplab.callbacks.LearningRateMonitor(1)
    scales = [
        Scales("on_step", {2, 6, 9}, every=1),
        Scales("on_epoch_end", {6}),
        Scales("on_epoch_begin", {12}),
    ]
    make(scales[0], seen, monitor, *scales[1:], run_dir=tmp_path).fit(X, **FIT, epochs=3)
    assert logged(tmp_path) == seen.moved == seen.on_steps
    assert seen.moved[7] == scheduled(7) / 8 and seen.moved[13] == scheduled(13) / 32
    assert seen.on_epochs == {step: seen.moved[step] for step in (6, 12, 18)}


@pytest.mark.share(1)
@pytest.mark.parametrize("hook", ["on_step", "on_evaluate", "on_epoch_end", "on_save"])
def test_a_rate_that_is_scaled_at_an_epochs_end_is_of_the_next_epoch(hook, tmp_path):
    scales = Scales(hook, {6}, every="6st" if hook == "on_step" else None)
    history = make(scales, run_dir=tmp_path).fit(X, validation_data=X, **FIT, epochs=3)
    assert logged(tmp_path) == {6: scheduled(6), 12: scheduled(12) / 2, 18: scheduled(18) / 2}
    assert history.history["learning_rate"] == list(logged(tmp_path).values())


class Told(keras.callbacks.Callback):
    """What Keras callbacks are told, and what Keras' own write in there."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(logs.get("learning_rate"))


def test_callbacks_of_keras_write_rates_as_keras_does(tmp_path):
    reduces = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, mode="max")  # never better
    told = Told()
    trainer = make(reduces, told, rate=lambda: 0.5, run_dir=tmp_path)
    history = trainer.fit(X, **FIT, epochs=4)
    # It reduces at the ends of epochs 2, 3 and 4, and writes the rate before it does.
    assert list(logged(tmp_path).values()) == history.history["learning_rate"] == [0.5, 0.5, 0.25, 0.125]
    assert told.logs == [0.5, 0.5, 0.25, 0.125]

    sets, told = keras.callbacks.LearningRateScheduler(lambda epoch: 2.0 ** -(epoch + 2)), Told()
    history = make(sets, told, rate=lambda: 0.5).fit(X, **FIT, epochs=3)
    assert history.history["learning_rate"] == told.logs == [0.25, 0.125, 0.0625]


class Both(looplab.Trainer):
    def train_step(self, batch):
        def loss(part, training):
            return self.models["a"](part, training=training) + self.models["b"](part, training=training)

        first = self.minimize(loss, batch, "a")
        self.minimize(loss, batch, "a")
        return {**first, **self.minimize(loss, batch, "b", when=self.step % 2 == 0)}


def test_each_of_two_optimizers_shows_its_own(tmp_path):
    class One(looplab.Callback):
        def on_epoch_end(self, event, controls):
            controls.scale_learning_rate(0.5, "b")

    optimizers = {"a": lambda: keras.optimizers.SGD(Falls()), "b": lambda: keras.optimizers.SGD(0.25)}
    trainer = Both(
        models={"a": model, "b": model}, optimizers=optimizers, callbacks=[One()], run_dir=tmp_path,
        steps_per_execution=4,
    )  # fmt: skip
    trainer.fit(X, **FIT, epochs=2)
    assert logged(tmp_path, "a/learning_rate") == {6: scheduled(6), 12: scheduled(12)}  # two updates a step
    assert logged(tmp_path, "b/learning_rate") == {6: 0.25, 12: 0.125}


class Stops(looplab.Callback):
    """Asks to end while a step is not settled: after the factor has changed, before the epoch is logged."""

    every = 6

    def __init__(self, at):
        self.at = at

    def on_step(self, event, controls):
        if event.step == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("at", [pytest.param(3, marks=pytest.mark.slow), 6])
def test_a_run_that_goes_on_shows_what_an_unbroken_one_shows(at, tmp_path):
    def run(folder, *more, epochs=2):
        options = {"run_dir": tmp_path / folder, "steps_per_execution": 4}
        scales = [Scales("on_step", {3, 6}, every=3), Scales("on_epoch_end", {6})]
        make(*scales, *more, looplab.callbacks.LearningRateMonitor(1), **options).fit(X, **FIT, epochs=epochs)

    run("unbroken", Stops(None))
    with pytest.raises(looplab.Interrupted):
        stops = Stops(at)
        stops.every = 3
        run("broken", stops)
    run("broken", Stops(None))
    assert logged(tmp_path / "broken") == logged(tmp_path / "unbroken")
    assert logged(tmp_path / "broken")[6] == scheduled(6) / 2


@pytest.mark.share(1)
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_after_steps_that_were_not_made(policy, tmp_path):
    class Fails(Slides):
        failed = False

        def compute_loss(self, batch, training):
            rate = tf.convert_to_tensor(self.optimizers["optimizer"].learning_rate)
            bad = tf.logical_and(tf.equal(self.step, 3), rate > scheduled(4) - 0.01)
            return super().compute_loss(batch, training) + tf.where(bad, np.float32(np.nan), 0.0)

    seen, monitor = Seen(), looplab.callbacks.LearningRateMonitor(1)
    trainer = Fails(
        model, lambda: keras.optimizers.SGD(Falls()), callbacks=[seen, monitor], on_nonfinite=policy,
        run_dir=tmp_path, checkpoint=looplab.CheckpointPolicy(every=2),
    )  # fmt: skip
    trainer.fit(X, **FIT, epochs=2)
    if policy == "skip":
        assert logged(tmp_path) == {step: scheduled(step) for step in range(1, 13)}
        assert seen.moved == {**logged(tmp_path), 4: 0.0}  # which shows the one that would have been used
    else:
        assert logged(tmp_path) == {step: scheduled(step) * (1 if step < 3 else 0.5) for step in range(1, 13)}
        assert seen.moved == logged(tmp_path)
