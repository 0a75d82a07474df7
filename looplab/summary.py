"""Images, histograms, texts and further numbers from inside a step.

Call these functions in `train_step`, or in a function that it calls, while the step is traced:
`looplab.summary.image("inputs", batch, every="100st")`. When the interval is due, the compiled loop stops
exactly at that step and passes the value to the loggers; other steps cost next to nothing. Under several
replicas the value is the first replica's. `test_step` and `predict_step` show nothing.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from looplab.errors import ConfigurationError, LossError
from looplab.execution import Shown, running
from looplab.interval import Interval
from looplab.options.names import check_name


def scalar(tag: str, value: Any, every: str | int = "100st") -> None:
    """Shows a number of the first replica, at the steps of an interval.

    A number that a step returns is logged as the mean over the whole batch. Use this function for a number
    that is not such a mean.

    Args:
        tag: The name of the number. Nothing else may be logged under it.
        value: A scalar tensor or number.
        every: An interval such as `"100st"`, `"1ep"` or `"1e5ex"`; a whole number counts steps.

    Raises:
        ConfigurationError: If `every` is not an interval or is wall-clock time, or if `tag` cannot be a name.
        LossError: If the value is not a scalar, if no step is being traced, or if the tag is logged already
            (such as `loss` or `epoch_loss`).
    """
    _show("scalar", tag, value, every, rank=0)


def histogram(tag: str, value: Any, every: str | int = "100st") -> None:
    """Shows the distribution of numbers of the first replica, at the steps of an interval.

    Args:
        tag: The name of the histogram. Nothing else may be logged under it.
        value: A tensor of numbers, of any shape.
        every: An interval such as `"100st"`, `"1ep"` or `"1e5ex"`; a whole number counts steps.

    Raises:
        ConfigurationError: If `every` is not an interval or is wall-clock time, or if `tag` cannot be a name.
        LossError: If the value is None or a text, if no step is being traced, or if the tag is logged
            already.
    """
    _show("histogram", tag, value, every)


def image(tag: str, value: Any, every: str | int = "100st", most: int = 4) -> None:
    """Shows images of the first replica, at the steps of an interval.

    Args:
        tag: The name of the images. Nothing else may be logged under it.
        value: A tensor of shape `[n, height, width, channels]` with 1, 3 or 4 channels; uint8 from 0 to 255,
            or floating point from 0 to 1.
        every: An interval such as `"100st"`, `"1ep"` or `"1e5ex"`; a whole number counts steps.
        most: The largest number of images, at least 1; the first images are shown.

    Raises:
        ConfigurationError: If `every` is not an interval or is wall-clock time, if `most` is not a whole
            number of at least 1, or if `tag` cannot be a name.
        LossError: If the value has another shape or type, if no step is being traced, or if the tag is logged
            already.
    """
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ConfigurationError(
            f"summary.image: {tag!r}, most: {most!r} is not a whole number of at least 1, the largest number "
            "of images to show."
        )
    images = _tensor("image", tag, value, rank=4)
    if images.shape.rank == 4 and images.shape[-1] not in (1, 3, 4, None):
        raise LossError(
            f"summary.image: {tag!r} has the shape {_words(images)}, so {images.shape[-1]} channels; "
            "expected 1, 3 or 4 on the last axis."
        )
    if images.dtype.is_integer and images.dtype != tf.uint8:
        raise LossError(
            f"summary.image: {tag!r} is {images.dtype.name}; expected uint8 from 0 to 255, or floating point "
            "from 0 to 1: use tf.cast(images, tf.uint8)."
        )
    _show("image", tag, images[:most], every)


def text(tag: str, value: str, every: str | int = "100st") -> None:
    """Shows a text that is known when the step is traced, at the steps of an interval.

    Args:
        tag: The name of the text. Nothing else may be logged under it.
        value: Markdown.
        every: An interval such as `"100st"`, `"1ep"` or `"1e5ex"`; a whole number counts steps.

    Raises:
        ConfigurationError: If `every` is not an interval or is wall-clock time, or if `tag` cannot be a name.
        LossError: If the value is a tensor, since XLA has no strings: show such a text from a callback with
            `controls.show(tag, "text", value)`. Also if no step is being traced, or if the tag is logged
            already.
    """
    if not isinstance(value, str):
        raise LossError(
            f"summary.text: {tag!r} is a {type(value).__name__}, not a Python string. A text that is "
            "computed in the graph cannot leave it (XLA has no strings); show it from a callback, "
            "controls.show(tag, 'text', value)."
        )
    running().show(tag, Shown("text", _interval(tag, every), value))


def _show(kind: str, tag: str, value: Any, every: str | int, rank: int | None = None) -> None:
    tensor = _tensor(kind, tag, value, rank)
    running().show(tag, Shown(kind, _interval(tag, every)), tensor)


def _tensor(kind: str, tag: str, value: Any, rank: int | None) -> tf.Tensor:
    """Returns a value to show, after checking it; `rank` may be any if it is None."""
    if value is None:
        raise LossError(f"summary.{kind}: {tag!r} is None; leave it out.")
    tensor = tf.stop_gradient(tf.convert_to_tensor(value))
    if tensor.dtype == tf.string:
        raise LossError(
            f"summary.{kind}: {tag!r} is a string tensor, which cannot leave the graph; give numbers."
        )
    if tensor.shape.rank not in (rank, None) and rank is not None:
        expected = "a scalar" if rank == 0 else "[n, height, width, channels]"
        raise LossError(f"summary.{kind}: {tag!r} has the shape {_words(tensor)}; expected {expected}.")
    return tensor


def _words(tensor: tf.Tensor) -> str:
    """Returns a shape as text, with `?` for a length that may change."""
    return "[" + ", ".join("?" if length is None else str(length) for length in tensor.shape) + "]"


def _interval(tag: str, every: str | int) -> Interval:
    check_name("looplab.summary", tag)
    interval = Interval.parse(every, what=f"summary of {tag!r}, every")
    if interval.wall_clock:
        raise ConfigurationError(
            f"summary of {tag!r}, every: {interval} is wall-clock time, but summaries must be reproducible. "
            "Use steps, epochs or examples."
        )
    return interval
