"""The values of steps and metrics that a run logs: their names, and their results in an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from looplab import optimization
from looplab.execution import Shown, refuse_doubles
from looplab.loggers import value_names
from looplab.runs.tags import EPOCH, RAW
from looplab.training.engine.metric_set import MetricSet
from looplab.training.engine.step_scopes import Noted


class ShownValues:
    """The names and values that training and evaluation log.

    Attributes:
        noted: The findings of the first trace of a step, by purpose.
    """

    def __init__(
        self,
        metrics: MetricSet,
        optimizers: Mapping[str, keras.optimizers.Optimizer],
        loss_scales: Mapping[str, optimization.LossScale],
    ) -> None:
        """Starts without steps.

        Args:
            metrics: The trainer's metrics.
            optimizers: The optimizers by name, whose learning rates are logged.
            loss_scales: The loss scales by optimizer.
        """
        self._metrics, self._optimizers, self._loss_scales = metrics, optimizers, loss_scales
        self.noted: dict[str, Noted] = {}

    @property
    def shows(self) -> dict[str, Shown]:
        """The summaries that a training step shows, by tag."""
        return self.noted["train"].shows

    def check(self, purpose: str) -> None:
        """Refuses two values of one name, for a step whose first trace is made and whose metrics exist.

        Raises:
            Refused: If two values would have one name.
            LossError: If a summary has a tag that is logged anyway.
        """
        value_names.check(self.named(purpose))
        if purpose == "train":
            refuse_doubles(self.shows, self.produces("train"))

    def produces(self, purpose: str) -> list[str]:
        """Returns the names of the values of an epoch or an evaluation."""
        pictures = {*self._metrics.pictured(purpose)}
        return [
            name
            for _, prefix, own in self.named(purpose)
            for each in own
            if (name := prefix + each) not in pictures
        ]

    def tags(self) -> set[str]:
        """Returns the tags that training logs: for values of steps, and for means over epochs."""
        noted, means = self.noted["train"], self.produces("train")
        return {*noted.returned, *noted.logged, *(EPOCH + name for name in means)}

    def named(self, purpose: str) -> list[value_names.Source]:
        """Returns the names of all values that an epoch or an evaluation logs, by their source."""
        noted = self.noted[purpose]
        step = [*noted.returned, *noted.logged]
        found: list[value_names.Source] = [
            ("what the step returns", "", noted.scalars),
            ("self.log in the step", "", noted.logged),
            ("the metrics", "", [*self._metrics.names(purpose), *self._metrics.pictured(purpose)]),
            *self._metrics.owned.sources(purpose),
        ]
        if purpose == "train":
            # If a step returns a rate under this name, its own replaces looplab's.
            return [*found, ("looplab itself", "", [name for name in self._own() if name not in step])]
        if purpose == "test" and any(made.use_ema for made in self._optimizers.values()):
            found += [(f"{who}, of the weights themselves", RAW, own) for who, _, own in found]
        return found

    def of_epoch(self) -> dict[str, float]:
        """Returns the training metrics so far, and the learning rate of each optimizer in the last step."""
        return self._metrics.values("train") | self._own()

    def pictures_of_epoch(self) -> dict[str, tuple[str, Any]]:
        """Returns kind and data of the training metrics' pictures so far, by tag."""
        return self._metrics.pictures("train")

    def begin_epoch(self) -> None:
        """Resets the training metrics."""
        self._metrics.reset("train")

    def _own(self) -> dict[str, float]:
        return {
            **optimization.learning_rates(self._optimizers),
            **optimization.scale_values(self._loss_scales),
        }
