"""The occasions at which a callback acts, in words: for the plan of a run."""

from __future__ import annotations

from collections.abc import Iterable

from looplab.callbacks.base import Callback
from looplab.callbacks.keras import Keras

_OFTEN = {
    "on_epoch_begin": "before each epoch",
    "on_clock": "after each execution",
    "on_evaluate_begin": "before each evaluation",
    "on_evaluate": "after each evaluation",
    "on_epoch_end": "after each epoch",
    "on_save": "after each checkpoint",
}
_ONCE = {"on_train_begin": "when training begins", "on_train_end": "when training ends"}


def overrides(callback: Callback, hook: str) -> bool:
    """Whether a callback has a hook of its own, by its class or given to this very object."""
    return getattr(getattr(callback, hook), "__func__", None) is not getattr(Callback, hook)


def occasions(callback: Callback) -> str:
    """Returns when a callback acts besides in `on_step`, and for which values it waits; empty if never."""
    own = callback.hears if isinstance(callback, Keras) else lambda hook: overrides(callback, hook)
    found = [words for hook, words in _OFTEN.items() if own(hook)]
    found = found or [words for hook, words in _ONCE.items() if own(hook)]
    return ", ".join(found) + waits(callback) if found else ""


def waits(callback: Callback) -> str:
    """Returns the values that a callback waits for, as the end of a sentence; empty if it waits for none."""
    return f"; waits for {', '.join(callback.monitors)}" if callback.monitors else ""


def may_log(callbacks: Iterable[Callback]) -> list[str]:
    """Returns the names of the user's own callbacks that may log a value which a monitor could name."""
    hooks = "on_step", "on_evaluate", "on_epoch_end"
    return [
        type(callback).__name__
        for callback in callbacks
        if not type(callback).__module__.startswith("looplab.") and any(overrides(callback, h) for h in hooks)
    ]
