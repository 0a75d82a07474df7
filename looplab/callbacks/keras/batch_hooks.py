"""Which hooks of a Keras callback really do something; most of those for batches do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

_TRAIN = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
_TEST = ("on_test_batch_begin", "on_test_batch_end")


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
    # Every loss is looked at in the graph (`on_nonfinite`); this one looks at the end of an epoch.
    keras.callbacks.TerminateOnNaN.on_batch_end: lambda callback: False,
}


def of_training(callback: keras.callbacks.Callback) -> list[str]:
    """Returns the names of the batch hooks of training that act."""
    return [hook for hook in _TRAIN if _acts(callback, hook)]


def of_evaluation(callback: keras.callbacks.Callback) -> list[str]:
    """Returns the names of the batch hooks of evaluation that act."""
    return [hook for hook in _TEST if _acts(callback, hook)]


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
