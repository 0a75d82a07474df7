"""Stops training by the clock."""

from __future__ import annotations

import time
from typing import Any

from looplab.callbacks.base import Callback, EvaluateEvent, Event
from looplab.errors import ConfigurationError
from looplab.interval import Interval
from looplab.protocols import Controls
from looplab.targets import configurable


@configurable
class TimeLimit(Callback):
    """Stops the run after some time of training, with everything saved. The time of all starts counts.

    It checks the clock after every execution. Evaluations and saving count. The time before the first step of
    a start does not count. If a start is killed, the time after its last checkpoint does not count either.
    """

    def __init__(self, limit: str = "60min") -> None:
        """Sets the limit.

        Args:
            limit: Minutes, such as `"90min"` or `"0.5min"`.

        Raises:
            ConfigurationError: If it does not have this form.
        """
        self._limit = Interval.parse(limit, what="TimeLimit.limit")
        if not self._limit.wall_clock:
            raise ConfigurationError(
                f"TimeLimit.limit: {limit!r} is not a time; write minutes, such as '90min'."
            )
        self._spent = 0.0  # seconds; changes only in hooks, so that a saved state belongs to one moment
        self._since = 0.0

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`: a run that has used up its time stops again."""
        if event.step == 0:
            self._spent = 0.0
        self._since = time.monotonic()
        self.on_clock(event, controls)

    def on_clock(self, event: Event, controls: Controls) -> None:
        """See `Callback`."""
        now = time.monotonic()
        self._spent, self._since = self._spent + now - self._since, now
        if self._spent >= self._limit.seconds:
            controls.stop(f"the time limit of {self._limit} is used up")

    def on_evaluate(self, event: EvaluateEvent, controls: Controls) -> None:
        """See `Callback`: checks the clock, since an evaluation may take long."""
        self.on_clock(event, controls)

    def state(self) -> dict[str, Any]:
        """See `Callback`."""
        return {"seconds": self._spent}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Callback`."""
        self._spent = state["seconds"]
