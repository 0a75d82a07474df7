"""Finds layers whose forward pass is computed again in the backward pass, with other random numbers.

`tf.recompute_grad`, which `keras.remat` calls, runs a function a second time when its gradient is computed. A
seed generator has moved on by then, so the second pass draws another mask than the first, and the gradient is
that of neither.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from looplab.compat import patches

_thread = threading.local()


def is_recomputed() -> bool:
    """Whether the present code will run again in the backward pass."""
    return getattr(_thread, "within", 0) > 0


def _marking(original: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a replacement of `tf.recompute_grad` that marks the passes of its function."""

    @functools.wraps(original)
    def recompute_grad(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def marked(*arguments: Any, **named: Any) -> Any:
            _thread.within = getattr(_thread, "within", 0) + 1
            try:
                return function(*arguments, **named)
            finally:
                _thread.within -= 1

        result: Callable[..., Any] = original(marked)
        return result

    return recompute_grad


patches.patch("tensorflow.recompute_grad", tf, _marking(tf.recompute_grad))
