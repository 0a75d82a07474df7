"""Logs histograms of weights."""

from __future__ import annotations

import keras
import numpy as np

from looplab.callbacks.base import Callback, StepEvent
from looplab.checkpoint import state
from looplab.protocols import Controls
from looplab.targets import configurable


@configurable
class Histograms(Callback):
    """Logs a histogram of every floating-point weight, under `weights/<model>/<layer>/<weight>`.

    It uses the raw weights, even if evaluations use their averages (`use_ema=True`).
    """

    def __init__(self, every: str | int = "1ep") -> None:
        """Sets the interval.

        Args:
            every: An interval of steps, epochs or examples.
        """
        self.every = every

    def on_step(self, event: StepEvent, controls: Controls) -> None:
        """See `Callback`."""
        for path, weight in state.of_models(event.models).items():
            if keras.backend.is_float_dtype(weight.dtype):
                tag = f"weights/{path.removeprefix('models/')}"
                data = np.asarray(keras.ops.convert_to_numpy(weight), np.float32)
                controls.show(tag, "histogram", data)
