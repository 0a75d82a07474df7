"""Iterators of `tf.data`: their state, and how they are begun and let go of without waiting.

Every iterator of a pipeline that TensorFlow tunes has a thread for that. When the iterator is destroyed, the
thread is woken up, which it may miss; it then ends with the period at hand, which grows with its age up to a
minute, and whoever lets go of the iterator waits (measured with TensorFlow 2.21).
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

_FAIL = 2  # of what has a state that cannot be saved
_TAKEN = 1.0  # seconds within which a thread takes what it is given


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
        _last_thread()
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

    def give_up(self) -> list[Any]:
        """Returns what it held, and holds nothing."""
        held = self._held.copy()
        self._held.clear()
        return held


_readers: weakref.WeakSet[Reader] = weakref.WeakSet()


@cache
def _last_thread() -> threading.Thread:
    """Begins a thread that lets go of iterators at the end: Python 3.12 begins none during `atexit`."""
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
    if held and _last_thread().is_alive():  # which it is not in a process that was forked
        _last.put(held)
        _is_taken.wait(_TAKEN)
    else:
        let_go(held)


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
