"""For how long steps wait for batches is known of every feed, and said where it is long.

No test depends on how fast anything is: the clock moves while a batch is read, and at no other time.
"""

import logging
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.data import build_feed
from looplab.data.stream import StreamFeed
from looplab.execution import CompiledLoop, Result, compiled_loop
from looplab.loggers import read_records
from looplab.runs import wall_time
from looplab.runs.wall_time import WallTime
from tests.clock import Clock
from tests.process import HANGS

COUNT = 6


class Turns:
    """A clock that moves by one while a batch is read, and a batch is read only while steps wait for it.

    Steps look at the clock when they begin to wait, and when a batch is there: how often they have looked
    says whether they wait.

    Attributes:
        looks: How often it was looked at.
        may_read: From a number of looks and the number of a batch to whether that may be read.
    """

    def __init__(self, may_read):
        self.now, self.looks, self.reads, self.may_read = 0.0, 0, 0, may_read
        self._changed, self._counts = threading.Condition(), False

    @contextmanager
    def counted(self):
        """Whatever is read before is read to learn the shapes, and afterwards nobody waits."""
        self.reads, self._counts = 0, True
        try:
            yield
        finally:
            with self._changed:
                self._counts = False
                self._changed.notify_all()

    def look(self):
        with self._changed:
            self.looks += 1
            self._changed.notify_all()
            return self.now

    def in_graph(self):
        return tf.ensure_shape(tf.numpy_function(lambda: np.float64(self.look()), [], tf.float64), [])

    def read(self, part=1):
        """Reads a batch, or a part of it."""
        with self._changed:
            number = self.reads // part
            assert self._changed.wait_for(
                lambda: not self._counts or self.may_read(self.looks, number), timeout=HANGS
            )
            self.now += 1 / part
            self.reads += 1


def generator(turns):
    def batches():
        for _ in range(COUNT):
            turns.read()
            yield np.ones((4, 2), "float32")

    return batches


def pipeline(turns):
    def of(index):
        def read(number):
            turns.read()
            return np.ones((4, 2), "float32")

        return tf.ensure_shape(tf.numpy_function(read, [index], tf.float32), [4, 2])

    return tf.data.Dataset.range(COUNT).map(of)


class SequenceSource:
    def __init__(self, turns):
        self.turns = turns

    def __len__(self):
        return COUNT * 4

    def __getitem__(self, index):
        self.turns.read(part=4)
        return np.ones(2, "float32")


class Batches(keras.utils.PyDataset):
    def __init__(self, turns):
        super().__init__()
        self.turns = turns

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        self.turns.read()
        return np.ones((4, 2), "float32")


def summing(beside=lambda: 0.0, **how):
    """Runs steps that sum a batch."""

    def step(rows, examples, guard):
        no = tf.constant(False)
        return Result({"loss": tf.reduce_sum(rows) + beside()}, {"loss": tf.constant(1.0)}, no, no, {})

    return CompiledLoop(step, tf.distribute.get_strategy(), **how)


SOURCES = {"generator": generator, "pipeline": pipeline, "items": SequenceSource, "PyDataset": Batches}
MODES = {"graph": {}, "xla_step": {"mode": "xla_step"}, "eager": {"run_eagerly": True}}
WAYS = [(source, way, how) for source in SOURCES for way, how in MODES.items()]
WAYS += [(source, "xla_loop", {"mode": "xla_loop"}) for source in ("pipeline", "items")]


def waited(source, turns, ran, count):
    """Returns for how long steps waited."""
    size = 4 if isinstance(source, SequenceSource) else None
    feed = build_feed(source, batch_size=size, shuffle=False, seed=0)
    with turns.counted():
        feed.seek(0)
        ran.run(feed, count)
    return feed.waited


