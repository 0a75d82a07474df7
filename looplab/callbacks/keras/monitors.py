"""Finds the value that a Keras callback monitors, and whether a higher value is better."""

from __future__ import annotations

import logging
from typing import Any

import keras

from looplab.options.directions import guessed, is_guess, rises

_log = logging.getLogger("looplab")


def names(callback: keras.callbacks.Callback) -> tuple[str, ...]:
    """Returns the name of the value that one of Keras' own callbacks needs, or nothing."""
    waits = type(callback) in (keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau)
    picks = type(callback) in (keras.callbacks.ModelCheckpoint, keras.callbacks.OrbaxCheckpoint)
    if waits or (picks and callback.save_best_only):
        return (callback.monitor,)
    return ()


def choose_direction(callback: Any) -> None:
    """Decides whether a monitor should rise, if Keras cannot tell from the model's metrics.

    Args:
        callback: A callback that has its model, which shows the metrics of the trainer.
    """
    if "monitor_op" not in vars(callback) or callback.monitor_op is not None or callback.mode != "auto":
        return
    known = callback.monitor.removeprefix("val_")
    metrics = [m for own in callback.model.metrics for m in (own, *getattr(own, "metrics", ()))]
    if not any(m.name == known and hasattr(m, "_direction") for m in metrics):
        if is_guess(callback.monitor, "auto"):
            _log.warning(guessed(callback.monitor, f"{type(callback).__name__}.mode"))
        callback.mode = "max" if rises(callback.monitor) else "min"
