"""Reports errors of reading data: the user's own exception first, then the source and the element.

An exception in a pipeline reaches the loop as a TensorFlow error with few details. looplab keeps the original
exception under a mark, and the TensorFlow error carries the mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import psutil
import tensorflow as tf

from looplab.errors import DataError, OutOfMemoryError
from looplab.protocols import Feed
from looplab.runs import cause

_MARK = re.compile(r"looplab-data-\d+\b")
_numbers = count(1)
_kept: dict[str, DataError] = {}


class Marked(Exception):
    """Carries the mark of a kept error through TensorFlow."""


def keep(error: Exception, where: str) -> Marked:
    """Keeps an exception of code that reads data; returns the exception to raise instead.

    Args:
        error: The exception.
        where: The source and its element, as a text.
    """
    mark = f"looplab-data-{next(_numbers)}"
    _kept[mark] = as_data_error(error, where)
    return Marked(mark)


def as_data_error(error: Exception, where: str) -> DataError:
    """Converts an exception of code that reads data to a `DataError` that says where it happened."""
    if isinstance(error, DataError):
        return error
    found = DataError(f"{_said(error, named=True)}, {where}.")
    found.__cause__ = error
    return found


@contextmanager
def explained(feed: Feed, first: int, steps: int) -> Iterator[None]:
    """Converts the errors of a pipeline within the block to errors that name the cause and the place.

    Args:
        feed: The data.
        first: Completed steps before the block.
        steps: The number of batches that the block takes.

    Raises:
        DataError: For an error of reading, or for a label that is out of range.
        OutOfMemoryError: If there was no memory for a tensor.
    """
    try:
        yield
    except tf.errors.OpError as error:
        message = str(error.message)
        if (mark := _MARK.search(message)) and mark[0] in _kept:
            raise _kept.pop(mark[0]) from error
        batches = f"batch {first}" if steps == 1 else f"one of the batches {first} to {first + steps - 1}"
        where = f"{batches} (counted from 0 through all epochs) of the data: {feed.describe()}"
        if isinstance(error, tf.errors.ResourceExhaustedError):
            memory = psutil.virtual_memory()
            raise OutOfMemoryError(
                f"there is no memory for a step: {_said(error)}. The machine has {memory.total / 1e9:.1f} "
                f"GB, of which {memory.available / 1e9:.1f} GB are free; in {where}. Compute batches in "
                "pieces (micro_batches=2), use a smaller batch_size, or use precision='mixed_bfloat16'."
            ) from error
        if "IteratorGetNext" in message:
            raise DataError(f"{_said(error)}, reading {where}.") from error
        if label := re.search(r"[Rr]eceived a label value of (-?\d+) .*?range of (\[\d+, ?\d+\))", message):
            raise DataError(
                f"a label is out of range: it is {label[1]}, but the model's output has classes in "
                f"{label[2]}; in {where}."
            ) from error
        raise


def as_kept(error: tf.errors.OpError, doing: str) -> DataError:
    """Returns the kept error that made a pipeline fail; if there is none, an error from the pipeline's own.

    Args:
        error: The error of TensorFlow.
        doing: The activity during which it failed, for the message.
    """
    mark = _MARK.search(str(error.message))
    kept = _kept.pop(mark[0], None) if mark else None
    return kept or DataError(f"{_said(error)}, {doing}.")


def _said(error: Exception, *, named: bool = False) -> str:
    """Returns the first line of an exception, and its place.

    Args:
        error: The exception.
        named: Whether to name the class of an error of TensorFlow's operations too.
    """
    found = cause.of(error)
    plain = not named and isinstance(error, tf.errors.OpError) and found.kind == type(error).__name__
    return ("" if plain else f"{found.kind}: ") + found.sentence + found.place()
