"""A callback of Keras as one of looplab's."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from looplab import optimization
from looplab.callbacks.base import Callback, EpochEvent, EvaluateEvent, Event, StepEvent
from looplab.callbacks.keras import batch_hooks, saved_fields
from looplab.callbacks.keras.logs import Logs, as_logs, params
from looplab.callbacks.keras.restored_state import appended, size_of, unchanged, variables_of
from looplab.checkpoint import state
from looplab.errors import ConfigurationError, nearest
from looplab.options.checkpoint_policy import rises
from looplab.protocols import Controls

_log = logging.getLogger("looplab")

_REFUSED = {
    keras.callbacks.BackupAndRestore: "resume replaces it: with Trainer(run_dir=...) every checkpoint holds "
    "the whole state, and the same command goes on from it. Leave it out.",
    keras.callbacks.ProgbarLogger: "looplab shows progress itself: fit(verbose=1). Leave it out.",
    keras.callbacks.CallbackList: "give the callbacks in it one by one.",
}
_SWAP = "evaluation and best checkpoints use the averaged weights by themselves"


class Keras(Callback):
    """Calls a `keras.callbacks.Callback` as `model.fit` would.

    A trainer wraps every Keras callback it is given; by hand it is needed where there are several
    models: `looplab.callbacks.Keras(keras.callbacks.EarlyStopping(), model="generator")`.

    The callback gets `params`, `logs` with Keras' names, and the live model as `model`, whose
    `optimizer` is the trainer's and whose `stop_training` ends the run. A learning rate that it sets
    becomes the factor on the schedule; weights that it sets when training ends are in the last
    checkpoint. Its fields (numbers, strings, arrays, and lists and dicts of them) are part of each
    checkpoint; what it begins is begun again by a run that goes on, and then has the fields, weights
    and learning rate that were saved.

    A hook for batches of training that really does something has one step run at a time. Those for
    batches of an evaluation, which runs whole, are not called, nor are those of `predict`. Files of a
    `CSVLogger` are cut back to the checkpoint that a run goes on from.

    With `use_ema=True` the weights that it sees are those that are trained, and an evaluation is of their
    averages. `ModelCheckpoint`, and `EarlyStopping(restore_best_weights=True)`, keep what was evaluated:
    they see the averages, as after Keras' `SwapEMAWeights(swap_on_epoch=True)`. When training ends all see
    the averages, as in `model.fit`. What a callback sets then becomes weight and average, so that it is what
    `evaluate` and `predict` use.
    """

    def __init__(self, callback: keras.callbacks.Callback, model: str | None = None) -> None:
        """Wraps a callback.

        Args:
            callback: The one of Keras, or of any class derived from its `Callback`.
            model: The model it is told of, by name; a single one needs no name.

        Raises:
            ConfigurationError: If it is no Keras callback, or one that cannot work here.
        """
        if not isinstance(callback, keras.callbacks.Callback):
            raise ConfigurationError(
                f"callbacks.Keras: expected a keras.callbacks.Callback, got {callback!r}."
            )
        self.logs = Logs()
        self._callback, self._model_name = callback, model
        for kind, why in _REFUSED.items():
            if isinstance(callback, kind):
                raise ConfigurationError(f"callbacks: {self.name} is not called here, because {why}")
        self._is_idle = isinstance(callback, keras.callbacks.SwapEMAWeights)
        if self._is_idle and callback.swap_on_epoch:
            raise ConfigurationError(
                f"callbacks: SwapEMAWeights(swap_on_epoch=True) cannot be used: {_SWAP}, and a swap over "
                "the end of an epoch would be in the checkpoint. Leave swap_on_epoch out."
            )
        self._acting = [] if self._is_idle else batch_hooks.of_training(callback)
        self.every = 1 if self._acting else None
        self.monitors = _monitors(callback)
        self._made = saved_fields.fingerprints(saved_fields.read(callback)[0])
        self._began: dict[str, str] = {}  # fingerprints after on_train_begin
        self._restored: dict[str, Any] | None = None
        self._epoch: int | None = None  # the one that has begun, from 0
        self._epoch_logs: dict[str, float] | None = None
        self._lost: set[str] = set()
        self._is_running = False
        self._stopped: dict[str, Any] | None = None  # what it was, and was to do, when it ended the run

    @property
    def name(self) -> str:
        """The class of the Keras callback."""
        return type(self._callback).__name__

    @property
    def may_add_logs(self) -> bool:
        """Whether it may write what nobody knows of into the logs that others read: Keras' own do not."""
        own = type(self._callback).__module__.partition(".")[0] == "keras"
        return not own or isinstance(self._callback, keras.callbacks.LambdaCallback)

    @property
    def is_stateless(self) -> bool:
        """Whether it has no fields but those of its arguments: nothing of it changes that could be saved."""
        return saved_fields.are_of_arguments(self._callback)

    def plan(self, event: Event) -> list[tuple[str, str]]:
        """See `Callback`: what of it is different here."""
        return [("callbacks", note) for note in self._notes()]

    def _notes(self) -> list[str]:
        if self._is_idle:
            return [f"{self.name} is not needed: {_SWAP}"]
        notes = []
        if self._acting:
            notes.append(f"one step per execution because of {self.name}.{self._acting[0]}")
        for hook in batch_hooks.of_evaluation(self._callback):
            notes.append(f"{self.name}.{hook} is not called: an evaluation runs whole")
        return notes

    # --- the hooks -------------------------------------------------------------------------------

    def on_check(self, event: Event) -> None:
        """See `Callback`."""
        self._model(event)
        if self._is_idle and not getattr(self._optimizer(event), "use_ema", False):
            raise ConfigurationError(f"callbacks: {self.name} needs an optimizer with use_ema=True.")

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`."""
        model = self._model(event)
        goes_on, self._restored = self._restored, None
        if goes_on is None and self._began and event.step:  # it was in an earlier fit of this run
            goes_on = self.state()
        self._is_running = True
        if self._is_idle:
            return
        self._choose_mode()
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
            if self._stopped == self._task(event):  # nothing has changed since
                controls.stop(f"{self.name} has set model.stop_training before")
        if event.run_dir is not None:
            self.state()  # says now what cannot be saved

    def on_epoch_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`."""
        if self._is_idle or self._epoch == event.epoch - 1:  # begun before the run was saved
            return
        self._epoch = event.epoch - 1
        with self._told(event, controls):
            self._callback.on_epoch_begin(self._epoch, None)
            if self._acting:
                self._callback.on_train_batch_begin(0, None)

    def on_step(self, event: StepEvent, controls: Controls) -> None:
        """See `Callback`: the end of a batch, and the begin of the next."""
        if not self._acting:
            return
        batch = event.epoch_step - 1
        logs = self.logs.of(event, event.epoch_values())
        with self._told(event, controls), self._evaluated_weights(event):
            self._callback.on_train_batch_end(batch, logs)
            ends = batch + 1 == event.steps_per_epoch or event.step == event.total_steps
            if not ends and not self._callback.model.stop_training:
                self._callback.on_train_batch_begin(batch + 1, None)

    def on_evaluate_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`."""
        if not self._is_idle:
            with self._told(event, controls):
                self._callback.on_test_begin(None)

    def on_evaluate(self, event: EvaluateEvent, controls: Controls) -> None:
        """See `Callback`."""
        if not self._is_idle:
            with self._told(event, controls):
                self._callback.on_test_end(self.logs.of(event, event.values))

    def on_epoch_end(self, event: EpochEvent, controls: Controls) -> None:
        """See `Callback`."""
        if self._is_idle:
            return
        self._epoch, epoch = None, event.epoch - 1
        self._epoch_logs = as_logs(event, event.values)
        logs = self.logs.of(event, event.values)
        with self._told(event, controls), self._evaluated_weights(event):
            if isinstance(self._callback, keras.callbacks.TerminateOnNaN) and not self._acting:
                self._callback.on_train_batch_end(event.epoch_step - 1, logs)
            self._callback.on_epoch_end(epoch, logs)

    def on_train_end(self, event: Event, controls: Controls) -> None:
        """See `Callback`: asks for the last checkpoint anew if the weights are others now."""
        self._is_running = False
        if self._is_idle or not batch_hooks.overrides(self._callback, "on_train_end"):
            return
        variables = variables_of(self._model(event), None)
        with optimization.exchanged(optimization.averages_of(event.optimizers.values())):
            before = state.read(variables)
            with self._told(event, controls):
                self._callback.on_train_end(self._epoch_logs)
            after = state.read(variables)
        changed = {
            path: array
            for path, array in after.items()
            if path not in before or not np.array_equal(array, before[path], equal_nan=True)
        }
        if changed:
            set_here = {name: variables[name] for name in (p.removesuffix("@replicas") for p in changed)}
            state.assign(set_here, changed, self.name)
            _become_averages(event, {id(variable) for variable in set_here.values()})
            controls.save()

    def on_exception(self, event: Event, error: BaseException) -> None:
        """See `Callback`; Keras has no such hook."""
        self._is_running = False

    # --- what survives a restart -----------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """See `Callback`: the fields that are not as they were made."""
        saved, lost = saved_fields.read(self._callback)
        if new := sorted(set(lost) - self._lost):
            self._lost |= set(new)
            _log.warning(
                "callbacks: %s.%s cannot be saved, and will be what __init__ and on_train_begin make it when "
                "the run goes on; numbers, strings, arrays, and lists and dicts of them can be.",
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
        """Whether a state holds nothing but where the run was."""
        return not any((state["fields"], state["size"], state["stopped"]))

    def restore(self, state: dict[str, Any]) -> None:
        """See `Callback`: takes effect at once while the callback runs, else after its `on_train_begin`."""
        self._epoch, self._epoch_logs, self._stopped = state["epoch"], state["logs"], state["stopped"]
        if self._is_running:
            saved_fields.write(self._callback, state["fields"])
        else:
            self._restored = state

    # --- how it is called ------------------------------------------------------------------------

    def _begin_run(self, event: Event, controls: Controls, goes_on: dict[str, Any] | None) -> None:
        with (
            self._told(event, controls),
            appended(self._callback, None if goes_on is None else goes_on["size"]),
        ):
            self._callback.set_params(params(event))
            self._callback.set_model(self._model(event))
            self._callback.on_train_begin(None)
        self._began = saved_fields.fingerprints(saved_fields.read(self._callback)[0])

    def _begin_epoch_again(self, event: Event, controls: Controls, goes_on: dict[str, Any] | None) -> None:
        """Begins, for objects that it makes then, the epoch in whose middle the run goes on."""
        ends = event.epoch_step == event.steps_per_epoch
        present, done = (event.epoch, 0) if ends else (event.epoch - 1, event.epoch_step)
        if goes_on is not None and goes_on["epoch"] is not None:
            self._epoch = goes_on["epoch"]
        elif done:
            self._epoch = present
        else:
            return
        with self._told(event, controls):
            self._callback.on_epoch_begin(self._epoch, None)
            if self._acting and self._epoch == present:
                self._callback.on_train_batch_begin(done, None)

    def _choose_mode(self) -> None:
        """Finds out whether a monitor rises, where Keras would ask the metrics of a compiled model."""
        callback: Any = self._callback
        if "monitor_op" in vars(callback) and callback.monitor_op is None and callback.mode == "auto":
            callback.mode = "max" if rises(callback.monitor) else "min"

    def _model(self, event: Event) -> keras.Model:
        name = self._model_name
        if name is None and len(event.models) == 1:
            return next(iter(event.models.values()))
        if name is None:
            raise ConfigurationError(
                f"callbacks: there are the models {list(event.models)}, and {self.name} is told of one: "
                f"give looplab.callbacks.Keras({self.name}(...), model=NAME)."
            )
        if name not in event.models:
            raise ConfigurationError(
                f"callbacks: {self.name}: there is no model {name!r}; there are {list(event.models)}."
                + nearest(name, event.models)
            )
        return event.models[name]

    def _optimizer(self, event: Event) -> keras.optimizers.Optimizer | None:
        """Returns the optimizer of the model's name, or the only one there is."""
        if len(event.optimizers) == 1:
            return next(iter(event.optimizers.values()))
        return event.optimizers.get(self._model_name or "")

    @contextmanager
    def _evaluated_weights(self, event: Event) -> Iterator[None]:
        """Lets a callback that keeps weights, and only reads them, see those that evaluations are of."""
        keeps = isinstance(self._callback, keras.callbacks.ModelCheckpoint) or (
            isinstance(self._callback, keras.callbacks.EarlyStopping) and self._callback.restore_best_weights
        )
        with optimization.exchanged(optimization.averages_of(event.optimizers.values()) if keeps else []):
            yield

    @contextmanager
    def _told(self, event: Event, controls: Controls) -> Iterator[None]:
        """Gives the model the trainer's optimizer while a hook runs, and hears what the hook asks for.

        Past Keras' tracking: the optimizer does not become a part of the model.
        """
        model, missing = self._model(event), object()
        stops = model.stop_training  # asked by another one
        before = vars(model).get("optimizer", missing)
        own = None if before is missing else before  # of several optimizers of a model itself
        object.__setattr__(model, "optimizer", self._optimizer(event) or own)
        try:
            yield
        finally:
            if before is missing:
                object.__delattr__(model, "optimizer")
            else:
                object.__setattr__(model, "optimizer", before)
        if model.stop_training and not stops:
            self._stopped = self._task(event)
            controls.stop(f"{self.name} set model.stop_training")

    def _task(self, event: Event) -> dict[str, Any]:
        """Returns how it was made and how long it was to train: where these change, a stop is history."""
        return {"made": self._made, "total_steps": event.total_steps}


def _become_averages(event: Event, changed: set[int]) -> None:
    """Makes weights that a callback has set, given by their ids, their own averages."""
    for weight, average in optimization.averages_of(event.optimizers.values()):
        if id(weight) in changed:
            average.assign(weight)


def _monitors(callback: keras.callbacks.Callback) -> tuple[str, ...]:
    """Returns the value that one of Keras' own callbacks cannot do without."""
    waits = type(callback) in (keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau)
    picks = type(callback) in (keras.callbacks.ModelCheckpoint, keras.callbacks.OrbaxCheckpoint)
    if waits or (picks and callback.save_best_only):
        return (callback.monitor,)
    return ()


def adapt(callbacks: Sequence[Any]) -> list[Any]:
    """Wraps the Keras callbacks among others; all of one run share their logs."""
    logs, adapted = Logs(), []
    for callback in callbacks:
        own = Keras(callback) if isinstance(callback, keras.callbacks.Callback) else callback
        if isinstance(own, Keras):
            own.logs = logs
        adapted.append(own)
    return adapted
