"""What a callback is told, and when.

    on_check                before anything begins, also by `looplab.check`
    on_train_begin
    +-- on_epoch_begin      before the first step of an epoch
    |   on_step             at the steps that `every` declares
    |   on_clock            after every execution
    |   on_evaluate_begin   before an evaluation
    |   on_evaluate         after an evaluation
    |   on_epoch_end        at the end of an epoch
    |   on_save             after a checkpoint
    on_train_end            (or on_exception)

At one step they come in this order; of several sets that are evaluated at one step all begin before the
first is told (begin, begin, evaluate, evaluate), so that an interruption leaves nothing half told. All
run on the host, between executions, once per run (not per replica). Loops in the graph run up to exactly
the next step at which anyone is due.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from looplab.loggers.value_names import monitor_name
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
        models: The live models by name, to look at.
        optimizers: The live optimizers by name, likewise.
        epoch_step: Completed steps of that epoch, from 1 to `steps_per_epoch`; 0 where it begins.
    """

    step: int
    epoch: int
    total_steps: int
    steps_per_epoch: int
    run_dir: Path | None
    models: Mapping[str, keras.Model]
    optimizers: Mapping[str, keras.optimizers.Optimizer]
    epoch_step: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class StepEvent(Event):
    """A step at which the callback is due.

    Attributes:
        values: The scalars of this very step, reduced over replicas.
        epoch_values: Gives the means over the epoch so far, as `EpochEvent.values` without those of
            evaluations.
    """

    values: Values
    epoch_values: Callable[[], Values]


@dataclass(frozen=True)
class EvaluateEvent(Event):
    """An evaluation was made.

    Attributes:
        split: `"validation"` or the set's name.
        values: Means over the whole set, by metric.
        logged: What callbacks before this one have logged of it.
    """

    split: str
    values: Values
    logged: Values = field(default_factory=dict)

    @property
    def monitors(self) -> dict[str, float]:
        """All by the names that monitors go by: `val_loss`, or `<set>_loss` of another set."""
        own = {monitor_name(self.split, name): value for name, value in self.values.items()}
        return {**own, **self.logged}


@dataclass(frozen=True)
class EpochEvent(Event):
    """An epoch ended (or the run did, in the middle of one).

    Attributes:
        values: Means over the epoch by metric, and those of the evaluations at this step as
            `val_<metric>` or `<set>_<metric>`, as in the logs of a Keras callback; the learning rate that the
            last step has used; and what callbacks before this one have logged.
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
            no more than one step runs at a time. None is never. It may change while a run goes on: it is
            read before each execution.
        monitors: The names of values that it waits for, such as `"val_loss"`: where nothing produces
            one, training is refused before it begins.
        produces: The names of values that it logs (`controls.log`) after evaluations or at ends of
            epochs, so that `checkpoint.monitor` and callbacks after it may wait for them.
        on_failure: What an exception of its own means: `"critical"` ends the run, with a note that
            names the hook; after `"best_effort"` a warning is logged, and the callback hears no more
            in this `fit`. (A `ConfigurationError` ends it in any case.)
    """

    every: str | int | None = 1
    monitors: Sequence[str] = ()
    produces: Sequence[str] = ()
    on_failure: str = "critical"

    def on_check(self, event: Event) -> None:
        """Called before anything begins or is restored, by `fit` and by `looplab.check`.

        Raise a `ConfigurationError` here for what cannot work with these models. Nothing may change, and
        nothing be written: `event.run_dir` is None.
        """

    def plan(self, event: Event) -> Sequence[tuple[str, str]]:
        """Returns lines for the plan that is shown before the first step, each a label and a text."""
        return ()

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """Called once, after the state is restored and before the first step."""

    def on_epoch_begin(self, event: Event, controls: Controls) -> None:
        """Called before the first step of an epoch, after the checkpoint of the one before.

        `event.epoch` is the epoch that begins. A run that goes on in the middle of an epoch does not
        begin it again.
        """

    def on_step(self, event: StepEvent, controls: Controls) -> None:
        """Called at the steps that `every` declares."""

    def on_clock(self, event: Event, controls: Controls) -> None:
        """Called after every execution, at steps that no two runs share.

        For what goes by the clock, which can only stop or save: nothing that is computed or logged may
        depend on it. No execution becomes shorter by it; one takes a fraction of a second, unless
        `steps_per_execution` says otherwise.
        """

    def on_evaluate_begin(self, event: Event, controls: Controls) -> None:
        """Called before an evaluation; of each set that is due, before anyone hears of a result.

        Perhaps twice: one that is interrupted has no end, and begins anew when the run continues.
        """

    def on_evaluate(self, event: EvaluateEvent, controls: Controls) -> None:
        """Called after an evaluation."""

    def on_epoch_end(self, event: EpochEvent, controls: Controls) -> None:
        """Called at the end of an epoch, after its evaluation and before its checkpoint."""

    def on_save(self, event: SaveEvent, controls: Controls) -> None:
        """Called after a checkpoint is complete; what is logged or changes here belongs to the next one."""

    def on_train_end(self, event: Event, controls: Controls) -> None:
        """Called once when training has ended, also early; not after an exception or Ctrl-C.

        The last checkpoint is written already; who changes weights here asks for it anew with
        `controls.save()`.
        """

    def on_exception(self, event: Event, error: BaseException) -> None:
        """Called once when training ends by an exception, which goes on afterwards.

        After Ctrl-C that is `looplab.Interrupted`, after a SIGTERM `looplab.Terminated`, neither of which is
        an `Exception`, and everything is saved already. An error raised here takes the place of the first
        one, once all have heard of that.
        """

    def measure(
        self,
        optimizer: keras.optimizers.Optimizer,
        gradients: Sequence[tf.Tensor | None],
        variables: Sequence[Any],
    ) -> Mapping[str, tf.Tensor]:
        """Measures an update inside the training step, before the gradients are clipped and applied.

        Traced, per replica, in every step; costs nothing where it is not overridden. It must not change
        anything.

        Args:
            optimizer: The one that will apply them.
            gradients: Those of the global batch, equal on all replicas; None where there is none.
            variables: What they belong to.

        Returns:
            Scalars by name, equal on all replicas. They are logged with the step's own, and have no
            mean over an epoch; of several updates with the same names the last one counts.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """Returns what must survive a restart, in JSON's types and NumPy arrays of numbers.

        It is part of every checkpoint.
        """
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned; called before `on_train_begin`.

        With `checkpoint.verify` also after each save, with the state that was just saved.
        """
