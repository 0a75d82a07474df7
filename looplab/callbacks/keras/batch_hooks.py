"""Finds the batch hooks of a Keras callback that have an effect; most have none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

_HOOKS = {
    "train": ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"),
    "test": ("on_test_batch_begin", "on_test_batch_end"),
    "predict": ("on_predict_batch_begin", "on_predict_batch_end"),
}


def _by_batch(callback: Any) -> bool:
    return bool(callback.save_freq != "epoch")


def _board(callback: Any) -> bool:
    return callback.update_freq != "epoch" or callback._should_trace


# Hooks of Keras' own callbacks that have no effect with some settings.
_SOMETIMES: dict[Any, Callable[[Any], bool]] = {
    keras.callbacks.ModelCheckpoint.on_train_batch_end: _by_batch,
    keras.callbacks.OrbaxCheckpoint.on_train_batch_end: _by_batch,
    keras.callbacks.TensorBoard.on_train_batch_begin: _board,
    keras.callbacks.TensorBoard.on_train_batch_end: _board,
    keras.callbacks.TensorBoard.on_test_batch_begin: _board,
    # The graph checks every loss (`on_nonfinite`). If it does not, the adapter adds the hook.
    keras.callbacks.TerminateOnNaN.on_batch_end: lambda callback: False,
}


def acting(callback: keras.callbacks.Callback, kind: str) -> list[str]:
    """Returns the names of the batch hooks with an effect, for a kind: `"train"`, `"test"` or `"predict"`."""
    return [hook for hook in _HOOKS[kind] if _acts(callback, hook)]


def overrides(callback: keras.callbacks.Callback, hook: str) -> bool:
    """Returns whether the callback's class or (as in LambdaCallback) the object itself has a hook."""
    return _function(callback, hook) is not getattr(keras.callbacks.Callback, hook)


def _acts(callback: keras.callbacks.Callback, hook: str) -> bool:
    if not overrides(callback, hook):
        return False
    known = _SOMETIMES.get(_function(callback, hook))
    return known is None or known(callback)


def _function(callback: keras.callbacks.Callback, hook: str) -> Any:
    method = getattr(callback, hook)
    return getattr(method, "__func__", method)
