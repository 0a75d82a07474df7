"""Iterators know where they are, and are let go of without waiting for TensorFlow's tuning."""

import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as some

import looplab
from looplab.data import build_feed, stream
from looplab.data.pipeline_inspection import keeps_place
from tests.process import HANGS, environment

LEFT = """
import tensorflow as tf
from looplab.data import build_feed

feed = build_feed(tf.data.Dataset.range(20).batch(4), batch_size=None, shuffle=False, seed=0)
feed.seek(0)
next(feed.take(1))
feed.itself = feed
"""
X = np.ones((20, 3), "float32")


def batches():
    yield from np.split(X, 5)


@pytest.mark.parametrize("data", [X, batches], ids=["arrays", "generator"])
def test_looplabs_own_pipelines_are_not_tuned(data):
    feed = build_feed(data, batch_size=None if data is batches else 4, shuffle=True, seed=0)
    pipeline = feed.dataset if data is batches else feed._pipeline(0)
    assert pipeline.options().autotune.enabled is False


def test_the_iterator_of_a_stream_is_destroyed_elsewhere():
    destroyed = []

    class Held:
        def __del__(self):
            destroyed.append(threading.current_thread().name)

    data = tf.data.Dataset.from_tensor_slices(X).batch(4)
    feed = build_feed(data, batch_size=None, shuffle=False, seed=0)
    for again in (True, False):
        feed._reader._held[:] = [Held()]
        if again:
            feed.seek(0)
        else:
            del feed
        for thread in threading.enumerate():
            if thread.name == "looplab-let-go":
                thread.join(HANGS)
    assert destroyed == ["looplab-let-go"] * 2


def test_the_end_of_a_process_waits_for_no_thread():
    """One that is begun while the interpreter is taken apart would never begin."""
    done = subprocess.run([sys.executable, "-c", LEFT], env=environment(), timeout=HANGS, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def shuffled():
    data = tf.data.Dataset.range(37).shuffle(20, seed=3, reshuffle_each_iteration=False)
    return (
        data.map(lambda i: tf.cast(i, tf.float32) * 2, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(4)
        .prefetch(2)
    )


def cached():
    return (
        tf.data.Dataset.range(20)
        .map(lambda i: i * 3)
        .cache()
        .shuffle(10, seed=1, reshuffle_each_iteration=False)
        .batch(3)
    )


def interleaved():
    blocks = tf.data.Dataset.range(5).interleave(lambda i: tf.data.Dataset.range(i, i + 4), cycle_length=2)
    return blocks.shuffle(6, seed=0, reshuffle_each_iteration=False).batch(2)


def generated():
    for first in range(0, 30, 3):
        yield np.arange(first, first + 3)


STREAMS = {"shuffled": shuffled, "cached": cached, "interleaved": interleaved, "generated": lambda: generated}


def begun(name):
    return build_feed(STREAMS[name](), batch_size=None, shuffle=False, seed=0)


def read(feed, count):
    iterator = feed.take(count)
    return [next(iterator).numpy().tolist() for _ in range(count)]


@pytest.mark.share(1)
@pytest.mark.promise(10, 11)
@pytest.mark.parametrize("name", STREAMS)
@settings(max_examples=8)
@given(before=some.integers(0, 25), between=some.integers(0, 9))
def test_p10_a_stream_goes_on_where_it_was(name, before, between):
    whole = begun(name)
    whole.seek(0)
    everything = read(whole, 45)
    first, second = begun(name), begun(name)
    first.seek(0)
    read(first, before)
    kept = first.snapshot(before)
    assert (kept is None) == (name == "generated" or before == 0)
    if kept is not None:  # and once more, from where it went on
        first = begun(name)
        first.resume_from(kept)
        first.seek(before)
        read(first, 1)
        first._snapshot_due = 0
        kept = first.snapshot(before + 1)
        between = max(1, between)
    second.resume_from(kept)
    second.seek(before + between)
    assert second.batch(before + between).numpy().tolist() == everything[before + between]
    assert read(second, 10) == everything[before + between : before + between + 10]


def nested(data):
    return data.interleave(lambda i: tf.data.Dataset.range(4).shuffle(4, seed=1))


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("change", "keeps"),
    [
        (lambda data: data, True),
        (lambda data: data.shuffle(9, seed=0, reshuffle_each_iteration=False), True),
        (lambda data: data.shuffle(9, seed=0), False),  # TensorFlow restores it, but not always exactly
        (nested, False),
        (lambda data: data.map(lambda i: i + tf.random.uniform([], 0, 9, tf.int64)), False),
        (lambda data: data.map(lambda i: tf.numpy_function(lambda i: i, [i], tf.int64)), False),
    ],
    ids=["plain", "one order", "an order each", "nested", "random", "python"],
)
def test_the_state_is_saved_where_it_is_all(change, keeps):
    data = change(tf.data.Dataset.range(20)).map(lambda i: tf.ensure_shape(i, [])).batch(4)
    data = data.apply(tf.data.experimental.assert_cardinality(5))
    assert keeps_place(build_feed(data, batch_size=None, shuffle=False, seed=0)) is keeps


def test_after_a_step_that_failed_the_iterator_is_too_far():
    feed = begun("shuffled")
    feed.seek(0)
    read(feed, 2)
    feed._snapshot_due = 0
    assert feed.snapshot(2)["step"] == 2
    read(feed, 5)  # of which the fourth has failed
    feed._snapshot_due = 0
    assert feed.snapshot(5)["step"] == 2


@pytest.mark.fault(30)
def test_a_state_that_is_large_is_said_and_not_saved(monkeypatch, caplog):
    monkeypatch.setattr(stream, "_LARGE", 10)
    feed = begun("shuffled")
    feed.seek(1)
    assert feed.snapshot(1) is None and feed.snapshot(1) is None
    assert caplog.text.count("because of a shuffle buffer, and is not saved: a resume skips all") == 1


def pairs(more=False):
    data = tf.data.Dataset.from_tensor_slices((X, X[:, :1]))
    data = data.enumerate().map(lambda i, pair: pair).take(100) if more else data
    return (
        data.shuffle(5, seed=0, reshuffle_each_iteration=False)
        .batch(4)
        .apply(tf.data.experimental.assert_cardinality(5))
    )


def fitted(run_dir, data, **more):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    trainer = looplab.Trainer(model, "sgd", "mse", run_dir=run_dir, **more)
    return trainer.fit(data, verbose=0, **{"steps": 7} if not more else {"steps": 9})


@pytest.mark.slow
@pytest.mark.promise(11)
@pytest.mark.fault(27, 28)
def test_a_run_begins_with_the_state_and_refuses_that_of_another_pipeline(tmp_path, monkeypatch, caplog):
    skipped = []
    monkeypatch.setattr(stream, "_SHARE", 0)
    monkeypatch.setattr(stream, "skip", lambda iterator, count: skipped.append(int(count)))
    fitted(tmp_path, pairs())
    with pytest.raises(
        looplab.CheckpointError, match=r"differs from the pipeline at the save.*allow_change=\[data\]"
    ):
        fitted(tmp_path, pairs(more=True))
    fitted(tmp_path, pairs(more=True), allow_change=["data", "code"])
    assert "goes on with other data, as allowed" in caplog.text
    assert not any(skipped)  # none was needed
