"""A recurrent forecaster on the yearly sunspots: many-step forecasts compared with naive ones.

    python -m looplab.train +experiment=forecaster

A GRU (Cho et al. 2014) reads the last years and forecasts the next ones. Its error on years that it never saw
is logged beside those of two naive forecasts: the same year of the last cycle (seasonal naive), and the last
year (persistence).
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import looplab

CYCLE = 11  # years, of the sun's activity


@looplab.configurable
class Forecaster(keras.Model):
    """Maps windows of past years, shape `[n, years]`, to the following years, `[n, horizon]`."""

    def __init__(self, horizon: int = 1, units: int = 32, scale: float = 50.0) -> None:
        """Creates a GRU and a linear readout.

        Args:
            horizon: The number of years to forecast.
            units: The size of the recurrent state.
            scale: The sunspot number that the network treats as 1.
        """
        super().__init__()
        self.gru, self.readout = keras.layers.GRU(units), keras.layers.Dense(horizon)
        self.scale = scale

    def call(self, past: Any) -> Any:
        """Returns the forecasts; see the class."""
        return self.scale * self.readout(self.gru(past[:, :, None] / self.scale))


@looplab.configurable
class Forecast(looplab.Trainer):
    """Evaluates forecasts, and naive forecasts, by their mean absolute errors (MAE) in sunspots."""

    def test_step(self, batch: Any) -> dict[str, Any]:
        """Returns the MAE of the model, of the last cycle's values, and of the last year's value."""
        past, future = batch
        forecasts = {
            "mae": self.model(past, training=False),
            "seasonal_naive_mae": past[:, -CYCLE:][:, : future.shape[1]],
            "persistence_mae": past[:, -1:],
        }
        return {name: tf.reduce_mean(tf.abs(forecast - future)) for name, forecast in forecasts.items()}


@looplab.configurable
def sunspots(window: int = 33, horizon: int = 1, held_out: float = 0.2) -> dict[str, Any]:
    """Loads the yearly mean sunspot numbers from 1700 to 2008 (WDC-SILSO, Royal Observatory of Belgium).

    Args:
        window: The number of years that a forecast sees, at least a cycle.
        horizon: The number of years to forecast, at most a cycle.
        held_out: The fraction of the years, the last ones, that are forecast in validation only.

    Returns:
        `{"train": (past, future), "validation": (past, future)}`, float32 of shapes `[n, window]` and
        `[n, horizon]`. No year of a validation future is in a training window, past or future.
    """
    if not (window >= CYCLE >= horizon >= 1 and 0 < held_out < 1):
        raise looplab.ConfigurationError(
            f"data.source: window={window} must be at least {CYCLE} years, horizon={horizon} from 1 to "
            f"{CYCLE}, held_out={held_out} between 0 and 1."
        )
    try:
        from statsmodels.datasets import sunspots as dataset
    except ImportError:
        raise looplab.ConfigurationError(
            "data: the sunspots come with statsmodels, which is not installed. "
            "Run: pip install 'looplab[examples]'"
        ) from None
    numbers = dataset.load().data["SUNACTIVITY"].to_numpy("float32")
    windows = np.lib.stride_tricks.sliding_window_view(numbers, window + horizon)
    pairs = windows[:, :window].copy(), windows[:, window:].copy()
    first = round(len(numbers) * (1 - held_out))  # held-out year
    train, validation = slice(first - window - horizon + 1), slice(first - window, None)
    return {
        "train": tuple(part[train] for part in pairs),
        "validation": tuple(part[validation] for part in pairs),
    }
