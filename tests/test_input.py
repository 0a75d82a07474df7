"""For how long steps wait for batches is known of every feed, and said where it is long."""

import logging
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab import loop
from looplab.data import build_feed
from looplab.execution import Execution
from looplab.loggers import read_records
from looplab.optimization import Result

NAP = 0.02
COUNT = 6


def slow_generator():
    def batches():
        for _ in range(COUNT):
            time.sleep(NAP)
            yield np.ones((4, 2), "float32")

    return batches


def slow_pipeline():
    def nap(index):
        def read(number):
            time.sleep(NAP)
            return np.ones((4, 2), "float32")

        return tf.ensure_shape(tf.numpy_function(read, [index], tf.float32), [4, 2])

    return tf.data.Dataset.range(COUNT).map(nap)


class SlowItems:
    def __len__(self):
        return COUNT * 4

    def __getitem__(self, index):
        time.sleep(NAP / 4)
        return np.ones(2, "float32")


class SlowBatches(keras.utils.PyDataset):
    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        time.sleep(NAP)
        return np.ones((4, 2), "float32")


def execution(slow=0.0, **how):
    """Of a step that sums a batch, and takes some time."""

    def nap():
        time.sleep(slow)
        return np.float32(0)

    def step(rows, examples, guard):
        more = tf.numpy_function(nap, [], tf.float32) if slow else 0.0
        loss = tf.reduce_sum(rows) + tf.reshape(more, [])
        no = tf.constant(False)
        return Result({"loss": loss}, {"loss": tf.constant(1.0)}, no, no, {})

    return Execution(step, tf.distribute.get_strategy(), **how)


SOURCES = {
    "generator": slow_generator(),
    "pipeline": slow_pipeline(),
    "items": SlowItems(),
    "PyDataset": SlowBatches(),
}
MODES = {"graph": {}, "xla_step": {"mode": "xla_step"}, "eager": {"run_eagerly": True}}
WAYS = [(source, way, how) for source in SOURCES for way, how in MODES.items()]
WAYS += [(source, "xla_loop", {"mode": "xla_loop"}) for source in ("pipeline", "items")]


def waited(source, runs, **how):
    """Returns for how long steps waited, and how long all took."""
    size = 4 if source == "items" else None
    feed = build_feed(SOURCES[source], batch_size=size, shuffle=False, seed=0)
    ran = execution(**how)
    began = time.monotonic()
    feed.seek(0)
    for _ in range(runs):
        ran.run(feed, COUNT)
    return feed.waited, time.monotonic() - began


@pytest.mark.parametrize(("source", "way", "how"), WAYS)
def test_steps_that_wait_say_for_how_long(source, way, how):
    found, seconds = waited(source, 3, **how)
    assert 2 * COUNT * NAP < found < seconds  # the first few are read while the step is traced


def test_what_is_read_while_a_step_runs_is_not_waited_for():
    found, seconds = waited("pipeline", 4, slow=3 * NAP)
    assert found + 4 * COUNT * 3 * NAP <= seconds


def test_rows_of_arrays_are_waited_for_while_they_are_gathered():
    feed = build_feed(np.zeros((64, 2)), batch_size=4, shuffle=True, seed=0)
    feed.take(4)
    assert feed.waited > 0


def model():
    return keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])


def fit(data, run_dir, caplog):
    trainer = looplab.Trainer(model, "sgd", "mse", run_dir=run_dir)
    with caplog.at_level(logging.WARNING, "looplab"):
        trainer.fit(data, epochs=3, verbose=0)
    timings = [r.timing for r in read_records(run_dir / "metrics.jsonl") if "time/step" in r.timing]
    return [t.getMessage() for t in caplog.records], [timing["input_share"] for timing in timings]


def test_long_waits_are_said_once_with_what_helps(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(loop, "_LONG", NAP)

    def batches():
        for x in slow_generator()():
            yield x, x[:, :1]

    said, shares = fit(batches, tmp_path, caplog)
    (line,) = [text for text in said if "waited" in text]
    assert "PyDataset with workers" in line
    assert len(shares) == 3 and all(0 < share <= 1 for share in shares) and max(shares) > 0.2


def test_they_are_said_before_an_epoch_ends(tmp_path, caplog, monkeypatch):
    """Of a run that is one epoch without end, too."""
    monkeypatch.setattr(loop, "_LONG", NAP)

    class Made(looplab.Trainer):
        def make_batch(self, step):
            time.sleep(NAP)
            return np.zeros((4, 2), "float32"), np.zeros((4, 1), "float32")

    class Heard(looplab.Callback):
        every = "1st"

        def on_step(self, event, controls):
            said.append(any("waited" in record.getMessage() for record in caplog.records))

    said = []
    with caplog.at_level(logging.WARNING, "looplab"):
        Made(model, "sgd", "mse", callbacks=[Heard()]).fit(steps=12, verbose=0)
    assert said[-1] and not said[0]


def test_short_waits_are_not_said(tmp_path, caplog):
    x = np.zeros((64, 2), "float32")
    said, shares = fit((x, x[:, :1]), tmp_path, caplog)
    assert not said and len(shares) == 3
