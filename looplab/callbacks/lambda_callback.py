"""A callback made of functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from looplab.callbacks.base import Callback


class Lambda(Callback):
    """Calls functions in the place of hooks, as Keras' `LambdaCallback` does.

    `Lambda(on_epoch_end=lambda event, controls: print(event.values))`
    """

    def __init__(
        self,
        every: str | int = 1,
        *,
        on_train_begin: Callable[..., Any] | None = None,
        on_step: Callable[..., Any] | None = None,
        on_clock: Callable[..., Any] | None = None,
        on_evaluate: Callable[..., Any] | None = None,
        on_epoch_end: Callable[..., Any] | None = None,
        on_save: Callable[..., Any] | None = None,
        on_train_end: Callable[..., Any] | None = None,
        on_exception: Callable[..., Any] | None = None,
        on_failure: str = "critical",
    ) -> None:
        """Takes the functions; each is called as the hook of its name, see `Callback`.

        Args:
            every: The interval of `on_step`.
            on_train_begin: Called with `(event, controls)`, as the next six.
            on_step: At the steps that `every` declares.
            on_clock: After every execution.
            on_evaluate: After an evaluation.
            on_epoch_end: At the end of an epoch.
            on_save: After a checkpoint.
            on_train_end: When training has ended.
            on_exception: Called with `(event, error)`.
            on_failure: See `Callback`.
        """
        self.every, self.on_failure = every, on_failure
        hooks = {
            "on_train_begin": on_train_begin,
            "on_step": on_step,
            "on_clock": on_clock,
            "on_evaluate": on_evaluate,
            "on_epoch_end": on_epoch_end,
            "on_save": on_save,
            "on_train_end": on_train_end,
            "on_exception": on_exception,
        }
        for hook, function in hooks.items():
            if function is not None:
                setattr(self, hook, function)  # in the place of the method, so that others are not called
