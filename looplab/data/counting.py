"""Counts the batches of a pipeline of unknown length: in calls that are short, so that Ctrl-C ends it."""

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

_CALL = 0.1  # seconds that one call is to take: signals are served between two
_FIRST = 5.0  # seconds until a person is told how far it is; then twice as many, and so on


def counted(dataset: tf.data.Dataset, what: str) -> int:
    """Returns how many batches one pass gives, from reading it; says meanwhile how far it is.

    Args:
        dataset: Any.
        what: What it is, for a person.
    """
    _log.info(
        "counting the batches of a %s of unknown length (if it never ends, give steps_per_epoch) ...", what
    )
    with _interrupts() as heard:
        total = _passed(dataset, what, heard)
    _log.info("... %d (steps_per_epoch=%d, or assert_cardinality, saves this)", total, total)
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
                "counting: the %s has given %d batches in %.0f s. If it never ends, stop this (Ctrl-C) and "
                "say how long an epoch is: steps_per_epoch=N (of validation data validation_steps=N). If it "
                "ends, that saves the counting.",
                what,
                total,
                now - began,
            )
    let_go(held)
    return total + found


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Notes each Ctrl-C within the block: one that comes in a finalizer is printed by Python, and lost."""
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
    """Drops at most so many elements, and returns how many there were."""
    found, goes_on = tf.constant(0, tf.int64), tf.constant(True)
    while goes_on and found < most:
        goes_on = iterator.get_next_as_optional().has_value()
        found += tf.cast(goes_on, tf.int64)
    return found
