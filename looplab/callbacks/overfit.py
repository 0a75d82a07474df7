"""Tests whether a new model can learn one batch."""

from __future__ import annotations

import logging
import math
from typing import Any

from looplab.callbacks.base import Callback, Event, StepEvent
from looplab.errors import ConfigurationError, nearest
from looplab.protocols import Controls
from looplab.targets import configurable

_log = logging.getLogger("looplab")


@configurable
class Overfit(Callback):
    """Reports at the end whether the loss fell enough. Use it to train on one batch repeatedly.

    The preset `debug=overfit` uses it. Almost any model can learn one batch, even with random labels. If the
    loss hardly falls, the training is broken.
    """

    every = 1  # step 1 reports the loss before the first update

    def __init__(self, enough: float = 0.9, loss: str = "loss") -> None:
        """Sets the value and the threshold.

        Args:
            enough: The fraction of the first loss by which it must fall, above 0: with 0.9 the last loss must
                be a tenth of the first, or less. For a negative loss, `-3.0` to `-5.7` is also a fall by 0.9.
                Penalties on weights count, although training cannot remove them.
            loss: The name of the value; with several optimizers a name such as `generator/loss`.

        Raises:
            ConfigurationError: If `enough` is not above 0.
        """
        if not enough > 0:
            raise ConfigurationError(f"Overfit.enough: must be above 0, got {enough}.")
        self._enough, self._loss = enough, loss
        self._forget()

    def _forget(self) -> None:
        self._first: float | None = None
        self._last = math.nan

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`: forgets the first loss if a new run begins."""
        if event.step == 0:
            self._forget()

    def on_step(self, event: StepEvent, controls: Controls) -> None:
        """See `Callback`: reads the loss of the step."""
        if self._loss not in event.values:
            raise ConfigurationError(
                f"Overfit.loss: the step returns no {self._loss!r}; it returns {sorted(event.values)}."
                + nearest(self._loss, event.values)
            )
        self._last = event.values[self._loss]
        if self._first is None:
            self._first = self._last

    def on_train_end(self, event: Event, controls: Controls) -> None:
        """See `Callback`: reports the result."""
        if self._first is None:
            return  # the run was stopped before its first step
        fall = self._first - self._last
        if not math.isfinite(fall):
            line = "went from %s to %s in %d steps: suspect the learning rate, or values in the data that are"
            say, line = _log.warning, f"{line} not finite"
        elif fall > 0 and fall >= self._enough * abs(self._first):
            say, line = _log.info, "fell from %s to %s in %d steps: this model can learn the batch"
        else:
            how = "fell only" if fall > 0 else "did not fall,"
            line = f"{how} from %s to %s in %d steps: suspect the labels, the loss, the learning rate, or"
            say, line = _log.warning, f"{line} gradients that do not flow (layers that are frozen or cut off)"
        say(f"the %s {line}", self._loss, f"{self._first:.4g}", f"{self._last:.4g}", event.step)

    def state(self) -> dict[str, Any]:
        """See `Callback`."""
        return {"first": self._first, "last": self._last}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Callback`."""
        self._first, self._last = state["first"], state["last"]
