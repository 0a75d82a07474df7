"""What a step shows beside its scalars: `looplab.summary.image("inputs", batch, every="100st")`.

Called inside `train_step`, or in what it calls, while it is traced; the value is handed out when the
interval is due and costs next to nothing at other steps: the loop stops exactly there, and takes the
value of its last step. Under several replicas it is the first replica's. In `test_step` and
`predict_step` nothing is shown.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from looplab.errors import ConfigurationError, LossError
from looplab.execution import Shown, running
from looplab.interval import Interval
from looplab.options.names import check_name


def scalar(tag: str, value: Any, every: str | int = "100st") -> None:
    """Shows a number: of the first replica's rows, at these steps only.

    What a step returns is logged as the mean over the whole batch; this is for what is no such mean.

    Args:
        tag: Its name, which nothing else is logged by.
        value: Scalar.
        every: An interval such as `"100st"` or `"1ep"`; a whole number counts steps.

    Raises:
        LossError: If it is no scalar, called outside of a step, or its tag is logged already (such as
            `loss` or `epoch_loss`).
    """
    _show("scalar", tag, value, every, rank=0)


def histogram(tag: str, value: Any, every: str | int = "100st") -> None:
    """Shows the distribution of numbers, of any shape; see `scalar`."""
    _show("histogram", tag, value, every)


def image(tag: str, value: Any, every: str | int = "100st", most: int = 4) -> None:
    """Shows images; see `scalar`.

    Args:
        tag: Its name.
        value: Shape `[n, height, width, channels]` with 1, 3 or 4 channels; uint8, or floating point
            from 0 to 1.
        every: See `scalar`.
        most: How many of them at most, the first ones.
    """
    _show("image", tag, tf.convert_to_tensor(value)[:most], every, rank=4)


def text(tag: str, value: str, every: str | int = "100st") -> None:
    """Shows a Markdown text that is known when the step is traced; see `scalar`.

    Raises:
        LossError: If it is a tensor: a loop in the graph does not hand texts out, and XLA knows none.
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
        raise LossError(f"summary.{kind}: {tag!r} is a text, which cannot leave the graph; give numbers.")
    if tensor.shape.rank not in (rank, None) and rank is not None:
        expected = "a scalar" if rank == 0 else "[n, height, width, channels]"
        raise LossError(f"summary.{kind}: {tag!r} has the shape {tuple(tensor.shape)}; expected {expected}.")
    running().show(tag, Shown(kind, _interval(tag, every)), tensor)


def _interval(tag: str, every: str | int) -> Interval:
    check_name("looplab.summary", tag)
    interval = Interval.parse(every, what=f"summary of {tag!r}, every")
    if interval.wall_clock:
        raise ConfigurationError(
            f"summary of {tag!r}, every: {interval} is wall-clock time, and what is shown must be "
            "reproducible. Use steps, epochs or examples."
        )
    return interval
