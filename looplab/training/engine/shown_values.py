"""The values of steps and metrics that a run shows: what they are called, and what an epoch has come to."""

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
    """The names and values of all that training and evaluation show.

    Attributes:
        noted: What the first trace of a step has found, by purpose.
    """

    def __init__(
        self,
        metrics: MetricSet,
        optimizers: Mapping[str, keras.optimizers.Optimizer],
        loss_scales: Mapping[str, optimization.LossScale],
    ) -> None:
        """Knows of no step yet.

        Args:
            metrics: Of the trainer.
            optimizers: By name, whose learning rates are shown.
            loss_scales: By optimizer.
        """
        self._metrics, self._optimizers, self._loss_scales = metrics, optimizers, loss_scales
        self.noted: dict[str, Noted] = {}

    @property
    def shows(self) -> dict[str, Shown]:
        """What a training step shows beside its scalars, by tag."""
        return self.noted["train"].shows

    def check(self, purpose: str) -> None:
        """Refuses two values of one name, of a step whose first trace and whose metrics are made.

        Raises:
            Refused: If two values would have one name.
            LossError: If something is shown under a tag that is logged anyway.
        """
        value_names.check(self.named(purpose))
        if purpose == "train":
            refuse_doubles(self.shows, self.produces("train"))

    def produces(self, purpose: str) -> list[str]:
        """Returns the names of the values that an epoch, or an evaluation, comes to."""
        pictures = {*self._metrics.pictured(purpose)}
        return [
            name
            for _, prefix, own in self.named(purpose)
            for each in own
            if (name := prefix + each) not in pictures
        ]

    def tags(self) -> set[str]:
        """Returns the tags that training logs: of values of steps, and of means over epochs."""
        noted, means = self.noted["train"], self.produces("train")
        return {*noted.returned, *noted.logged, *(EPOCH + name for name in means)}

    def named(self, purpose: str) -> list[value_names.Source]:
        """Returns the names of all that an epoch, or an evaluation, shows, by who gives it."""
        noted = self.noted[purpose]
        step = [*noted.returned, *noted.logged]
        found: list[value_names.Source] = [
            ("what the step returns", "", noted.scalars),
            ("self.log in the step", "", noted.logged),
            ("the metrics", "", [*self._metrics.names(purpose), *self._metrics.pictured(purpose)]),
            *self._metrics.owned.sources(purpose),
        ]
        if purpose == "train":
            # A step that returns a rate under this name shows its own in the place of looplab's.
            return [*found, ("looplab itself", "", [name for name in self._own() if name not in step])]
        if purpose == "test" and any(made.use_ema for made in self._optimizers.values()):
            found += [(f"{who}, of the weights themselves", RAW, own) for who, _, own in found]
        return found

    def of_epoch(self) -> dict[str, float]:
        """Returns the training metrics so far, and the learning rate of each optimizer in the last step."""
        return self._metrics.values("train") | self._own()

    def pictures_of_epoch(self) -> dict[str, tuple[str, Any]]:
        """Returns kind and data of what the training metrics show so far, by tag."""
        return self._metrics.pictures("train")

    def begin_epoch(self) -> None:
        """Has the training metrics forget what they have seen."""
        self._metrics.reset("train")

    def _own(self) -> dict[str, float]:
        return {
            **optimization.learning_rates(self._optimizers),
            **optimization.scale_values(self._loss_scales),
        }
