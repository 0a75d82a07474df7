"""Iterators of `tf.data`: begun and let go of without waiting for the thread that tunes their parallelism.

Every iterator of a pipeline that TensorFlow tunes has such a thread. When the iterator is destroyed the thread
is woken up, which it may miss; it then ends with the period at hand, which grows with its age up to a minute,
and whoever lets go of the iterator waits (measured with TensorFlow 2.21).
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import tensorflow as tf


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a pipeline with the parallelism that it has: none of its iterators has a thread that tunes it.

    `tf.data.AUTOTUNE` then stands for as many calls as there are threads, up to 16.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def let_go(held: list[Any]) -> None:
    """Empties a list of iterators that are held nowhere else, in a thread of its own."""
    with suppress(RuntimeError):  # the interpreter ends
        threading.Thread(target=held.clear, name="looplab-let-go", daemon=True).start()
