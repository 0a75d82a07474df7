"""The hooks of a callback, and their order.

    on_check                before any work begins; `looplab.check` calls it too
    on_train_begin
    +-- on_epoch_begin      before the first step of an epoch
    |   on_step             at the steps that `every` declares
    |   on_clock            after every execution
    |   on_evaluate_begin   before an evaluation
    |   on_evaluate         after an evaluation
    |   on_epoch_end        at the end of an epoch
    |   on_save             after a checkpoint
    on_train_end            (or on_exception)

At one step they come in this order. If several sets are evaluated at one step, all begin before the first
result (begin, begin, evaluate, evaluate), so that an interruption separates no results. All hooks run on the
host, between executions, once for the run and not for each replica. Loops in the graph run up to exactly the
next step at which a callback is due.
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
    """The state of the run.

    Attributes:
        step: Completed steps.
        epoch: The epoch of that step, from 1.
        total_steps: Completed steps at which the run will end.
        steps_per_epoch: Steps of an epoch.
        run_dir: The run directory, where the callback may write files; or None.
        models: The live models by name. Only read them.
        optimizers: The live optimizers by name. Only read them.
        epoch_step: Completed steps of that epoch, from 1 to `steps_per_epoch`; 0 at its beginning.
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
        values: The scalars of this step alone, reduced over replicas.
        epoch_values: Returns the means over the epoch so far, like `EpochEvent.values` without evaluations.
    """

    values: Values
    epoch_values: Callable[[], Values]


@dataclass(frozen=True)
class EvaluateEvent(Event):
    """An evaluation has ended.

    Attributes:
        split: `"validation"` or the set's name.
        values: Means over the whole set, by metric.
        logged: The values that earlier callbacks have logged for this evaluation.
    """

    split: str
    values: Values
    logged: Values = field(default_factory=dict)

    @property
    def monitors(self) -> dict[str, float]:
        """All values under the names of monitors: `val_loss`, or `<set>_loss` for another set."""
        own = {monitor_name(self.split, name): value for name, value in self.values.items()}
        return {**own, **self.logged}


@dataclass(frozen=True)
class EpochEvent(Event):
    """An epoch has ended, or the run has ended in the middle of one.

    Attributes:
        values: Means over the epoch by metric; the evaluations at this step as `val_<metric>` or
            `<set>_<metric>`, as in the logs of a Keras callback; the learning rate of the last step; and the
            values that earlier callbacks have logged.
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
    """The base class of callbacks: override the hooks that you need; the others cost nothing.

    Attributes:
        every: The interval of `on_step`, such as `"100st"` or `"1ep"`. With 1, looplab runs one step at a
            time and calls `on_step` after each. With None, looplab never calls it. The interval may change
            during a run: looplab reads it before each execution.
        times: The number of times that `on_step` acts, for the plan; None if it acts whenever it is due.
        monitors: The names of the values that the callback needs, such as `"val_loss"`. looplab refuses to
            train if nothing produces one of them.
        produces: The names of the values that the callback logs (`controls.log`) in `on_step`, `on_evaluate`
            or `on_epoch_end`. `checkpoint.monitor` and other callbacks may use them: a callback that names
            one in `monitors` is called after this one.
        on_failure: The effect of an exception in a hook. With `"critical"` the run ends, with a note that
            names the hook. With `"best_effort"` looplab logs a warning and disables the callback in this
            `fit`. A `ConfigurationError` always ends the run.
    """

    every: str | int | None = 1
    times: int | None = None
    monitors: Sequence[str] = ()
    produces: Sequence[str] = ()
    on_failure: str = "critical"

    def on_check(self, event: Event) -> None:
        """Called by `fit` and by `looplab.check` before any work begins and before the state is restored.

        Raise a `ConfigurationError` for settings that cannot work with these models. The hook must not
        change or write anything: `event.run_dir` is None.
        """

    def plan(self, event: Event) -> Sequence[tuple[str, str]]:
        """Returns lines for the plan at the start of a run, each with a label and a text."""
        return ()

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """Called once, after looplab has restored the state and before the first step."""

    def on_epoch_begin(self, event: Event, controls: Controls) -> None:
        """Called before the first step of an epoch, after the checkpoint of the one before.

        `event.epoch` is the epoch that begins. A run that resumes in the middle of an epoch does not call
        this for that epoch again.
        """

    def on_step(self, event: StepEvent, controls: Controls) -> None:
        """Called at the steps that `every` declares."""

    def on_clock(self, event: Event, controls: Controls) -> None:
        """Called after every execution, at steps that differ between runs.

        Use it to stop or to save by the clock. No computed or logged value may depend on it. The hook does
        not shorten executions; one takes a fraction of a second, unless `steps_per_execution` sets its
        length.
        """

    def on_evaluate_begin(self, event: Event, controls: Controls) -> None:
        """Called before an evaluation; if several sets are due, for each of them before the first result.

        It may be called twice: an interrupted evaluation starts again when the run resumes.
        """

    def on_evaluate(self, event: EvaluateEvent, controls: Controls) -> None:
        """Called after an evaluation."""

    def on_epoch_end(self, event: EpochEvent, controls: Controls) -> None:
        """Called at the end of an epoch, after its evaluation and before its checkpoint."""

    def on_save(self, event: SaveEvent, controls: Controls) -> None:
        """Called after a checkpoint is complete; changes and logs of this hook belong to the next one."""

    def on_train_end(self, event: Event, controls: Controls) -> None:
        """Called once at the end of training, also after a stop, but not after an exception or Ctrl-C.

        The last checkpoint is already written; if you change weights here, call `controls.save()`.
        """

    def on_exception(self, event: Event, error: BaseException) -> None:
        """Called once when an exception ends training; the exception is raised afterwards.

        After Ctrl-C the error is `looplab.Interrupted`, after a SIGTERM it is `looplab.Terminated`. Neither
        is an `Exception`, and the state is already saved. If this hook raises an error, that error replaces
        the first one, after all callbacks were called.
        """

    def measure(
        self,
        optimizer: keras.optimizers.Optimizer,
        gradients: Sequence[tf.Tensor | None],
        variables: Sequence[Any],
    ) -> Mapping[str, tf.Tensor]:
        """Measures an update inside the training step, before the gradients are clipped and applied.

        looplab traces it and runs it per replica, in every step. It must not change anything.

        Args:
            optimizer: The optimizer that applies the gradients.
            gradients: The gradients of the global batch, equal on all replicas; None for a variable without
                a gradient.
            variables: The variables of these gradients.

        Returns:
            Scalars by name, equal on all replicas. looplab logs them with the step's values, without a mean
            over an epoch. If several updates return the same name, the last value counts.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """Returns the state that must survive a restart, in JSON's types and NumPy arrays of numbers.

        Each checkpoint contains it.
        """
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores a state that `state` returned; called before `on_train_begin`.

        With `checkpoint.verify` it is also called after each save, with the saved state.
        """
