"""Runs on streams that are ended and go on from the state of their pipeline: the run that nobody ended."""

import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.data import build_feed, stream
from tests.conftest import make_strategy
from tests.process import assert_same_run, steps

ROWS, EPOCH, SAVES = 20, 6, 3  # batches of 4, so that no epoch ends where the rows do
STOPS = (8, 12)  # within the second epoch, and at its end before anything of it is settled
X = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32")


def one_order():
    data = tf.data.Dataset.from_tensor_slices((X, X[:, :1]))
    return (
        data.shuffle(9, seed=4, reshuffle_each_iteration=False)
        .repeat()
        .batch(4, drop_remainder=True)
        .prefetch(8)
    )


def interleaved():
    def block(first):
        return tf.data.Dataset.from_tensor_slices((X, X[:, :1])).skip(first).take(5)

    return (
        tf.data.Dataset.range(0, ROWS, 5)
        .interleave(block, cycle_length=3)
        .repeat()
        .batch(4, drop_remainder=True)
    )


STREAMS = {"one order": one_order, "interleaved": interleaved}


class Ends(looplab.Callback):
    """Has its process told to end at a step."""

    def __init__(self, step):
        self.every, self.step = step or 99, step

    def on_step(self, event, controls):
        if event.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def model():
    layers = [keras.layers.Dense(4), keras.layers.Dropout(0.3), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((3,)), *layers])


def fit(name, run_dir, *, stop=None, **options):
    trainer = looplab.Trainer(
        model,
        "adam",
        "mse",
        ["mae"],
        callbacks=[Ends(stop)],
        checkpoint=looplab.CheckpointPolicy(every=f"{SAVES}st"),
        run_dir=run_dir,
        **options,
    )
    trainer.fit(STREAMS[name](), steps_per_epoch=EPOCH, epochs=3, validation_data=(X, X[:, :1]), verbose=0)


def kept(run_dir):
    """The state of the pipeline in the last checkpoint, as a resume is given it."""
    folder = run_dir / "checkpoints" / f"step-{steps(run_dir)[-1]:08d}"
    found = looplab.checkpoint.read_manifest(folder)["values"]["snapshot"]
    return {**found, "state": looplab.checkpoint.read(folder)["values/snapshot/state"]}


@pytest.mark.share(1)
@pytest.mark.promise(10, 11, 14)
@pytest.mark.fault(34)
@pytest.mark.parametrize(
    ("name", "options", "rarely"),
    [
        ("one order", {"steps_per_execution": 7}, False),
        ("interleaved", {"steps_per_execution": 1}, True),
        pytest.param("one order", {"execution": "xla_step"}, True, marks=pytest.mark.slow),
        pytest.param("interleaved", {"replicas": 2}, True, marks=pytest.mark.slow),
    ],
    ids=["each save keeps it", "step by step", "XLA", "two replicas"],
)
def test_a_run_goes_on_from_the_state_of_its_pipeline(name, options, rarely, tmp_path, monkeypatch):
    strategy = make_strategy(options.get("replicas", 1))
    options = {"execution": "graph", **options, "strategy": strategy}
    options.pop("replicas", None)
    fit(name, tmp_path / "whole", **options)
    batches = [x.numpy().tolist() for x, _ in STREAMS[name]().take(3 * EPOCH)]

    restored, skipped = [], []
    restore, skip = stream.restore, stream.skip
    monkeypatch.setattr(
        stream, "_SHARE", 1e9 if rarely else 0
    )  # the first save of a process keeps it, or each
    monkeypatch.setattr(stream, "restore", lambda it, state: (restored.append(state), restore(it, state)))
    monkeypatch.setattr(stream, "skip", lambda it, count: (skipped.append(int(count)), skip(it, count)))
    begun, before, run_dir = 0, {}, tmp_path / "ended"
    for stop in (*STOPS, None):
        if stop is None:
            fit(name, run_dir, **options)
        else:
            with pytest.raises(looplab.errors.Terminated):
                fit(name, run_dir, stop=stop, **options)
        if begun:  # it is what the run went on from, and no batch before it was read again
            assert restored and all(np.array_equal(state, before["state"]) for state in restored)
            assert set(skipped) - {0} == {begun - before["step"]} - {0}
        if stop is None:
            break
        before = kept(run_dir)
        assert (before["step"], before["skipped"]) == ((begun or SAVES) if rarely else stop, 0)
        feed = build_feed(
            STREAMS[name](), batch_size=None, shuffle=False, seed=0, steps_per_epoch=EPOCH
        )  # the state is of that step, and not of where the iterator may have read ahead to
        feed.resume_from(before)
        assert feed.batch(before["step"])[0].numpy().tolist() == batches[before["step"]]
        begun = stop
        restored.clear()
        skipped.clear()
    assert steps(run_dir)[-1] == 3 * EPOCH
    assert_same_run(run_dir, tmp_path / "whole")
