"""The scope of a step: in its first trace, which creates variables, and in steps that run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from looplab import optimization
from looplab.errors import LossError
from looplab.execution import MetricResult, Scalars, Shown, StepScope, Update
from looplab.execution.row_random import Draws
from looplab.training.engine.metric_set import MetricSet
from looplab.training.engine.tracked_variables import TrackedVariables


@dataclass(frozen=True)
class StepParts:
    """The objects that a step works with.

    Attributes:
        optimizers: The optimizers by name.
        tracked: The trainer's variables.
        metrics: The trainer's metrics.
        micro_batches: The number of slices in which an update computes its gradients.
        compiles_gradients: Whether XLA compiles the gradients on each replica, separately from the rest.
    """

    optimizers: Mapping[str, keras.optimizers.Optimizer]
    tracked: TrackedVariables
    metrics: MetricSet
    micro_batches: int
    compiles_gradients: bool


@dataclass
class Noted:
    """The findings of a step's first trace.

    Attributes:
        returned: The names of the scalars that it returns.
        logged: The names of the values that it logs with `self.log`.
        shows: The summaries that it shows, by tag.
        updated: The metrics of models and the trainer that it updates.
        results: The results of such metrics among the returned values, by name.
        recomputed: The seed generators from which it draws again, other numbers, in the backward pass.
    """

    returned: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    shows: dict[str, Shown] = field(default_factory=dict)
    updated: list[keras.Metric] = field(default_factory=list)
    results: dict[str, MetricResult] = field(default_factory=dict)
    recomputed: list[str] = field(default_factory=list)

    @property
    def scalars(self) -> list[str]:
        """The names of the returned values that are not results of metrics."""
        return [name for name in self.returned if name not in self.results]


class TracingScope(StepScope):
    """The first trace of a step: it computes its loss, and records what it trains, measures and shows."""

    def __init__(
        self, parts: StepParts, purpose: str, noted: Noted, sees: Draws | None = None, **step: Any
    ) -> None:
        """Starts a step.

        Args:
            parts: The objects that the step works with.
            purpose: `"train"`, `"test"` or `"predict"`.
            noted: The findings; changed in place.
            sees: Makes the draws without being told where their rows are; None for the `draws` of `step`.
            **step: See `StepScope`.
        """
        super().__init__(**step)
        self._parts, self.purpose, self._noted = parts, purpose, noted
        self.draws = sees or self.draws

    def minimize(self, update: Update) -> Scalars:
        """Computes the loss as in the update, and records the variables to train."""
        scalars = self._computed(update, checks=update.separable)
        self._parts.tracked.will_train(update.optimizer, update.variables())
        return scalars

    def _computed(self, update: Update, *, checks: bool) -> Scalars:
        return optimization.measure(
            update.loss_fn,
            update.batch,
            training=True,
            in_xla=self._parts.compiles_gradients,
            micro_batches=self._parts.micro_batches,
            checks=checks,
            regularized=update.regularized,
            examples=self.examples,
        )

    def measure(
        self, loss_fn: Callable[..., Any], batch: Any, regularized: Sequence[keras.Model], separable: bool
    ) -> Scalars:
        """Computes the loss as in a run, and checks that it does not compare examples with each other."""
        return optimization.measure(
            loss_fn, batch, regularized=regularized, examples=self.examples, checks=separable
        )

    def apply_gradients(
        self, optimizer: str, gradients: Sequence[Any], variables: Sequence[Any], weight: Any
    ) -> None:
        """Records the variables to train."""
        self._parts.tracked.will_train(optimizer, variables)

    def update_metrics(self, targets: Any, predictions: Any, weights: Any = None) -> None:
        """Records shapes and dtypes of the measured values."""
        if not self.is_aside:
            self._parts.metrics.see(targets, predictions)

    def show(self, tag: str, what: Shown, value: Any = None) -> None:
        """Records a summary."""
        if not self.is_aside:
            self._noted.shows[tag] = what

    def note_updated(self, metric: keras.Metric) -> None:
        """Records a metric that is updated."""
        if all(metric is not other for other in self._noted.updated):
            self._noted.updated.append(metric)

    def note_recomputed(self, generator: Any) -> None:
        """Records the variable of a seed generator."""
        path = generator.state.path
        if path not in self._noted.recomputed:
            self._noted.recomputed.append(path)

    def log(self, name: str, value: Any, weight: Any) -> None:
        """Records a logged value, after checking it."""
        if self.purpose == "predict":
            raise LossError(
                f"self.log: {name!r} is logged in predict_step, whose values are not logged. Call it from "
                "compute_loss, train_step or test_step."
            )
        super().log(name, value, weight)

    def result(self, returned: Any) -> None:
        """Records the names of the returned and logged values."""
        scalars = returned if isinstance(returned, Mapping) and self.purpose != "predict" else {}
        self._noted.returned = list(scalars)
        self._noted.results = {
            name: found._replace(value=None)  # of a graph that is no longer needed
            for name, value in scalars.items()
            if (found := self.metric_results.of(value)) is not None
        }
        for name in scalars.keys() - self._noted.results.keys():
            self.metric_results.refuse_derived(name, scalars[name])
        self._noted.logged = [*self.logged]


class LookingScope(TracingScope):
    """A further trace of a step, only to see what it draws: it computes its losses, and records nothing."""

    def minimize(self, update: Update) -> Scalars:
        """Computes the loss as in the update."""
        return self._computed(update, checks=False)

    def measure(
        self, loss_fn: Callable[..., Any], batch: Any, regularized: Sequence[keras.Model], separable: bool
    ) -> Scalars:
        """Computes the loss as in a run."""
        return optimization.measure(loss_fn, batch, regularized=regularized, examples=self.examples)

    def apply_gradients(
        self, optimizer: str, gradients: Sequence[Any], variables: Sequence[Any], weight: Any
    ) -> None:
        """Does nothing."""

    def update_metrics(self, targets: Any, predictions: Any, weights: Any = None) -> None:
        """Does nothing."""


class RunningScope(StepScope):
    """A step that runs: it makes its updates and adds to the metrics.

    Attributes:
        purpose: `"train"`, `"test"` or `"predict"`.
    """

    def __init__(self, parts: StepParts, purpose: str, **step: Any) -> None:
        """Starts a step.

        Args:
            parts: The objects that the step works with.
            purpose: `"train"`, `"test"` or `"predict"`.
            **step: See `StepScope`.
        """
        super().__init__(**step)
        self._parts, self.purpose = parts, purpose

    def minimize(self, update: Update) -> Scalars:
        """Makes the update; returns its global scalars."""
        parts = self._parts
        return optimization.update(
            update.loss_fn,
            update.batch,
            update.variables(),
            parts.optimizers[update.optimizer],
            micro_batches=parts.micro_batches,
            jit=parts.compiles_gradients,
            when=update.when,
            loss_scale=parts.tracked.loss_scales.get(update.optimizer),
            regularized=update.regularized,
            examples=self.examples,
        )

    def measure(
        self, loss_fn: Callable[..., Any], batch: Any, regularized: Sequence[keras.Model], separable: bool
    ) -> Scalars:
        """Computes a loss over the global batch; returns its global scalars."""
        return optimization.measure(loss_fn, batch, regularized=regularized, examples=self.examples)

    def apply_gradients(
        self, optimizer: str, gradients: Sequence[Any], variables: Sequence[Any], weight: Any
    ) -> None:
        """Reduces the gradients of sums over the replicas, and applies them."""
        whole = optimization.reduce_mean(gradients, weight)
        loss_scale = self._parts.tracked.loss_scales.get(optimizer)  # overflows are skipped here too
        optimization.apply(self._parts.optimizers[optimizer], whole, variables, loss_scale=loss_scale)

    def update_metrics(self, targets: Any, predictions: Any, weights: Any = None) -> None:
        """Adds examples to the metrics of this kind of step."""
        if not self.is_aside:
            self._parts.metrics.update(self.purpose, targets, predictions, self.valid, weights)

    def note_updated(self, metric: keras.Metric) -> None:
        """Does nothing, because the first trace has recorded it."""

    def note_recomputed(self, generator: Any) -> None:
        """Does nothing, because the first trace has recorded it."""

    def show(self, tag: str, what: Shown, value: Any = None) -> None:
        """Keeps a value that a training step shows."""
        if self.purpose == "train" and not self.is_aside and value is not None:
            self.keep_shown(tag, value)

    def result(self, returned: Any) -> Any:
        """Returns a `Result`; for a prediction the value that the step method returned."""
        return returned if self.purpose == "predict" else self.collect(returned)
