"""Counts the batches of a pipeline of unknown length, in short calls, so that Ctrl-C works."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import tensorflow as tf

from looplab.data.iterators import let_go

_log = logging.getLogger("looplab")

_CALL = 0.1  # seconds that one call should take: Python handles signals between calls
_FIRST = 5.0  # seconds until the first progress message; the time doubles after each


def counted(dataset: tf.data.Dataset, what: str) -> int:
    """Counts the batches of one pass by reading it, and reports its progress.

    Args:
        dataset: A dataset of batches.
        what: The kind of data, for messages.
    """
    _log.info(
        "counting the batches of a %s of unknown length (if it never ends, set steps_per_epoch) ...", what
    )
    with _interrupts() as heard:
        total = _passed(dataset, what, heard)
    _log.info("... %d (steps_per_epoch=%d or assert_cardinality avoids the counting)", total, total)
    return total


def _passed(dataset: tf.data.Dataset, what: str, heard: Sequence[int]) -> int:
    began = now = time.monotonic()
    held, tell, total, size = [iter(dataset)], _FIRST, 0, 1
    while (found := int(_skipped(held[0], tf.constant(size, tf.int64)))) == size:
        if heard:
            raise KeyboardInterrupt
        total, before, now = total + found, now, time.monotonic()
        size = 2 * size if now - before < _CALL else max(1, size // 2)
        if now - began >= tell:
            tell *= 2
            _log.warning(
                "counting: %d batches of the %s in %.0f s. If it never ends, press Ctrl-C and set "
                "steps_per_epoch=N (for validation data validation_steps=N). If it ends, that avoids the "
                "counting.",
                total,
                what,
                now - began,
            )
    let_go(held)
    return total + found


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Records each Ctrl-C in the block: Python prints and drops one that arrives in a finalizer."""
    heard: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield heard
        return

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, hear)
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, before)


@tf.function
def _skipped(iterator: tf.data.Iterator, most: tf.Tensor) -> tf.Tensor:
    """Drops at most `most` elements, and returns how many it dropped."""
    found, goes_on = tf.constant(0, tf.int64), tf.constant(True)
    while goes_on and found < most:
        goes_on = iterator.get_next_as_optional().has_value()
        found += tf.cast(goes_on, tf.int64)
    return found
