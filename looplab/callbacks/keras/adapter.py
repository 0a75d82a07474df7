"""Adapts a Keras callback to the hooks of looplab."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from looplab import optimization
from looplab.callbacks.base import Callback, EpochEvent, EvaluateEvent, Event, StepEvent
from looplab.callbacks.keras import batch_hooks, monitors, restrictions, saved_fields
from looplab.callbacks.keras.final_weights import noticed
from looplab.callbacks.keras.logs import Logs, as_logs, params
from looplab.callbacks.keras.model_view import ModelView
from looplab.callbacks.keras.restored_state import appended, size_of, unchanged
from looplab.errors import ConfigurationError, nearest
from looplab.protocols import Controls, Values

_log = logging.getLogger("looplab")

_SWAP = "evaluations and best checkpoints already use the averaged weights"


class Keras(Callback):
    """Calls a `keras.callbacks.Callback` as `model.fit` would.

    A trainer wraps every Keras callback that it gets. With several models, wrap it yourself:
    `looplab.callbacks.Keras(keras.callbacks.EarlyStopping(), model="generator")`.

    The callback gets `params`, `logs` with Keras' names, and the live model as `model`, whose `optimizer` is
    the trainer's and whose `stop_training` ends the run. A learning rate that it sets is a factor on the
    schedule. Its fields (numbers, strings, arrays, lists and dicts of them) are part of each checkpoint, and
    weights that it sets at the end of training are in the last one. A resumed run calls its hooks that begin
    a run or an epoch again, and then restores what was saved.

    looplab calls a batch hook that has an effect after each execution, as Keras does: one step, or
    `steps_per_execution` steps if that is a number. A resume cuts the file of a `CSVLogger` back.

    While a hook runs, the model looks compiled with the trainer's `loss` and `metrics`. `model.evaluate` and
    `test_on_batch` leave training unchanged; `model.fit`, `train_on_batch` and `compile` are refused.

    With `use_ema=True` the callback sees the raw weights, which are trained, while an evaluation uses their
    averages. `ModelCheckpoint`, and `EarlyStopping(restore_best_weights=True)`, keep the averages, which were
    evaluated. When training ends, all callbacks see the averages, as in `model.fit`. If a callback then sets
    a weight, looplab sets both the weight and its average, so that `evaluate` and `predict` use it.
    """

    def __init__(self, callback: keras.callbacks.Callback, model: str | None = None) -> None:
        """Wraps a callback.

        Args:
            callback: A callback of Keras, or of any class derived from its `Callback`.
            model: The name of the model that the callback gets; a single model needs no name.

        Raises:
            ConfigurationError: If it is not a Keras callback, or cannot work here.
        """
        if not isinstance(callback, keras.callbacks.Callback):
            raise ConfigurationError(
                f"callbacks.Keras: expected a keras.callbacks.Callback, got {callback!r}."
            )
        self.logs, self.view, self.steps = Logs(), ModelView(None), 1
        self._callback, self._model_name = callback, model
        restrictions.check(callback)
        self._is_idle = isinstance(callback, keras.callbacks.SwapEMAWeights)
        self._acting = [] if self._is_idle else batch_hooks.acting(callback, "train")
        self.every = 1 if self._acting else None
        self.monitors = monitors.names(callback)
        self._made = saved_fields.fingerprints(saved_fields.read(callback)[0])
        self._began: dict[str, str] = {}  # fingerprints after on_train_begin
        self._restored: dict[str, Any] | None = None
        self._epoch: int | None = None  # the epoch that has begun, from 0
        self._epoch_logs: dict[str, float] | None = None
        self._batch_begun, self._sees_averages = False, False
        self._lost: set[str] = set()
        self._is_running = False
        self._stopped: dict[str, Any] | None = None  # its `_task` when it ended the run

    @property
    def name(self) -> str:
        """The class of the Keras callback."""
        return type(self._callback).__name__

    @property
    def may_add_logs(self) -> bool:
        """Whether it may write values into the shared logs that looplab cannot foresee; Keras' own do not."""
        own = type(self._callback).__module__.partition(".")[0] == "keras"
        return not own or isinstance(self._callback, keras.callbacks.LambdaCallback)

    @property
    def is_stateless(self) -> bool:
        """Whether it has no fields but its arguments, so that no field can change and need saving."""
        return saved_fields.are_of_arguments(self._callback)

    def plan(self, event: Event) -> list[tuple[str, str]]:
        """See `Callback`: lists the differences that this callback makes."""
        return [("callbacks", note) for note in self._notes()]

    def _notes(self) -> list[str]:
        if self._is_idle:
            return [f"{self.name} is not needed: {_SWAP}"]
        said = {"step": self._acting, "batch of an evaluation": batch_hooks.acting(self._callback, "test")}
        count = "one" if self.steps == 1 else f"at most {self.steps}"
        return [
            f"{count} {what} per execution because of {self.name}.{hooks[0]}"
            for what, hooks in said.items()
            if hooks
        ]

    @property
    def swaps_on_epoch(self) -> bool:
        """Whether callbacks must see the averaged weights at the end of an epoch."""
        return self._is_idle and bool(self._callback.swap_on_epoch)

    def serve(
        self, view: ModelView, steps: int, *, guarded: bool = True, sees_averages: bool = False
    ) -> None:
        """Sets how looplab calls it in a fit or in an evaluation.

        Args:
            view: Shows the model to the callback.
            steps: The number of steps after which looplab calls the batch hooks.
            guarded: Whether non-finite steps fail. If so, `TerminateOnNaN` need not check each loss.
            sees_averages: Whether the callback sees the averaged weights at the end of an epoch.
        """
        self.view, self.steps, self._sees_averages = view, steps, sees_averages
        if isinstance(self._callback, keras.callbacks.TerminateOnNaN):
            self._acting = [] if guarded else ["on_batch_end"]
        self.every = steps if self._acting else None

    def hears(self, hook: str) -> bool:
        """Whether the Keras callback has a hook of its own in the place of one of `Callback`."""
        keras_hook = hook.replace("evaluate_begin", "test_begin").replace("on_evaluate", "on_test_end")
        there = hasattr(keras.callbacks.Callback, keras_hook)
        return not self._is_idle and there and batch_hooks.overrides(self._callback, keras_hook)

    def acts(self, kind: str) -> bool:
        """Returns whether a batch hook has an effect, for a kind: `"train"`, `"test"` or `"predict"`."""
        return not self._is_idle and bool(batch_hooks.acting(self._callback, kind))

    @property
    def hears_evaluations(self) -> bool:
        """Whether it does something at the begin of an evaluation, or at its batches."""
        return self.acts("test") or batch_hooks.overrides(self._callback, "on_test_begin")

    # --- the hooks -------------------------------------------------------------------------------

    def on_check(self, event: Event) -> None:
        """See `Callback`."""
        self.model(event)
        if self._is_idle and not getattr(self._optimizer(event), "use_ema", False):
            raise ConfigurationError(
                f"callbacks: {self.name} must be used when `use_ema=True` is set on the optimizer."
            )

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`."""
        model = self.model(event)
        goes_on, self._restored = self._restored, None
        if goes_on is None and self._began and event.step:  # it ran in an earlier fit of this run
            goes_on = self.state()
        self._is_running = True
        if self._is_idle:
            return
        model.stop_training = False
        if goes_on is None and event.epoch_step % event.steps_per_epoch == 0:
            self._begin_run(event, controls, goes_on)
        else:
            with unchanged(model, self._optimizer(event)):
                self._begin_run(event, controls, goes_on)
                self._begin_epoch_again(event, controls, goes_on)
        if goes_on is not None:
            saved_fields.write(self._callback, goes_on["fields"])
            self._stopped = goes_on["stopped"]
            if self._stopped == self._task(event):  # neither the callback nor the length has changed
                controls.stop(f"{self.name} has set model.stop_training before")
        if event.run_dir is not None:
            self.state()  # warns now of fields that cannot be saved

    def on_epoch_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`."""
        if self._is_idle or self._epoch == event.epoch - 1:  # it began before the run was saved
            return
        self._epoch = event.epoch - 1
        with self._told(event, controls):
            self._callback.on_epoch_begin(self._epoch, self.logs.of(event, {}))

    def on_batch_begin(self, event: Event, controls: Controls) -> None:
        """Called at the start of an execution at whose end `on_step` is called."""
        begun, self._batch_begun = self._batch_begun, False
        if begun:  # a resumed run has called it with `on_epoch_begin`
            return
        with self._told(event, controls):
            if not self._callback.model.stop_training:
                self._callback.on_train_batch_begin(event.epoch_step, {})

    def ends_execution(self, event: StepEvent) -> bool:
        """Returns whether an execution ends with a step: after `steps` steps of an epoch, or at its end."""
        return (
            event.epoch_step % self.steps == 0
            or event.epoch_step == event.steps_per_epoch
            or event.step == event.total_steps
        )

    def on_step(self, event: StepEvent, controls: Controls) -> None:
        """See `Callback`: the end of an execution, with the batch index that Keras would pass."""
        if not self._acting:
            return
        first = (event.epoch_step - 1) // self.steps * self.steps
        logs = self.logs.of(event, event.epoch_values())
        with self._told(event, controls), self._evaluated_weights(event):
            self._callback.on_train_batch_end(first + self.steps - 1, logs)

    def on_evaluate_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`."""
        if not self._is_idle:
            with self._told(event, controls):
                self._callback.on_test_begin(self.logs.of(event, {}))

    def on_evaluate(self, event: EvaluateEvent, controls: Controls) -> None:
        """See `Callback`."""
        if not self._is_idle:
            with self._told(event, controls):
                self._callback.on_test_end(self.logs.of(event, event.values))

    def call(self, event: Event, controls: Controls | None, hook: str, *arguments: Any) -> None:
        """Calls a hook of evaluation or prediction with Keras' own arguments."""
        if not self._is_idle:
            with self._told(event, controls):
                getattr(self._callback, hook)(*arguments)

    def begin_call(self, event: Event, steps: int | None) -> None:
        """Sets model and parameters for an `evaluate` or `predict` outside of training.

        Args:
            event: The state of the trainer.
            steps: The number of batches.
        """
        self._callback.set_model(self.model(event))
        self._callback.set_params({"verbose": 0, "epochs": 1, "steps": steps})

    def on_epoch_end(self, event: EpochEvent, controls: Controls) -> None:
        """See `Callback`."""
        if self._is_idle:
            return
        self._epoch, epoch = None, event.epoch - 1
        self._epoch_logs = as_logs(event, event.values)
        logs = self.logs.of(event, event.values)
        with self._told(event, controls), self._evaluated_weights(event):
            self._callback.on_epoch_end(epoch, logs)

    def on_diverged(self, event: Event, controls: Controls, values: Values) -> None:
        """Called for a step that failed; Keras' `TerminateOnNaN` decides how the run ends."""
        if isinstance(self._callback, keras.callbacks.TerminateOnNaN):
            with self._told(event, controls):
                self._callback.on_batch_end(event.epoch_step % event.steps_per_epoch, dict(values))

    def on_train_end(self, event: Event, controls: Controls) -> None:
        """See `Callback`: requests the last checkpoint again if the callback has changed weights."""
        self._is_running = False
        if self._is_idle or not batch_hooks.overrides(self._callback, "on_train_end"):
            return
        with noticed(self.model(event), event, controls), self._told(event, controls):
            self._callback.on_train_end(dict(self._epoch_logs or {}))

    def on_exception(self, event: Event, error: BaseException) -> None:
        """See `Callback`; Keras has no such hook."""
        self._is_running = False

    # --- state in checkpoints --------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """See `Callback`: returns the fields that differ from their initial values."""
        saved, lost = saved_fields.read(self._callback)
        if new := sorted(set(lost) - self._lost):
            self._lost |= set(new)
            _log.warning(
                "callbacks: %s.%s cannot be saved; after a resume it has its value from __init__ and "
                "on_train_begin. Numbers, strings, arrays, and lists and dicts of them can be saved.",
                self.name,
                f" and {self.name}.".join(new),
            )
        now = saved_fields.fingerprints(saved)
        changed = {n: v for n, v in saved.items() if not self._made.get(n) == self._began.get(n) == now[n]}
        size = size_of(self._callback)
        return {
            "fields": changed,
            "epoch": self._epoch,
            "logs": self._epoch_logs,
            "size": size,
            "stopped": self._stopped,
        }

    @staticmethod
    def is_empty(state: dict[str, Any]) -> bool:
        """Returns whether a state holds nothing but the position of the run."""
        return not any((state["fields"], state["size"], state["stopped"]))

    def restore(self, state: dict[str, Any]) -> None:
        """See `Callback`: effective at once while the callback runs, otherwise after `on_train_begin`."""
        self._epoch, self._epoch_logs, self._stopped = state["epoch"], state["logs"], state["stopped"]
        if self._is_running:
            saved_fields.write(self._callback, state["fields"])
        else:
            self._restored = state

    # --- calling the hooks -----------------------------------------------------------------------

    def _begin_run(self, event: Event, controls: Controls, goes_on: dict[str, Any] | None) -> None:
        with (
            self._told(event, controls),
            appended(self._callback, None if goes_on is None else goes_on["size"]),
        ):
            self._callback.set_model(self.model(event))
            self._callback.set_params(params(event))
            monitors.choose_direction(self._callback)
            self._callback.on_train_begin({})
        self._began = saved_fields.fingerprints(saved_fields.read(self._callback)[0])

    def _begin_epoch_again(self, event: Event, controls: Controls, goes_on: dict[str, Any] | None) -> None:
        """Begins the current epoch again in a resumed run, since the callback may make objects then."""
        ends = event.epoch_step == event.steps_per_epoch
        present, done = (event.epoch, 0) if ends else (event.epoch - 1, event.epoch_step)
        if goes_on is not None and goes_on["epoch"] is not None:
            self._epoch = goes_on["epoch"]
        elif done:
            self._epoch = present
        else:
            return
        with self._told(event, controls):
            self._callback.on_epoch_begin(self._epoch, {})
            if self._acting and self._epoch == present:
                self._callback.on_train_batch_begin(done // self.steps * self.steps, {})
                self._batch_begun = not done

    def model(self, event: Event) -> keras.Model:
        """Returns the model that the callback gets.

        Raises:
            ConfigurationError: If several models are possible, or no model has the name.
        """
        name = self._model_name
        if name is None and len(event.models) == 1:
            return next(iter(event.models.values()))
        if name is None:
            raise ConfigurationError(
                f"callbacks: {self.name} works with one model, but there are the models "
                f"{list(event.models)}: give looplab.callbacks.Keras({self.name}(...), model=NAME)."
            )
        if name not in event.models:
            raise ConfigurationError(
                f"callbacks: {self.name}: there is no model {name!r}; there are {list(event.models)}."
                + nearest(name, event.models)
            )
        return event.models[name]

    def _optimizer(self, event: Event) -> keras.optimizers.Optimizer | None:
        """Returns the optimizer with the model's name, or the only one that trains weights of the model."""
        if len(event.optimizers) == 1:
            return next(iter(event.optimizers.values()))
        if self._model_name is not None and self._model_name in event.optimizers:
            return event.optimizers[self._model_name]
        own = {id(variable) for variable in self.model(event).trainable_variables}
        found = [o for o in event.optimizers.values() if own & {id(v) for v in o._trainable_variables}]
        return found[0] if len(found) == 1 else None

    @contextmanager
    def _evaluated_weights(self, event: Event) -> Iterator[None]:
        """Shows the evaluated weights to a callback that keeps weights and only reads them."""
        keeps = (
            self._sees_averages
            or isinstance(self._callback, keras.callbacks.ModelCheckpoint)
            or (
                isinstance(self._callback, keras.callbacks.EarlyStopping)
                and self._callback.restore_best_weights
            )
        )
        with optimization.exchanged(optimization.averages_of(event.optimizers.values()) if keeps else []):
            yield

    @contextmanager
    def _told(self, event: Event, controls: Controls | None) -> Iterator[None]:
        """Shows the trainer's model while a hook runs, and then does what the hook has requested."""
        model, optimizer = self.model(event), self._optimizer(event)
        stops = getattr(model, "stop_training", False)  # another callback may have set it
        with self.view.shown(model, optimizer, alone=len(event.models) == 1):
            yield
        if controls is None:
            return
        if optimizer is not None and optimization.follow_again(optimizer):
            controls.rebuild()
        if model.stop_training and not stops:
            self._stopped = self._task(event)
            controls.stop(f"{self.name} set model.stop_training", is_last=isinstance(event, StepEvent))

    def _task(self, event: Event) -> dict[str, Any]:
        """Returns its initial fields and the run's length; if either changes, an earlier stop is void."""
        return {"made": self._made, "total_steps": event.total_steps}
