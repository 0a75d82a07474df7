"""Which hooks of a Keras callback really do something; most of those for batches do not."""

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


# Hooks of Keras' own callbacks that do nothing with some settings.
_SOMETIMES: dict[Any, Callable[[Any], bool]] = {
    keras.callbacks.ModelCheckpoint.on_train_batch_end: _by_batch,
    keras.callbacks.OrbaxCheckpoint.on_train_batch_end: _by_batch,
    keras.callbacks.TensorBoard.on_train_batch_begin: _board,
    keras.callbacks.TensorBoard.on_train_batch_end: _board,
    keras.callbacks.TensorBoard.on_test_batch_begin: _board,
    # Every loss is looked at in the graph (`on_nonfinite`); where it is not, the adapter says so.
    keras.callbacks.TerminateOnNaN.on_batch_end: lambda callback: False,
}


def acting(callback: keras.callbacks.Callback, kind: str) -> list[str]:
    """Returns the names of the batch hooks that act: of `"train"`, `"test"` or `"predict"`."""
    return [hook for hook in _HOOKS[kind] if _acts(callback, hook)]


def overrides(callback: keras.callbacks.Callback, hook: str) -> bool:
    """Whether a hook is the callback's own: of its class, or (as of LambdaCallback) of the object."""
    return _function(callback, hook) is not getattr(keras.callbacks.Callback, hook)


def _acts(callback: keras.callbacks.Callback, hook: str) -> bool:
    if not overrides(callback, hook):
        return False
    known = _SOMETIMES.get(_function(callback, hook))
    return known is None or known(callback)


def _function(callback: keras.callbacks.Callback, hook: str) -> Any:
    method = getattr(callback, hook)
    return getattr(method, "__func__", method)
