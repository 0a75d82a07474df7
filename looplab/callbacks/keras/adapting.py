"""Wraps the Keras callbacks in a list of callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from looplab.callbacks.keras.adapter import Keras
from looplab.callbacks.keras.logs import Logs


def adapt(callbacks: Sequence[Any]) -> list[Any]:
    """Wraps the Keras callbacks in a list; all Keras callbacks of one run share their logs."""
    logs, adapted = Logs(), []
    for callback in callbacks:
        own = Keras(callback) if isinstance(callback, keras.callbacks.Callback) else callback
        if isinstance(own, Keras):
            own.logs = logs
        adapted.append(own)
    return adapted
