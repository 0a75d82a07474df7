"""Counts the batches of a pipeline of unknown length: in calls that are short, so that Ctrl-C ends it."""

from __future__ import annotations

import logging
import time

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
    began = now = time.monotonic()
    held, tell, total, size = [iter(dataset)], _FIRST, 0, 1
    while (found := int(_skipped(held[0], tf.constant(size, tf.int64)))) == size:
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
    total += found
    _log.info("... %d (steps_per_epoch=%d, or assert_cardinality, saves this)", total, total)
    return total


@tf.function
def _skipped(iterator: tf.data.Iterator, most: tf.Tensor) -> tf.Tensor:
    """Drops at most so many elements, and returns how many there were."""
    found, goes_on = tf.constant(0, tf.int64), tf.constant(True)
    while goes_on and found < most:
        goes_on = iterator.get_next_as_optional().has_value()
        found += tf.cast(goes_on, tf.int64)
    return found