@pytest.mark.share(4)
@pytest.mark.parametrize(("source", "way", "how"), WAYS)
def test_steps_that_wait_say_for_how_long(source, way, how, monkeypatch):
    count = COUNT if way == "xla_loop" else 3 * COUNT  # it waits for all batches of a loop at once
    turns = Turns(lambda looks, number: number < count and looks > (0 if way == "xla_loop" else 2 * number))
    if way == "eager":
        monkeypatch.setattr(compiled_loop, "time", SimpleNamespace(monotonic=turns.look))
    else:
        monkeypatch.setattr(tf, "timestamp", turns.in_graph)
    assert waited(SOURCES[source](turns), turns, summing(**how), count) == count


def test_what_is_read_while_a_step_runs_is_not_waited_for():
    """By a real clock: no step begins before the time in which it waits is over."""
    reading, running = 0.01, 0.03

    def nap(seconds):
        time.sleep(float(seconds))
        return np.float32(0)

    def napping(seconds):
        return tf.ensure_shape(tf.numpy_function(nap, [seconds], tf.float32), [])

    data = tf.data.Dataset.range(COUNT).map(lambda index: tf.fill([4, 2], napping(reading)))
    feed, ran = build_feed(data, batch_size=None, shuffle=False, seed=0), summing(lambda: napping(running))
    began = time.monotonic()
    feed.seek(0)
    ran.run(feed, 3 * COUNT)
    assert 0 < feed.waited <= time.monotonic() - began - 3 * COUNT * running


def test_rows_of_arrays_are_waited_for_while_they_are_gathered():
    feed = build_feed(np.zeros((64, 2)), batch_size=4, shuffle=True, seed=0)
    feed.take(4)
    assert feed.waited > 0


def model():
    return keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])


def fit(data, run_dir, caplog, **how):
    trainer = looplab.Trainer(model, "sgd", "mse", run_dir=run_dir, **how)
    with caplog.at_level(logging.WARNING, "looplab"):
        trainer.fit(data, epochs=3, verbose=0)
    timings = [r.timing for r in read_records(run_dir / "metrics.jsonl") if "time/step" in r.timing]
    return [t.getMessage() for t in caplog.records], [timing["input_share"] for timing in timings]


@pytest.fixture
def clock(monkeypatch):
    """That of the run, and of its feeds on the host; in the graph time stands still."""
    clock = Clock(tick=2**-12)
    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(tf, "timestamp", lambda: tf.constant(0.0, tf.float64))
    with wall_time.starting(lambda: WallTime(clock)):
        yield clock


def test_long_waits_are_said_once_with_what_helps(tmp_path, caplog, clock, monkeypatch):
    take = StreamFeed.take

    def slowly(self, count):
        clock.now += count
        self.waited += count
        return take(self, count)

    def batches():
        for _ in range(COUNT):
            yield np.ones((4, 2), "float32"), np.ones((4, 1), "float32")

    monkeypatch.setattr(StreamFeed, "take", slowly)
    said, shares = fit(batches, tmp_path, caplog)
    (line,) = [text for text in said if "waited" in text]
    assert "PyDataset with workers" in line
    assert shares == pytest.approx([1, 1, 1], abs=0.1)


def test_they_are_said_before_an_epoch_ends(caplog, clock):
    """Of a run that is one epoch without end, too."""

    class Made(looplab.Trainer):
        def make_batch(self, step):
            clock.now += 1
            return np.zeros((4, 2), "float32"), np.zeros((4, 1), "float32")

    class Heard(looplab.Callback):
        every = "1st"

        def on_step(self, event, controls):
            said.append(any("waited" in record.getMessage() for record in caplog.records))

    said = []
    with caplog.at_level(logging.WARNING, "looplab"):
        Made(model, "sgd", "mse", callbacks=[Heard()]).fit(steps=12, verbose=0)
    assert said == [False] + 11 * [True]  # the first wait is a part of the start


def test_short_waits_are_not_said(tmp_path, caplog, clock):
    x = np.zeros((64, 2), "float32")
    said, shares = fit((x, x[:, :1]), tmp_path, caplog)
    assert not said and len(shares) == 3
