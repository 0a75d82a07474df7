"""The ways to train a workload, by name. Importing this imports no TensorFlow, nor any of the ways."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

_KERAS: dict[str, dict[str, Any]] = {
    "fit": {"jit_compile": "auto", "many": False},  # the defaults
    "fit_graph": {"jit_compile": False, "many": False},
    "fit_xla": {"jit_compile": True, "many": False},
    "fit_graph_many": {"jit_compile": False, "many": True},
    "fit_xla_many": {"jit_compile": True, "many": True},
}
_ORBIT: dict[str, dict[str, Any]] = {"orbit": {"jit_compile": False}, "orbit_xla": {"jit_compile": True}}
_HAND = ("function", "loop", "loop_xla", "stacked", "xla_loop", "resident", "resident_graph", "resident_step")

FIT, ORBIT, HAND = tuple(_KERAS), tuple(_ORBIT), tuple(f"hand_{kind}" for kind in _HAND)


def looplab_ways() -> tuple[str, ...]:
    """Returns a way for every execution that looplab's Trainer takes today, asked in another process."""
    command = [sys.executable, "-c", f"from {__name__} import _taken; print(*_taken())"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"looplab does not say how it can run:\n{done.stderr}")
    return tuple(f"looplab_{mode}" for mode in done.stdout.split())


def _taken() -> list[str]:
    import looplab
    from looplab.options.execution import MODES

    def is_taken(execution: str) -> bool:
        try:
            looplab.Trainer(execution=execution)
        except looplab.ConfigurationError:
            return False
        return True

    return [mode for mode in dict.fromkeys((*MODES, "auto")) if is_taken(mode)]


def find(way: str) -> Callable[..., None]:
    """Returns the `train` function of a way, its own options given.

    Raises:
        ValueError: If there is no such way.
    """
    family, _, kind = way.partition("_")
    options: dict[str, Any]
    if way in _KERAS:
        module, options = "keras_fit", _KERAS[way]
    elif way in _ORBIT:
        module, options = "orbit_loop", _ORBIT[way]
    elif way in HAND:
        module, options = "hand", {"kind": kind}
    elif family == "looplab" and kind:
        module, options = "looplab_fit", {"execution": kind}
    else:
        raise ValueError(f"{way!r} is not one of {', '.join((*FIT, *ORBIT, *HAND))} or looplab_MODE")
    train: Callable[..., None] = importlib.import_module(f"benchmarks.ways.{module}").train
    return functools.partial(train, **options)
