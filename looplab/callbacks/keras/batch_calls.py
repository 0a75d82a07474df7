"""The batch hooks of an evaluation or a prediction, called as Keras calls them: once for each execution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from looplab.callbacks.base import Event
from looplab.callbacks.keras.adapter import Keras
from looplab.errors import ConfigurationError
from looplab.protocols import Controls


class BatchCalls:
    """Tells the callbacks that hear of batches when an execution begins and ends.

    Attributes:
        steps: Batches of an execution.
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
            callbacks: Those that hear of batches.
            event: Where the trainer stands.
            controls: Of the run; None outside of one.
            tell: Calls a hook of a callback.
            steps: Batches of an execution.
        """
        self._kind, self._callbacks, self._event, self._controls = kind, list(callbacks), event, controls
        self._tell, self.steps = tell, steps
        self._models = [callback.model(event) for callback in callbacks]
        self._stop = {"test": "stop_evaluating", "predict": "stop_predicting"}[kind]
        for model in self._models:
            setattr(model, self._stop, False)

    def room(self, done: int) -> int:
        """Returns how many batches the present execution has left, after so many."""
        return self.steps - done % self.steps

    def before(self, done: int) -> None:
        """Tells that an execution begins, if it begins after so many batches."""
        if done % self.steps == 0:
            self._call("begin", done, {})

    def after(self, done: int, ends: bool, logs: Callable[[], Mapping[str, Any]]) -> bool:
        """Tells that an execution ends, if it does after so many batches.

        Args:
            done: Batches done.
            ends: Whether they are all.
            logs: Gives what Keras tells of them.

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
        batches: Tells of batches; None where no callback hears of them.
    """

    def __init__(self, kind: str, callbacks: Sequence[Keras], event: Event, steps: int) -> None:
        """Takes callbacks; none is called yet.

        Args:
            kind: `"test"` or `"predict"`.
            callbacks: In the order in which they are called.
            event: Where the trainer stands.
            steps: Batches of an execution, where a callback hears of them.
        """
        self._kind, self._callbacks, self._event = kind, list(callbacks), event
        hearing = [callback for callback in callbacks if callback.acts(kind)]
        self.batches = BatchCalls(kind, hearing, event, None, _tell, steps) if hearing else None

    def begin(self, steps: int | None) -> None:
        """Tells all that a pass over so many batches begins."""
        for callback in self._callbacks:
            callback.begin_call(self._event, steps)
        self._call("begin", {})

    def end(self, logs: Mapping[str, Any]) -> None:
        """Tells all how it ended."""
        self._call("end", dict(logs))

    def _call(self, when: str, logs: dict[str, Any]) -> None:
        for callback in self._callbacks:
            callback.call(self._event, None, f"on_{self._kind}_{when}", logs)


def only_keras(callbacks: Sequence[Any], what: str) -> list[Keras]:
    """Returns the callbacks of a call outside of training.

    Args:
        callbacks: Adapted.
        what: The call, for messages.

    Raises:
        ConfigurationError: If one is none of Keras: looplab's own hear of `fit`.
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
