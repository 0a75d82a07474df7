"""Iterators are let go of without waiting for TensorFlow's tuning, which may take a minute."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from looplab.data import build_feed

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
    for end in (lambda: feed.seek(0), feed.__del__):
        feed._iterator = Held()
        end()
        for thread in threading.enumerate():
            if thread.name == "looplab-let-go":
                thread.join(10)
    assert destroyed == ["looplab-let-go"] * 2
