"""A pipeline that shuffles anew in each pass has the same passes however often it was read before."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.data import build_feed, passes
from looplab.data.pipeline_inspection import resumes
from looplab.data.stream import StreamFeed

LARGE = "holds more than 64 MB of arrays"


def numbers():
    return tf.data.Dataset.from_tensor_slices(np.arange(12))


def generated():
    return tf.data.Dataset.from_generator(
        lambda: iter(range(12)), output_signature=tf.TensorSpec([], tf.int64)
    )


PIPELINES = {
    "shuffle": lambda: numbers().shuffle(12, seed=0).batch(4),
    "two shuffles": lambda: numbers().shuffle(12, seed=0).batch(4).shuffle(3, seed=1).prefetch(2),
    "within a pass": lambda: numbers().shuffle(12, seed=0).repeat(2).batch(4),
    "generator": lambda: generated().shuffle(12, seed=0).batch(4),
    "kept": lambda: numbers().shuffle(12, seed=0).cache().batch(4),
    "random": lambda: tf.data.Dataset.random(seed=3, rerandomize_each_iteration=True).take(12).batch(4),
    "options": lambda: numbers().shuffle(12, seed=0).batch(4).with_options(tf.data.Options()),
}


def feed_of(dataset) -> StreamFeed:
    return build_feed(dataset, batch_size=None, shuffle=False, seed=0, steps_per_epoch=3)


def read(feed, start, count):
    feed.seek(start)
    iterator = feed.take(count)
    return [next(iterator).numpy().tolist() for _ in range(count)]


@pytest.mark.promise(10)
@pytest.mark.parametrize("name", PIPELINES)
def test_other_readings_of_a_dataset_change_no_order(name):
    want = [batch.numpy().tolist() for batch in PIPELINES[name]().repeat().take(9)]
    dataset = PIPELINES[name]()
    list(dataset.take(2))  # the user looks at it
    first, second = feed_of(dataset), feed_of(dataset)
    assert read(first, 0, 5) == want[:5]
    assert read(second, 0, 4) == want[:4]  # as an evaluation, between two steps
    assert second.batch(7).numpy().tolist() == want[7]
    iterator = first.take(4)
    assert [next(iterator).numpy().tolist() for _ in range(4)] == want[5:]
    assert read(second, 4, 5) == want[4:] and not first.counts


@pytest.mark.slow
@pytest.mark.promise(11)
def test_a_run_that_goes_on_with_the_same_dataset_sees_each_example_equally_often(tmp_path):
    class Seen(looplab.Trainer):
        def setup(self):
            self.seen = tf.Variable(tf.zeros(40, tf.int32), trainable=False)

        def train_step(self, batch):
            rows = tf.cast(batch[0][:, 0], tf.int32)
            self.seen.assign(tf.tensor_scatter_nd_add(self.seen, rows[:, None], tf.ones_like(rows)))
            return super().train_step(batch)

    x = np.arange(40, dtype="float32")[:, None]
    dataset = tf.data.Dataset.from_tensor_slices((x, x)).shuffle(40, seed=0).batch(2)

    def trainer():
        return Seen(
            keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]), "sgd", "mse", run_dir=tmp_path
        )

    first = trainer()
    first.rehearse(dataset, steps=10)
    first.fit(dataset, steps=10, verbose=0)
    second = trainer()
    second.fit(dataset, steps=20, verbose=0)
    assert second.seen.numpy().tolist() == [1] * 40


def test_a_large_dataset_is_not_copied_and_another_reading_is_said(monkeypatch, caplog):
    monkeypatch.setattr(passes, "_LARGE", 10)
    dataset = PIPELINES["shuffle"]()
    feed, other = feed_of(dataset), feed_of(dataset)
    assert resumes(feed) == (
        "by skipping batches, exactly only if nothing else reads the Dataset, because its shuffle counts all "
        "readings"
    )
    feed.seek(0)
    assert LARGE not in caplog.text
    other.seek(0)
    other.seek(2)
    assert caplog.text.count(LARGE) == 1
    feed.seek(2)
    assert caplog.text.count(LARGE) == 2


def test_the_size_of_a_pipeline_is_that_of_its_arrays():
    array = tf.constant(np.ones(1000, "float32"))
    texts = tf.data.Dataset.from_tensor_slices(["a", "bcd"])
    assert passes._held_bytes(texts) == 4
    assert passes._held_bytes(tf.data.Dataset.zip((texts, numbers())).map(lambda *parts: array)) == 4100


def test_a_dataset_that_was_created_under_another_global_seed_is_said(tmp_path, caplog):
    x = np.ones((8, 1), "float32")

    def dataset():
        return tf.data.Dataset.from_tensor_slices((x, x)).shuffle(8, seed=0).batch(2)

    def trainer():
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        return looplab.Trainer(model, "sgd", "mse", run_dir=tmp_path, seed=1)

    tf.random.set_seed(None)
    before = dataset()
    trainer().fit(before, epochs=1, verbose=0)
    trainer().fit(before, epochs=2, verbose=0)
    assert "its order is another one" not in caplog.text
    later = trainer()
    later.fit(dataset(), epochs=3, verbose=0)
    assert "have the seeds [[1, 0]], and had [[87654321, 0]] when the run was saved" in caplog.text
