"""Early stopping against Keras' own on random series, and across interruptions."""

import json
import math
import os
import signal
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import looplab
from looplab.callbacks import EarlyStopping, EvaluateEvent, Lambda
from looplab.runs.signals import Request
from looplab.training.controls import RunControls

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
NOTHING = ({}, {})  # models and optimizers


def stopped(stopping, values, monitor="val_loss"):
    """Returns the number of the evaluation after which it stops, or None."""
    split, _, metric = monitor.replace("val_", "validation_").partition("_")
    for number, value in enumerate(values, start=1):
        controls = RunControls(lambda *_: None, lambda: None, Request())
        evaluated = EvaluateEvent(number, number, 99, 1, None, *NOTHING, split=split, values={metric: value})
        stopping.on_evaluate(evaluated, controls)
        if controls.reason:
            return number
    return None


dyadic = st.integers(-8, 8).map(lambda eighths: eighths / 8)


@given(
    values=st.lists(dyadic, min_size=1, max_size=20),
    patience=st.integers(0, 4),
    min_delta=st.sampled_from([0.0, 0.25, 0.5]),
    baseline=st.none() | dyadic,
    start_from_epoch=st.integers(0, 5),
    monitor=st.sampled_from(["val_loss", "val_accuracy", "val_own"]),
    mode=st.sampled_from(["min", "max"]),
)
def test_it_stops_where_keras_does(monitor, values, **options):
    theirs = keras.callbacks.EarlyStopping(monitor, **options)
    theirs.set_model(SimpleNamespace(stop_training=False))
    theirs.on_train_begin()
    expected = None
    for epoch, value in enumerate(values):
        theirs.on_epoch_end(epoch, {monitor: value})
        if theirs.model.stop_training:
            expected = epoch + 1
            break
    assert stopped(EarlyStopping(monitor, **options), values, monitor) == expected


@pytest.mark.parametrize(
    ("options", "values", "number"),
    [
        ({"stopping_threshold": 0.5, "patience": 9}, [1.0, 0.5, 0.4], 3),
        ({"divergence_threshold": 2.0, "patience": 9}, [1.0, 2.0, 2.5], 3),
        ({"monitor": "val_accuracy", "stopping_threshold": 0.9, "patience": 9}, [0.5, 0.9, 0.95], 3),
        ({"monitor": "val_accuracy", "divergence_threshold": 0.2, "patience": 9}, [0.5, 0.2, 0.1], 3),
        ({"patience": 9}, [1.0, math.nan], 2),
        ({"patience": 9}, [1.0, -math.inf], 2),
        ({"patience": 2, "check_finite": False}, [math.nan, 1.0, math.nan, -math.inf, 0.5], 4),
    ],
    ids=str,
)
def test_thresholds_and_values_that_are_not_finite(options, values, number):
    assert stopped(EarlyStopping(**options), values, options.get("monitor", "val_loss")) == number


@pytest.mark.parametrize("bad", [{"patience": -1}, {"min_delta": -0.1}, {"mode": "best"}], ids=str)
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(looplab.ConfigurationError, match=next(iter(bad))):
        EarlyStopping(**bad)


class Scripted(looplab.Trainer):
    """Its validation loss falls for two epochs of two steps, and then rises."""

    def test_step(self, batch):
        distance = keras.ops.abs(keras.ops.cast(self.step, "float32") - 4.0)
        return {"loss": distance + 1.0}


def make(*callbacks, **options):
    def model():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])

    return Scripted(model, "sgd", "mse", callbacks=callbacks, run_eagerly=True, **options)


def fit(trainer, epochs=9, **options):
    data = (X, X[:, :1])
    return trainer.fit(data, batch_size=4, epochs=epochs, verbose=0, **{"validation_data": data} | options)


def test_the_reason_says_whose_best_it_is(tmp_path):
    fit(make(EarlyStopping(patience=2, start_from_epoch=3, min_delta=0.5), run_dir=tmp_path))
    found = json.loads((tmp_path / "outcome.json").read_text())
    assert found["reason"] == (
        "val_loss has not improved for 2 evaluations; "
        "the best that EarlyStopping counts (from epoch 4 on, by more than 0.5) is 5 at step 8"
    )
    assert found["best"]["step"] == 4


REASON = "val_loss has not improved for 2 evaluations; the best is 1 at step 4"


def outcome(run_dir):
    found = json.loads((run_dir / "outcome.json").read_text())
    return found["status"], found["exit_code"], found["step"], found["reason"], found["best"]["step"]


@pytest.mark.slow
@pytest.mark.promise(17)
def test_no_interruption_changes_where_it_stops(tmp_path):
    fit(make(EarlyStopping(patience=2), run_dir=tmp_path / "whole"))
    assert outcome(tmp_path / "whole") == ("stopped", 0, 8, REASON, 4)

    interrupt = Lambda("3st", on_step=lambda event, controls: os.kill(os.getpid(), signal.SIGINT))
    starts = 0
    while True:  # interrupted before, and two evaluations after the best
        starts += 1
        try:
            fit(make(EarlyStopping(patience=2), interrupt, run_dir=tmp_path / "cut"))
            break
        except looplab.Interrupted:
            continue
    assert starts == 3
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_a_run_that_was_stopped_stops_again_and_goes_on_with_more_patience(tmp_path):
    fit(make(EarlyStopping(patience=2), run_dir=tmp_path))
    trainer = make(EarlyStopping(patience=2), run_dir=tmp_path)
    fit(trainer)
    assert int(trainer.step.numpy()) == 8 and outcome(tmp_path)[3] == REASON
    trainer = make(EarlyStopping(patience=3), run_dir=tmp_path)
    fit(trainer)
    assert int(trainer.step.numpy()) == 10 and "for 3 evaluations" in outcome(tmp_path)[3]


