"""The progress of a run: its steps and epochs, the sums of its present epoch, its best evaluations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from looplab.errors import ConfigurationError
from looplab.execution import StepMeans
from looplab.loggers import History
from looplab.protocols import Feed
from looplab.runs.epochs import ENDLESS, Epochs
from looplab.training.audit import Finding


@dataclass
class Progress:
    """The progress of a run, in addition to its variables; saved with every checkpoint.

    Attributes:
        step: The number of completed steps.
        settled: The last step whose evaluation, epoch end and checkpoint are done.
        epochs: The limits of epochs; None before the first fit, and in checkpoints of earlier versions.
        seen: The number of examples in all steps so far; None if it is not known.
        means: The sums over the present epoch.
        top: Monitor, value, step, epoch and values of the best evaluations so far, best first.
        incidents: The number of failed steps after which the run continued; see
            `looplab.training.nonfinite_policy`.
        logged: The values that callbacks have logged at the present step, if it is not settled yet.
    """

    step: int = 0
    settled: int = 0
    means: StepMeans = field(default_factory=StepMeans)
    top: list[dict[str, Any]] = field(default_factory=list)
    incidents: int = 0
    epochs: Epochs | None = None
    seen: int | None = 0
    logged: dict[str, float] = field(default_factory=dict)

    @property
    def best(self) -> dict[str, Any] | None:
        """The best evaluation so far, or None."""
        return self.top[0] if self.top else None

    def to_json(self) -> dict[str, Any]:
        """Returns the progress in JSON's types."""
        return {
            "step": self.step,
            "settled": self.settled,
            "sums": self.means.sums,
            "top": self.top,
            "incidents": self.incidents,
            "epochs": None if self.epochs is None else self.epochs.to_json(),
            "seen": self.seen,
            "logged": self.logged,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Progress:
        """Creates the progress from the result of `to_json`."""
        means = StepMeans(saved["sums"])
        epochs = Epochs(**saved["epochs"]) if saved.get("epochs") else None
        incidents, seen, logged = saved.get("incidents", 0), saved.get("seen"), saved.get("logged", {})
        logged = {name: float(value) for name, value in logged.items()}  # JSON has no NaN
        return cls(saved["step"], saved["settled"], means, saved["top"], incidents, epochs, seen, logged)

    def go_on_with(self, feed: Feed, initial_epoch: int = 0) -> Epochs:
        """Returns the epochs of the data with which the run begins or continues.

        The sums of an epoch that is left in its middle are discarded.

        Args:
            feed: The data.
            initial_epoch: The number of epochs that count as done when the run begins.

        Raises:
            ConfigurationError: If the run continues, and neither stands at nor has begun at that epoch.
        """
        begins = not self.step and self.epochs is None
        own = epochs_of(feed, initial_epoch if begins else 0)
        before = self.epochs if begins or self.epochs is not None else own
        if initial_epoch and before is not None:
            began = before.done(0) if not before.begun else None
            if initial_epoch not in (began, before.done(self.step)):
                raise ConfigurationError(
                    f"initial_epoch={initial_epoch}: the run continues, and {before.done(self.step)} epochs "
                    "of it are done. Leave initial_epoch out; or begin a new run, with another trainer and "
                    "run_dir."
                )
        self.epochs = own.follow(before, self.step)
        if before is not None and self.epochs is not before:
            self.means = StepMeans()
            counted = feed.examples(self.epochs.place(self.step, feed))
            if counted is not None and self.seen is not None:
                self.epochs = replace(self.epochs, surplus=counted - self.seen)
        return self.epochs


def epochs_of(feed: Feed, initial_epoch: int = 0) -> Epochs:
    """Returns the epochs of a feed for a run that begins with it, even if its only epoch has no end.

    Args:
        feed: The data.
        initial_epoch: The number of epochs that count as done.
    """
    length = feed.steps_per_epoch
    if length is None:
        return Epochs(ENDLESS)
    own = Epochs(length, feed.examples(length), shift=initial_epoch * length)
    return replace(own, surplus=feed.examples(own.place(0, feed)) or 0) if initial_epoch else own


@dataclass
class RunSoFar:
    """The facts about a run that a trainer keeps from one fit to the next.

    Attributes:
        progress: The progress of the run; None until a fit restored or began it, and after a fit that failed
            with a run directory, so that the next fit returns to a checkpoint.
        history: The epochs of the fits so far; None before the first fit.
        findings: The state that no checkpoint holds, as far as the audit noticed it.
        initialized_from: The source of the run's first weights, or None.
    """

    progress: Progress | None = None
    history: History | None = None
    findings: list[Finding] = field(default_factory=list)
    initialized_from: str | None = None
