"""All callbacks of a run as one: who hears what, and who is due when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from looplab.callbacks.base import Callback, Event, StepEvent
from looplab.errors import CheckpointError, ConfigurationError
from looplab.interval import Interval
from looplab.protocols import Controls


class Callbacks:
    """Finds once which hooks are overridden; the rest is never called."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        """Takes callbacks in the order in which they are called.

        Raises:
            ConfigurationError: If one is not a `looplab.Callback`, or its `every` is no interval
                of steps, epochs or examples.
        """
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise ConfigurationError(
                    f"callbacks: {callback!r} is a {type(callback).__name__}; this version takes "
                    "looplab.Callback objects."
                )
        self._all = list(callbacks)
        self._cadences = []
        for callback in self._hearing("on_step"):
            what = f"{type(callback).__name__}.every"
            interval = Interval.parse(callback.every, what=what)
            if interval.wall_clock:
                raise ConfigurationError(
                    f"{what}: {interval} is wall-clock time, which serves for saving and stopping "
                    "only: events would not be reproducible. Use steps, epochs or examples."
                )
            self._cadences.append((interval, callback))

    def cadences(self) -> list[tuple[str, Interval]]:
        """Returns the class and the interval of each callback that has an `on_step`."""
        return [(type(callback).__name__, interval) for interval, callback in self._cadences]

    def next_step(self, step: int, steps_per_epoch: int, examples: Any) -> int | None:
        """Returns the first step after `step` at which some `on_step` is due, or None."""
        due = [i.next_step(step, steps_per_epoch, examples) for i, _ in self._cadences]
        return min(due, default=None)

    def step(self, event: StepEvent, controls: Controls, examples: Any) -> None:
        """Calls `on_step` of those that are due at the event's step."""
        for interval, callback in self._cadences:
            if interval.next_step(event.step - 1, event.steps_per_epoch, examples) == event.step:
                callback.on_step(event, controls)

    def call(self, hook: str, event: Event, *arguments: Any) -> None:
        """Calls one of the other hooks on all who override it."""
        for callback in self._hearing(hook):
            function: Callable[..., None] = getattr(callback, hook)
            function(event, *arguments)

    def state(self) -> list[dict[str, Any]]:
        """Returns the state of each callback that has one, with its class, in order."""
        return [{"class": type(c).__name__, "state": c.state()} for c in self._hearing("state")]

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """Gives each callback that has a state its state back; others may come and go.

        Raises:
            CheckpointError: If other callbacks were saved than there are now.
        """
        before = [entry["class"] for entry in saved]
        stateful = self._hearing("state")
        now = [type(callback).__name__ for callback in stateful]
        if before != now:
            raise CheckpointError(
                f"the checkpoint was saved with the callbacks {before}, the trainer has {now}. Give "
                "it the same ones in the same order, or use a new run_dir."
            )
        for callback, entry in zip(stateful, saved, strict=True):
            callback.restore(entry["state"])

    def _hearing(self, hook: str) -> list[Callback]:
        return [c for c in self._all if getattr(type(c), hook) is not getattr(Callback, hook)]