def test_it_counts_evaluations_within_an_epoch_and_forgets_with_a_new_run():
    stopping = EarlyStopping("shifted_loss")
    for _ in range(2):
        trainer = make(stopping, checkpoint=looplab.CheckpointPolicy(monitor="shifted_loss"))
        data = {"shifted": looplab.Validation((X, X[:, :1]), every="1st")}
        fit(trainer, validation_data=data)
        assert int(trainer.step.numpy()) == 5


def test_a_training_value_is_counted_once_an_epoch():
    class Rising(looplab.Trainer):
        def train_step(self, batch):
            self.minimize(self.compute_loss, batch)
            return {"cost": keras.ops.cast(self.step, "float32")}

    trainer = Rising(
        lambda: keras.Sequential([keras.layers.Dense(1)]), "sgd", "mse", callbacks=[EarlyStopping("cost", 2)]
    )
    fit(trainer, validation_data=None)
    assert int(trainer.step.numpy()) == 6


def test_a_monitor_that_nothing_produces_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(looplab.ConfigurationError) as caught:
        fit(make(EarlyStopping("val_los"), EarlyStopping("acc"), run_dir=tmp_path))
    first, second = str(caught.value).splitlines()
    assert first.startswith("EarlyStopping.monitor: nothing produces 'val_los'; there are val_loss, loss")
    assert first.endswith("Did you mean 'val_loss'?")
    assert second.startswith("EarlyStopping.monitor: nothing produces 'acc'")
    assert not (tmp_path / "outcome.json").exists()
    with pytest.raises(looplab.ConfigurationError, match=r"'val_loss'.*need validation data"):
        make(EarlyStopping()).rehearse((X, X[:, :1]), batch_size=4)


class Scores(looplab.Callback):
    """Logs a score, which is best at step 4, every second step."""

    every, produces = "2st", ("score",)

    def on_step(self, event, controls):
        controls.log({"score": -abs(event.step - 4.0)})


class ScoresOfEpochs(Scores):
    """The same after each epoch."""

    every = None

    def on_epoch_end(self, event, controls):
        self.on_step(event, controls)


def scored(*callbacks, **options):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    made = looplab.Trainer(model, "sgd", "mse", callbacks=callbacks, **options)
    made.fit(X, X[:, :1], batch_size=2, epochs=5, verbose=0)
    return int(made.step)


@pytest.mark.parametrize("kind", [Scores, ScoresOfEpochs])
def test_a_value_that_a_callback_logs_counts_in_any_order_of_the_list(kind, tmp_path):
    stop = EarlyStopping("score", patience=2, mode="max")
    assert scored(
        stop, kind(), run_dir=tmp_path, checkpoint=looplab.CheckpointPolicy(monitor="score", mode="max")
    )
    best = json.loads((tmp_path / "outcome.json").read_text())["best"]
    assert (best["monitor"], best["value"], best["step"]) == ("score", 0.0, 4)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open() if '"score"' in line]
    assert steps == ([2, 4, 6, 8] if kind is Scores else [4, 8, 12])


def test_a_value_of_on_step_counts_if_the_run_ends_before_it_is_seen(tmp_path):
    class Ends(Scores):
        def on_step(self, event, controls):
            super().on_step(event, controls)
            if event.step == 4 and self.ends:
                os.kill(os.getpid(), signal.SIGTERM)

    policy = looplab.CheckpointPolicy(monitor="score", mode="max")
    for Ends.ends in (True, False):
        try:
            scored(Ends(), run_dir=tmp_path, checkpoint=policy)
        except looplab.Terminated:
            continue
    best = json.loads((tmp_path / "outcome.json").read_text())["best"]
    assert (best["value"], best["step"]) == (0.0, 4) and not Ends.ends


def test_a_monitor_without_a_value_is_said_at_the_end(caplog, tmp_path):
    class Silent(Scores):
        every = None

    policy = looplab.CheckpointPolicy(monitor="score", mode="max")
    assert scored(EarlyStopping("score", mode="max"), Silent(), run_dir=tmp_path, checkpoint=policy) == 20
    assert "EarlyStopping: 'score' never had a value" in caplog.text
    assert "checkpoint.monitor: no checkpoint is the best, because 'score' never had a value" in caplog.text


def test_a_direction_that_is_a_guess_and_a_forgotten_producer_are_said(caplog):
    class Forgets(looplab.Callback):
        produces = ("length",)

        def on_epoch_end(self, event, controls):
            controls.log({"length": 1.0, "score": 1.0})

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    stop = EarlyStopping("length")
    looplab.Trainer(model, "sgd", "mse", callbacks=[stop, Forgets()]).rehearse(X, X[:, :1])
    assert "EarlyStopping.mode: 'auto' does not know whether a higher or a lower 'length'" in caplog.text
    stop = EarlyStopping("score")
    with pytest.raises(looplab.ConfigurationError, match=r"If Forgets logs it, .* produces = \('score',\)"):
        looplab.Trainer(model, "sgd", "mse", callbacks=[stop, Forgets()]).rehearse(X, X[:, :1])
