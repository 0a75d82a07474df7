"""What a callback is told, and when.

    on_train_begin
    +-- on_step        at the steps that `every` declares
    |   on_evaluate    after an evaluation
    |   on_epoch_end   at the end of an epoch
    |   on_save        after a checkpoint
    on_train_end       (or on_exception)

At one step they come in this order. All run on the host, between executions, once per run (not per
replica). Loops in the graph run up to exactly the next step at which anyone is due.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from looplab.protocols import Controls, Values


@dataclass(frozen=True)
class Event:
    """Where the run stands.

    Attributes:
        step: Completed steps.
        epoch: The epoch of that step, from 1.
        total_steps: Completed steps at which the run is to end.
        steps_per_epoch: Steps of an epoch.
        run_dir: Where the run is recorded, for files of the callback's own; or None.
    """

    step: int
    epoch: int
    total_steps: int
    steps_per_epoch: int
    run_dir: Path | None


@dataclass(frozen=True)
class StepEvent(Event):
    """A step at which the callback is due.

    Attributes:
        values: The scalars of this very step, reduced over replicas.
    """

    values: Values


@dataclass(frozen=True)
class EvaluateEvent(Event):
    """An evaluation was made.

    Attributes:
        split: `"validation"` or the set's name.
        values: Means over the whole set, by metric.
    """

    split: str
    values: Values


@dataclass(frozen=True)
class EpochEvent(Event):
    """An epoch ended (or the run did, in the middle of one).

    Attributes:
        values: Means over the epoch by metric, and those of the evaluation at this step as
            `val_<metric>`, as in the logs of a Keras callback.
    """

    values: Values


@dataclass(frozen=True)
class SaveEvent(Event):
    """A checkpoint is on disk.

    Attributes:
        path: Its folder.
    """

    path: Path


class Callback:
    """Override the hooks you need; the others cost nothing.

    Attributes:
        every: The interval of `on_step`, such as `"100st"` or `"1ep"`; 1 is every step, and then
            no more than one step runs at a time.
    """

    every: str | int = 1

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """Called once, after the state is restored and before the first step."""

    def on_step(self, event: StepEvent, controls: Controls) -> None:
        """Called at the steps that `every` declares."""

    def on_evaluate(self, event: EvaluateEvent, controls: Controls) -> None:
        """Called after an evaluation."""

    def on_epoch_end(self, event: EpochEvent, controls: Controls) -> None:
        """Called at the end of an epoch, after its evaluation and before its checkpoint."""

    def on_save(self, event: SaveEvent, controls: Controls) -> None:
        """Called after a checkpoint is complete."""

    def on_train_end(self, event: Event, controls: Controls) -> None:
        """Called once when training has ended, also early; not after an exception or Ctrl-C."""

    def on_exception(self, event: Event, error: BaseException) -> None:
        """Called once when training ends by an exception, which goes on afterwards.

        After Ctrl-C that is `looplab.Interrupted`, and everything is saved already.
        """

    def state(self) -> dict[str, Any]:
        """Returns what must survive a restart, in JSON's types; part of every checkpoint."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned; called before `on_train_begin`.

        With `checkpoint.verify` also after each save, with the state that was just saved.
        """
