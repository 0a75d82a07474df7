"""Calls the batch hooks of an evaluation or a prediction as Keras does: once for each execution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from looplab.callbacks.base import Event
from looplab.callbacks.keras.adapter import Keras
from looplab.errors import ConfigurationError
from looplab.protocols import Controls


class BatchCalls:
    """Calls the batch hooks of Keras callbacks when an execution begins and ends.

    Attributes:
        steps: The number of batches in an execution.
    """

    def __init__(
        self,
        kind: str,
        callbacks: Sequence[Keras],
        event: Event,
        controls: Controls | None,
        tell: Callable[..., None],
        steps: int,
    ) -> None:
        """Begins a pass.

        Args:
            kind: `"test"` or `"predict"`.
            callbacks: The callbacks with batch hooks.
            event: The state of the trainer.
            controls: The controls of the run; None outside of a run.
            tell: Calls a hook of a callback.
            steps: The number of batches in an execution.
        """
        self._kind, self._callbacks, self._event, self._controls = kind, list(callbacks), event, controls
        self._tell, self.steps = tell, steps
        self._models = [callback.model(event) for callback in callbacks]
        self._stop = {"test": "stop_evaluating", "predict": "stop_predicting"}[kind]
        for model in self._models:
            setattr(model, self._stop, False)

    def room(self, done: int) -> int:
        """Returns how many batches are left in the current execution after `done` batches."""
        return self.steps - done % self.steps

    def before(self, done: int) -> None:
        """Calls the begin hooks if an execution begins after `done` batches."""
        if done % self.steps == 0:
            self._call("begin", done, {})

    def after(self, done: int, ends: bool, logs: Callable[[], Mapping[str, Any]]) -> bool:
        """Calls the end hooks if an execution ends after `done` batches.

        Args:
            done: The number of completed batches.
            ends: Whether these are all batches.
            logs: Returns the logs that Keras would pass.

        Returns:
            Whether a callback ends the pass (`model.stop_evaluating`, `model.stop_predicting`).
        """
        if done % self.steps == 0 or ends:
            first = (done - 1) // self.steps * self.steps
            self._call("end", first + self.steps - 1, dict(logs()))
        return any(getattr(model, self._stop, False) for model in self._models)

    def _call(self, when: str, batch: int, logs: dict[str, Any]) -> None:
        hook = f"on_{self._kind}_batch_{when}"
        for callback in self._callbacks:
            self._tell(callback, "call", self._event, self._controls, hook, batch, logs)


class Calls:
    """The Keras callbacks of one `evaluate` or `predict`, outside of training.

    Attributes:
        batches: Calls the batch hooks; None if no callback has one.
    """

    def __init__(self, kind: str, callbacks: Sequence[Keras], event: Event, steps: int) -> None:
        """Takes the callbacks and calls none yet.

        Args:
            kind: `"test"` or `"predict"`.
            callbacks: In the order in which they are called.
            event: The state of the trainer.
            steps: The number of batches in an execution, if a callback has a batch hook.
        """
        self._kind, self._callbacks, self._event = kind, list(callbacks), event
        hearing = [callback for callback in callbacks if callback.acts(kind)]
        self.batches = BatchCalls(kind, hearing, event, None, _tell, steps) if hearing else None

    def begin(self, steps: int | None) -> None:
        """Calls the hooks that begin a pass over `steps` batches."""
        for callback in self._callbacks:
            callback.begin_call(self._event, steps)
        self._call("begin", {})

    def end(self, logs: Mapping[str, Any]) -> None:
        """Calls the hooks that end a pass, with its logs."""
        self._call("end", dict(logs))

    def _call(self, when: str, logs: dict[str, Any]) -> None:
        for callback in self._callbacks:
            callback.call(self._event, None, f"on_{self._kind}_{when}", logs)


def only_keras(callbacks: Sequence[Any], what: str) -> list[Keras]:
    """Returns the Keras callbacks of a call outside of training.

    Args:
        callbacks: The adapted callbacks.
        what: The call, for messages.

    Raises:
        ConfigurationError: If one is not a Keras callback: looplab calls its own callbacks only in `fit`.
    """
    for callback in callbacks:
        if not isinstance(callback, Keras):
            raise ConfigurationError(
                f"{what}: callbacks: {type(callback).__name__} is not a keras.callbacks.Callback. Callbacks "
                "of looplab work in fit: give it to the Trainer or to fit, with validation_data."
            )
    return list(callbacks)


def _tell(callback: Keras, hook: str, *arguments: Any) -> None:
    getattr(callback, hook)(*arguments)
