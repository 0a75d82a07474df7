"""Makes a callback from functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from looplab.callbacks.base import Callback
from looplab.errors import ConfigurationError, nearest
from looplab.targets import configurable

HOOKS = tuple(name for name, own in vars(Callback).items() if name.startswith("on_") and callable(own))


@configurable
class Lambda(Callback):
    """Calls functions as hooks, like Keras' `LambdaCallback`.

    `Lambda(on_epoch_end=lambda event, controls: print(event.values))`
    """

    def __init__(
        self, every: str | int | None = 1, *, on_failure: str = "critical", **hooks: Callable[..., Any] | None
    ) -> None:
        """Takes the functions.

        Args:
            every: The interval of `on_step`.
            on_failure: See `Callback`.
            **hooks: Functions by the name of a hook of `Callback` that begins with `on_`. Each function gets
                the arguments of its hook.

        Raises:
            ConfigurationError: If there is no such hook, or an argument is not callable.
        """
        self.every, self.on_failure = every, on_failure
        for hook, function in hooks.items():
            if hook not in HOOKS:
                raise ConfigurationError(
                    f"Lambda: there is no hook {hook!r}; there are {', '.join(HOOKS)}." + nearest(hook, HOOKS)
                )
            if function is None:
                continue
            if not callable(function):
                raise ConfigurationError(f"Lambda.{hook}: expected a function, got {function!r}.")
            setattr(
                self, hook, function
            )  # instead of the method, so that hooks without a function are not called
