"""Builds the parameters and logs that `model.fit` passes to a Keras callback."""

from __future__ import annotations

import math
from typing import Any

from looplab.callbacks.base import Event
from looplab.protocols import Values

_LONGEST = 2**31  # an epoch with more steps counts as endless


class Logs:
    """The logs of an event: one dict for all Keras callbacks, since some write values that others read."""

    def __init__(self) -> None:
        """Starts without an event."""
        self._event: Event | None = None
        self._logs: dict[str, float] = {}

    def of(self, event: Event, values: Values) -> dict[str, float]:
        """Returns the logs of an event; a new event makes them from its values."""
        if event is not self._event:
            self._event, self._logs = event, as_logs(event, values)
        return self._logs


def as_logs(event: Event, values: Values) -> dict[str, float]:
    """Returns values without learning rates: Keras' logs contain them only if a callback writes them."""
    rates = {"learning_rate", *(f"{name}/learning_rate" for name in event.optimizers)}
    return {name: value for name, value in values.items() if name not in rates}


def params(event: Event) -> dict[str, Any]:
    """Returns the parameters of `model.fit`; `verbose` is 0, since looplab shows progress itself."""
    if event.steps_per_epoch > _LONGEST:
        return {"epochs": 1, "steps": None, "verbose": 0}
    left = event.total_steps - event.step + event.epoch_step  # steps from the beginning of this epoch
    epochs = event.epoch - 1 + math.ceil(left / event.steps_per_epoch)
    return {"epochs": epochs, "steps": event.steps_per_epoch, "verbose": 0}
