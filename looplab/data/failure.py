"""What went wrong where data is read: the person's own exception first, then the source and the element.

An exception in a pipeline reaches the loop as a TensorFlow error that says little. What Python code raises
there is kept under a mark, which that error carries along.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psutil
import tensorflow as tf

from looplab.errors import DataError, OutOfMemoryError
from looplab.protocols import Feed

_LIBRARIES = ("site-packages", "dist-packages", str(Path(__file__).parent))
_NOISE = ("Graph execution error", "Detected at node", "<stack traces", " ", "\t")
_MARK = re.compile(r"looplab-data-\d+\b")
_numbers = count(1)
_kept: dict[str, DataError] = {}


class Marked(Exception):
    """Carries the mark of a kept error through TensorFlow."""


def keep(error: Exception, where: str) -> Marked:
    """Keeps an exception of code that reads data; returns what to raise in its place.

    Args:
        error: What was raised.
        where: Which source was read, and which element of it.
    """
    mark = f"looplab-data-{next(_numbers)}"
    _kept[mark] = as_data_error(error, where)
    return Marked(mark)


def as_data_error(error: Exception, where: str) -> DataError:
    """Returns an exception of code that reads data as a `DataError` that says where."""
    if isinstance(error, DataError):
        return error
    said = _inside(str(error)) if isinstance(error, tf.errors.OpError) else _first_line(str(error))
    found = DataError(f"{type(error).__name__}: {said}{_place(error)}, {where}.")
    found.__cause__ = error
    return found


@contextmanager
def explained(feed: Feed, first: int, steps: int) -> Iterator[None]:
    """Makes the errors of a pipeline within the block say what happened where.

    Args:
        feed: What is read.
        first: Completed steps before the block.
        steps: How many batches the block takes.

    Raises:
        DataError: In the place of an error that came from reading, or from a label out of range.
        OutOfMemoryError: In the place of one that came of a tensor for which there was no memory.
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
                f"there is no memory for a step: {_inside(message)}. The machine has "
                f"{memory.total / 1e9:.1f} GB, of which {memory.available / 1e9:.1f} are free; in {where}. "
                "Compute batches in pieces (micro_batches=2), give smaller ones (batch_size), or "
                "precision='mixed_bfloat16'."
            ) from error
        if "IteratorGetNext" in message:
            raise DataError(f"{_inside(message)}, reading {where}.") from error
        if label := re.search(r"[Rr]eceived a label value of (-?\d+) .*?range of (\[\d+, ?\d+\))", message):
            raise DataError(
                f"a label is out of range: {label[1]}, where the model's output has classes in {label[2]}; "
                f"in {where}."
            ) from error
        raise


def cause(error: tf.errors.OpError, doing: str) -> DataError:
    """Returns what made a pipeline fail, as it was kept, or as far as its error says.

    Args:
        error: What TensorFlow raised.
        doing: What was being done, for the message.
    """
    mark = _MARK.search(str(error.message))
    kept = _kept.pop(mark[0], None) if mark else None
    return kept or DataError(f"{_inside(str(error.message))}, {doing}.")


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0].rstrip(".")


def _place(error: Exception) -> str:
    """Returns the line of the person's own code that raised, or the last line there is."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(part in frame.filename for part in _LIBRARIES)]
    if not own:
        return ""
    return f" ({own[-1].filename}, line {own[-1].lineno}, in {own[-1].name})"


def _inside(message: str) -> str:
    """Returns the cause and its place out of the error of a `tf.data` pipeline."""
    cause = re.search(r"transformation with iterator: \S+: (.+)", message)
    lines = [line for line in message.splitlines() if line and not line.startswith(_NOISE)]
    said = cause[1] if cause else (lines or [message])[0]
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', message)
    own = [frame for frame in frames if not any(part in frame[0] for part in _LIBRARIES)]
    place = " ({}, line {}, in {})".format(*own[-1]) if own else ""
    return re.sub(r"\{\{.*?\}\}|\[\[.*|\[Op:.*", "", said).strip().rstrip(".") + place
