"""All callbacks of a run: it calls their hooks, finds when they are due, and handles their failures."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import keras

from looplab.callbacks.base import Callback, Event, StepEvent
from looplab.callbacks.call_order import in_order
from looplab.callbacks.early_stopping import EarlyStopping
from looplab.callbacks.keras import Keras, adapt
from looplab.callbacks.keras.batch_calls import BatchCalls
from looplab.callbacks.keras.model_view import ModelView, Served
from looplab.callbacks.occasions import occasions, overrides, waits
from looplab.errors import CheckpointError, ConfigurationError, EndRequested
from looplab.interval import Interval
from looplab.protocols import Controls, Values
from looplab.runs.epochs import Epochs

_OF_KERAS = {"fields", "epoch", "logs", "size", "stopped"}  # the keys of the state of a `Keras`
_BEGIN = "on_evaluate_begin"
_log = logging.getLogger("looplab")


class Monitor(NamedTuple):
    """A value that a callback needs.

    Attributes:
        key: The name of the callback, for messages.
        name: The value's name.
        is_closed: Whether looplab must know a producer of the value. It cannot know one for some Keras
            callbacks, which may read values that other callbacks write into the logs.
    """

    key: str
    name: str
    is_closed: bool = True


class Occasion(NamedTuple):
    """When a callback acts.

    Attributes:
        name: Its class.
        interval: Of its `on_step`, or None if that is not called.
        times: How often `on_step` acts; None for each time.
        text: The other occasions, and the values for which it waits.
    """

    name: str
    interval: Interval | None
    times: int | None
    text: str


class CallbackList:
    """The callbacks of one `fit`. A hook that a callback does not override is never called."""

    def __init__(
        self,
        callbacks: Sequence[Callback | keras.callbacks.Callback],
        steps_per_execution: int | str = "auto",
        served: Served | None = None,
    ) -> None:
        """Takes callbacks in the order in which looplab calls them.

        Args:
            callbacks: Callbacks of looplab and of Keras.
            steps_per_execution: The number of steps after which looplab calls the batch hooks of Keras
                callbacks; `"auto"` means 1.
            served: The trainer's service for the model that Keras callbacks see.

        Raises:
            ConfigurationError: If one is neither a `looplab.Callback` nor a `keras.callbacks.Callback` or
                is a Keras callback that cannot work here, if its `every` is not an interval of steps,
                epochs or examples, or if its `on_failure` is unknown.
        """
        self._all: list[Callback] = adapt(callbacks)
        self._steps = steps_per_execution if isinstance(steps_per_execution, int) else 1
        view, guarded = ModelView(served), served is None or served.is_guarded
        averages = any(isinstance(callback, Keras) and callback.swaps_on_epoch for callback in self._all)
        for callback in self._all:
            if not isinstance(callback, Callback):
                raise ConfigurationError(
                    f"callbacks: {callback!r} is a {type(callback).__name__}; expected a "
                    "looplab.Callback or a keras.callbacks.Callback."
                )
            if callback.on_failure not in ("critical", "best_effort"):
                raise ConfigurationError(
                    f"{name_of(callback)}.on_failure: {callback.on_failure!r} is not one of "
                    "'critical', 'best_effort'."
                )
        for callback in self._all:
            if isinstance(callback, Keras):
                callback.serve(view, self._steps, guarded=guarded, sees_averages=averages)
        self._in_order = in_order(self._all)  # of the calls; states keep the given order
        self._silenced: set[int] = set()  # ids of the "best_effort" callbacks that failed
        self._kept: dict[int, dict[str, Any] | None] = {}  # their states when they failed
        self._ended: set[int] = set()  # ids of the callbacks whose end hook was called
        self._stepping = self._hearing("on_step")
        self._intervals: dict[str | int, Interval] = {}  # parsed intervals, by what the user wrote
        self._cadences()

    def occasions(self) -> list[Occasion]:
        """Returns when each callback acts, in the order in which they are called."""
        found, stepping = [], {id(callback) for callback in self._stepping}
        for callback in self._all:
            interval = self._interval(callback) if id(callback) in stepping else None
            text = waits(callback) if interval is not None else occasions(callback)
            if interval is not None or text:
                found.append(Occasion(name_of(callback), interval, callback.times, text))
        return found

    def check(self, event: Event) -> None:
        """Calls `on_check`, in which each callback refuses what cannot work, before any work begins."""
        self.call("on_check", event)

    def plan(self, event: Event) -> list[tuple[str, str]]:
        """Returns the lines of the callbacks for the plan at the start of a run."""
        return [line for callback in self._hearing("plan") for line in callback.plan(event)]

    def monitors(self) -> list[Monitor]:
        """Returns the values that the callbacks need."""
        open_logs = any(isinstance(callback, Keras) and callback.may_add_logs for callback in self._all)
        return [
            Monitor(f"{name_of(c)}.monitor", name, not (open_logs and isinstance(c, Keras)))
            for c in self._all
            for name in c.monitors
        ]

    def produces(self) -> list[str]:
        """Returns the names of the values that the callbacks log after evaluations and epochs."""
        return [name for callback in self._all for name in callback.produces]

    def measures(self) -> list[Callable[..., Mapping[str, Any]]]:
        """Returns the `measure` functions, which run inside the training step."""
        return [self._measure(callback) for callback in self._hearing("measure")]

    def next_step(self, step: int, epochs: Epochs, examples: Any) -> int | None:
        """Returns the first step after `step` at which an `on_step` is due, or None."""
        cadences = self._cadences()
        due = [epochs.next_step(interval, step, examples) for interval, c in cadences if not _by_batch(c)]
        if any(_by_batch(callback) for _, callback in cadences):  # the end of the current execution
            within = 0 if epochs.ends(step) else epochs.within(step)
            due.append(min(step + self._steps - within % self._steps, epochs.end(step)))
        return min(due, default=None)

    def step(self, event: StepEvent, controls: Controls, epochs: Epochs, examples: Any) -> None:
        """Calls `on_step` of the callbacks that are due at the event's step."""
        begin = []
        for interval, callback in self._cadences():
            if isinstance(callback, Keras):
                if callback.ends_execution(event):
                    self._tell(callback, "on_step", event, controls)
                    begin.append(callback)
            elif epochs.next_step(interval, event.step - 1, examples) == event.step:
                self._tell(callback, "on_step", event, controls)
        if event.epoch_step < event.steps_per_epoch and event.step < event.total_steps:
            for callback in begin:
                self._tell(callback, "on_batch_begin", event, controls)

    def logged(self, event: StepEvent, controls: Controls, values: Values) -> None:
        """Tells `EarlyStopping` of the values that callbacks have logged in `on_step`."""
        for callback in self._all:
            if isinstance(callback, EarlyStopping):
                self._tell(callback, "on_logged", event, controls, values)

    def batches(self, event: Event, controls: Controls) -> BatchCalls | None:
        """Returns the calls of Keras' batch hooks for an evaluation; None if no callback has such a hook."""
        hearing = [
            callback for callback in self._all if isinstance(callback, Keras) and callback.acts("test")
        ]
        return BatchCalls("test", hearing, event, controls, self._tell, self._steps) if hearing else None

    def diverged(self, event: Event, controls: Controls, values: Values) -> None:
        """Calls `on_diverged` of the Keras callbacks, for a step that failed and was undone."""
        for callback in self._all:
            if isinstance(callback, Keras):
                self._tell(callback, "on_diverged", event, controls, values)

    def hears(self, hook: str) -> bool:
        """Returns whether any callback overrides a hook."""
        return bool(self._hearing(hook))

    def everyone(self) -> list[Callback]:
        """Returns all callbacks in the order in which looplab calls them."""
        return list(self._all)

    def stateless(self) -> list[Callback]:
        """Returns the callbacks that have no state to save."""
        return [callback for callback in self._all if not overrides(callback, "state")]

    def timed(self) -> list[Callback]:
        """Returns the callbacks that depend on the clock; their states differ between runs."""
        return self._hearing("on_clock")

    def call(self, hook: str, event: Event, *arguments: Any) -> None:
        """Calls a hook of all callbacks that override it."""
        for callback in self._in_order:
            if overrides(callback, hook):
                self._tell(callback, hook, event, *arguments)
        if hook == "on_epoch_begin":
            for callback in self._stepping:
                if _by_batch(callback) and callback.every is not None:
                    self._tell(callback, "on_batch_begin", event, *arguments)

    def end(self, event: Event, controls: Controls) -> None:
        """Calls `on_train_end` of all callbacks, even if one fails; then raises the first error."""
        self._tell_all("on_train_end", event, controls)

    def fail(self, event: Event, error: BaseException) -> None:
        """Calls `on_exception` of all callbacks whose end hook was not called before, even if one fails."""
        self._tell_all("on_exception", event, error)

    def state(self) -> list[dict[str, Any]]:
        """Returns the state of each callback that has one, with its class, in order.

        For a disabled callback, it is the state at its failure; a later `fit` restores it.
        """
        return [{"class": name_of(c), "state": self._state(c)} for c in self._hearing("state")]

    def refuse_others(self, saved: list[dict[str, Any]], allowed: bool = False) -> None:
        """Refuses saved states that do not belong to these callbacks; changes nothing.

        The user may add, remove and reorder callbacks without a state.

        Args:
            saved: From `state`.
            allowed: Whether the user may also add and remove callbacks with a state. The state of a removed
                callback is lost, and an added one starts without a saved state.

        Raises:
            CheckpointError: If the saved states are of other callbacks than these.
        """
        pairs = self._matched(saved)
        there = {id(callback) for callback, _ in pairs}
        gone = [
            entry["class"] for callback, entry in pairs if callback is None and not _is_empty(entry["state"])
        ]
        new = [
            name_of(callback)
            for callback in self._hearing("state")
            if id(callback) not in there and not (isinstance(callback, Keras) and callback.is_stateless)
        ]
        both = {"only in the checkpoint": gone, "only in the trainer": new}
        differs = "; ".join(f"{what}: {', '.join(names)}" for what, names in both.items() if names)
        if differs and not allowed:
            raise CheckpointError(
                f"the checkpoint has the states of other callbacks than the trainer ({differs}). Use the "
                "same callbacks, choose a new run_dir, or set allow_change=[callbacks]."
            )
        if differs:
            _log.warning("the run continues with other callbacks, as allowed: %s", differs)

    def before_evaluations(self) -> Callable[[], None]:
        """Copies the states of those that hear of an evaluation before its end; returns what gives them back.

        They have heard of it in vain where it is interrupted: it begins again.
        """
        hearing = [
            callback
            for callback in self._hearing("state")
            if (callback.hears_evaluations if isinstance(callback, Keras) else overrides(callback, _BEGIN))
        ]
        states = [(callback, deepcopy(self._state(callback))) for callback in hearing]

        def give_back() -> None:
            for callback, state in states:
                if state is not None and id(callback) not in self._silenced:
                    callback.restore(state)

        return give_back

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """Restores the state of each callback; callbacks of the same class get their states in order."""
        for callback, entry in self._matched(saved):
            if callback is None or entry["state"] is None or id(callback) in self._silenced:
                continue  # the callback was removed, has no saved state, or is disabled
            try:
                callback.restore(entry["state"])
            except Exception as error:
                if not self._goes_on(callback, "restore", error):
                    raise
                self._kept[id(callback)] = entry["state"]

    def _matched(self, saved: list[dict[str, Any]]) -> list[tuple[Callback | None, dict[str, Any]]]:
        """Returns each saved state with the callback that it belongs to, or with None."""
        by_class: dict[str, list[Callback]] = {}
        for callback in self._hearing("state"):
            by_class.setdefault(name_of(callback), []).append(callback)
        found = []
        for entry in saved:
            same = by_class.get(entry["class"], [])
            found.append((same.pop(0) if same else None, entry))
        return found

    def _cadences(self) -> list[tuple[Interval, Callback]]:
        pairs = ((self._interval(callback), callback) for callback in self._stepping)
        return [(interval, callback) for interval, callback in pairs if interval is not None]

    def _interval(self, callback: Callback) -> Interval | None:
        if callback.every is None:
            return None
        if callback.every not in self._intervals:
            what = f"{name_of(callback)}.every"
            interval = Interval.parse(callback.every, what=what)
            if interval.wall_clock:
                raise ConfigurationError(
                    f"{what}: {interval} is wall-clock time, which works only for saving and stopping, "
                    "because events must be reproducible. Use steps, epochs or examples (or on_clock)."
                )
            self._intervals[callback.every] = interval
        return self._intervals[callback.every]

    def _hearing(self, hook: str) -> list[Callback]:
        return [callback for callback in self._all if overrides(callback, hook)]

    def _tell(self, callback: Callback, hook: str, event: Event, *arguments: Any) -> None:
        if id(callback) in self._silenced:
            return
        try:
            getattr(callback, hook)(event, *arguments)
        except Exception as error:
            if not self._goes_on(callback, f"{hook} at step {event.step}", error):
                raise

    def _tell_all(self, hook: str, event: Event, argument: Any) -> None:
        errors: list[BaseException] = []
        for callback in self._all:
            if id(callback) in self._ended:
                continue
            self._ended.add(id(callback))
            try:
                if overrides(callback, hook):
                    self._tell(callback, hook, event, argument)
            except (Exception, EndRequested) as error:  # raised after the other callbacks were called
                errors.append(error)
        for other in errors[1:]:
            _log.warning("another callback failed too:\n%s", _text(other))
        if errors:
            raise errors[0]

    def _state(self, callback: Callback) -> dict[str, Any] | None:
        if id(callback) in self._kept:
            return self._kept[id(callback)]
        state = None
        try:
            state = callback.state()
        except Exception as error:
            if not self._goes_on(callback, "state", error):
                raise
        if id(callback) in self._silenced:
            self._kept[id(callback)] = state
        return state

    def _measure(self, callback: Callback) -> Callable[..., Mapping[str, Any]]:
        def measure(*update: Any) -> Mapping[str, Any]:
            try:
                return {} if id(callback) in self._silenced else callback.measure(*update)
            except Exception as error:
                if not self._goes_on(callback, "measure", error):
                    raise
                return {}

        return measure

    def _goes_on(self, callback: Callback, where: str, error: Exception) -> bool:
        """Returns whether training continues after a failure; names the callback in either case."""
        name = f"the callback {name_of(callback)}.{where}"
        if callback.on_failure == "critical" or isinstance(error, ConfigurationError):
            error.add_note(f"in {name}")
            return False
        if id(callback) not in self._silenced:
            self._silenced.add(id(callback))
            _log.warning("%s failed and is disabled from here on:\n%s", name, _text(error))
        return True


def _by_batch(callback: Callback) -> bool:
    """Returns whether `on_step` is due after each execution, counted within the epoch, as in Keras."""
    return isinstance(callback, Keras)


def _is_empty(state: dict[str, Any] | None) -> bool:
    """Returns whether a saved state holds nothing to lose. Its class may no longer be known."""
    return not state or (state.keys() == _OF_KERAS and Keras.is_empty(state))


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def name_of(callback: Callback) -> str:
    """Returns the name of a callback in messages and checkpoints: its class, or the wrapped Keras class."""
    return callback.name if isinstance(callback, Keras) else type(callback).__name__
