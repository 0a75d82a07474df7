"""Shows images, histograms, texts and numbers of a step: `summary.image("inputs", batch, every="100st")`.

Call these functions inside `train_step`, or in a function that it calls. The value leaves the graph when the
interval is due: the loop stops at exactly that step and takes its value. At other steps it costs almost
nothing. With several replicas the value is that of the first replica. Nothing is shown in `test_step` and
`predict_step`.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from looplab.errors import ConfigurationError, LossError
from looplab.execution import Shown, running
from looplab.interval import Interval
from looplab.options.names import check_name


def scalar(tag: str, value: Any, every: str | int = "100st") -> None:
    """Shows a number, computed from the first replica's rows, only at these steps.

    A value that a step returns is logged as a mean over the whole batch. Use this function for other values.

    Args:
        tag: Its name, under which nothing else is logged.
        value: A scalar.
        every: An interval such as `"100st"` or `"1ep"`; an integer counts steps.

    Raises:
        LossError: If the value is not a scalar, the call is outside of a step, or the tag is already logged
            (such as `loss` or `epoch_loss`).
    """
    _show("scalar", tag, value, every, rank=0)


def histogram(tag: str, value: Any, every: str | int = "100st") -> None:
    """Shows the distribution of numbers, of any shape; see `scalar`."""
    _show("histogram", tag, value, every)


def image(tag: str, value: Any, every: str | int = "100st", most: int = 4) -> None:
    """Shows images; see `scalar`.

    Args:
        tag: Its name.
        value: Images of shape `[n, height, width, channels]` with 1, 3 or 4 channels; uint8, or floating
            point from 0 to 1.
        every: See `scalar`.
        most: The largest number of images; the first ones are shown.
    """
    _show("image", tag, tf.convert_to_tensor(value)[:most], every, rank=4)


def text(tag: str, value: str, every: str | int = "100st") -> None:
    """Shows a Markdown text that is known when the step is traced; see `scalar`.

    Raises:
        LossError: If the text is a tensor: texts cannot leave a loop in the graph, and XLA has no strings.
            Show such texts from a callback, `controls.show(tag, "text", value)`.
    """
    if not isinstance(value, str):
        raise LossError(
            f"summary.text: {tag!r} is a {type(value).__name__}, not a Python string. A text that is "
            "computed in the graph cannot leave it (XLA has no strings); show it from a callback, "
            "controls.show(tag, 'text', value)."
        )
    running().show(tag, Shown("text", _interval(tag, every), value))


def _show(kind: str, tag: str, value: Any, every: str | int, rank: int | None = None) -> None:
    if value is None:
        raise LossError(f"summary.{kind}: {tag!r} is None; leave it out.")
    tensor = tf.stop_gradient(tf.convert_to_tensor(value))
    if tensor.dtype == tf.string:
        raise LossError(
            f"summary.{kind}: {tag!r} is a string tensor, which cannot leave the graph; give numbers."
        )
    if tensor.shape.rank not in (rank, None) and rank is not None:
        expected = "a scalar" if rank == 0 else "[n, height, width, channels]"
        raise LossError(f"summary.{kind}: {tag!r} has the shape {tuple(tensor.shape)}; expected {expected}.")
    running().show(tag, Shown(kind, _interval(tag, every)), tensor)


def _interval(tag: str, every: str | int) -> Interval:
    check_name("looplab.summary", tag)
    interval = Interval.parse(every, what=f"summary of {tag!r}, every")
    if interval.wall_clock:
        raise ConfigurationError(
            f"summary of {tag!r}, every: {interval} is wall-clock time, but summaries must be reproducible. "
            "Use steps, epochs or examples."
        )
    return interval
