"""Iterators of `tf.data`: their state, and how they are begun and let go of without waiting.

Every iterator of a pipeline that TensorFlow tunes has a thread for that. When the iterator is destroyed, the
thread is woken up, which it may miss; it then ends with the period at hand, which grows with its age up to a
minute, and whoever lets go of the iterator waits (measured with TensorFlow 2.21).
"""

from __future__ import annotations

import atexit
import threading
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
import tensorflow as tf

_FAIL = 2  # of what has a state that cannot be saved


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a pipeline with the parallelism that it has: none of its iterators has a thread that tunes it.

    `tf.data.AUTOTUNE` then stands for as many calls as there are threads, up to 16.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


class Reader:
    """Holds the iterator that is read from, and lets go of it: for another one, or with its owner.

    Also before the process ends: an iterator that is destroyed while the interpreter is taken apart waits for
    ever for Python code that was reading for it.
    """

    def __init__(self, *, tuned: bool = False) -> None:
        """Begins without one.

        Args:
            tuned: Whether TensorFlow may tune the pipeline, so that the next one is not to wait for its end.
                Where the next one does wait, the same Python code is never run for two.
        """
        self._held: list[Any] = []
        self._let_go = let_go if tuned else list.clear
        weakref.finalize(self, self._let_go, self._held).atexit = False
        _readers.add(self)

    @property
    def iterator(self) -> Any:
        """The present one."""
        return self._held[0]

    def begin(self, held: list[Any]) -> None:
        """Takes a list of a new one in the place of the present one."""
        before = self._held.copy()
        self._held[:] = held
        self._let_go(before)

    def end(self) -> None:
        """Is done, and waits for nothing."""
        before = self._held.copy()
        self._held.clear()
        let_go(before)


_readers: weakref.WeakSet[Reader] = weakref.WeakSet()


@atexit.register
def _end() -> None:
    for reader in list(_readers):
        reader.end()


def let_go(held: list[Any]) -> None:
    """Empties a list of iterators that are held nowhere else, in a thread of its own."""
    if not held:
        return
    with suppress(RuntimeError):  # at the end of the interpreter no thread can begin
        threading.Thread(target=held.clear, name="looplab-let-go", daemon=True).start()


def state_of(iterator: tf.data.Iterator) -> np.ndarray | None:
    """Returns where an iterator is, bytes of shape `[n]` with what its shuffles hold, as it goes on to be.

    None where TensorFlow cannot say: of a generator, of Python or random numbers in a `map`.
    """
    try:
        state = tf.raw_ops.SerializeIterator(
            resource_handle=iterator._iterator_resource, external_state_policy=_FAIL
        )
    except tf.errors.FailedPreconditionError:
        return None
    return np.frombuffer(tf.io.serialize_tensor(state).numpy(), np.uint8)


def restore(iterator: tf.data.Iterator, state: np.ndarray) -> None:
    """Brings an iterator of the same pipeline to where another was.

    Args:
        iterator: A new one.
        state: As of `state_of`.

    Raises:
        tf.errors.OpError: If the pipeline is another one.
    """
    serialized = tf.io.parse_tensor(tf.constant(state.tobytes()), tf.variant)
    tf.raw_ops.DeserializeIterator(resource_handle=iterator._iterator_resource, serialized=serialized)


@tf.function
def skip(iterator: tf.data.Iterator, count: tf.Tensor) -> None:
    """Drops the next elements of an iterator."""
    for _ in tf.range(count):
        next(iterator)
