"""Logs the learning rate within an epoch."""

from __future__ import annotations

from looplab.callbacks.base import Callback, StepEvent
from looplab.optimization import learning_rates
from looplab.protocols import Controls
from looplab.targets import configurable


@configurable
class LearningRateMonitor(Callback):
    """Logs the learning rate of each optimizer at an interval; looplab logs it at each epoch anyway.

    The value at a step is the rate that the step has used. (Keras logs `optimizer.learning_rate`, which is
    already the rate of the next step.)
    """

    def __init__(self, every: str | int = "50st") -> None:
        """Sets the interval.

        Args:
            every: An interval of steps, epochs or examples.
        """
        self.every = every

    def on_step(self, event: StepEvent, controls: Controls) -> None:
        """See `Callback`: logs nothing at the end of an epoch, whose record has the same tag."""
        if event.epoch_step % event.steps_per_epoch and event.step != event.total_steps:
            controls.log(learning_rates(event.optimizers))
