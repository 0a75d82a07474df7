"""Saves the state of `tf.data` iterators, and starts and releases them without a wait.

Every iterator of a pipeline that TensorFlow tunes has a tuning thread. When the iterator is destroyed,
TensorFlow wakes the thread, which may miss the signal. The thread then ends only after its current period,
which grows with its age up to a minute, and the caller waits for it (measured with TensorFlow 2.21).
"""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf

_FAIL = 2  # TensorFlow's policy for a state that cannot be saved
_TAKEN = 1.0  # seconds within which a thread must take over the iterators


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the pipeline with fixed parallelism: none of its iterators has a tuning thread.

    `tf.data.AUTOTUNE` then means as many parallel calls as there are threads, up to 16.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


class Reader:
    """Holds the current iterator, and releases it when another one replaces it or its owner is deleted.

    It also releases the iterator before the process ends: an iterator that is destroyed while the interpreter
    shuts down waits forever for the Python code that reads for it.
    """

    def __init__(self, *, tuned: bool = False) -> None:
        """Starts without an iterator.

        Args:
            tuned: Whether TensorFlow may tune the pipeline. If so, the next iterator does not wait for the
                end of the last one. If not, it waits, so the same Python code never runs for two iterators.
        """
        self._held: list[Any] = []
        self._let_go = let_go if tuned else list.clear
        weakref.finalize(self, self._let_go, self._held).atexit = False
        _last_thread()
        _readers.add(self)

    @property
    def iterator(self) -> Any:
        """The current iterator."""
        return self._held[0]

    def begin(self, held: list[Any]) -> None:
        """Replaces the current iterator by a new one, which is given in a list."""
        before = self._held.copy()
        self._held[:] = held
        self._let_go(before)

    def give_up(self) -> list[Any]:
        """Returns the current iterator in a list, and holds none afterwards."""
        held = self._held.copy()
        self._held.clear()
        return held


_readers: weakref.WeakSet[Reader] = weakref.WeakSet()


@cache
def _last_thread() -> threading.Thread:
    """Starts the thread that releases iterators at exit: Python 3.12 starts no thread during `atexit`."""
    thread = threading.Thread(target=_let_go_last, name="looplab-last-iterators", daemon=True)
    thread.start()
    return thread


_last: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
_is_taken = threading.Event()


def _let_go_last() -> None:
    held = _last.get()
    _is_taken.set()
    held.clear()


@atexit.register
def _end() -> None:
    held = [iterator for reader in list(_readers) for iterator in reader.give_up()]
    if held and _last_thread().is_alive():  # in a forked process it is not alive
        _last.put(held)
        _is_taken.wait(_TAKEN)
    else:
        let_go(held)


def let_go(held: list[Any]) -> None:
    """Empties a list of iterators that nothing else holds, in a separate thread."""
    if not held:
        return
    with suppress(RuntimeError):  # no thread can start while the interpreter ends
        threading.Thread(target=held.clear, name="looplab-let-go", daemon=True).start()


def state_of(iterator: tf.data.Iterator) -> np.ndarray | None:
    """Returns the state of an iterator with the buffers of its shuffles, as bytes of shape `[n]`.

    Returns None if TensorFlow cannot save it: with a generator, or with Python code or random numbers in a
    `map`.
    """
    try:
        state = tf.raw_ops.SerializeIterator(
            resource_handle=iterator._iterator_resource, external_state_policy=_FAIL
        )
    except tf.errors.FailedPreconditionError:
        return None
    return np.frombuffer(tf.io.serialize_tensor(state).numpy(), np.uint8)


def restore(iterator: tf.data.Iterator, state: np.ndarray) -> None:
    """Moves an iterator to the position of an earlier iterator of the same pipeline.

    Args:
        iterator: A new iterator.
        state: From `state_of`.

    Raises:
        tf.errors.OpError: If the pipeline differs.
    """
    serialized = tf.io.parse_tensor(tf.constant(state.tobytes()), tf.variant)
    tf.raw_ops.DeserializeIterator(resource_handle=iterator._iterator_resource, serialized=serialized)


@tf.function
def skip(iterator: tf.data.Iterator, count: tf.Tensor) -> None:
    """Drops the next elements of an iterator."""
    for _ in tf.range(count):
        next(iterator)
