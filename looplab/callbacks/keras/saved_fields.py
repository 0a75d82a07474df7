"""Converts the fields of a Keras callback to and from what a checkpoint can hold."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Fields that Keras' own callbacks recreate themselves.
_OWN = {
    keras.callbacks.Callback: {"params", "_model"},
    keras.callbacks.CSVLogger: {"csv_file", "writer", "append", "append_header"},
    keras.callbacks.TensorBoard: {
        *("_writers", "_summary_module", "_prev_summary_state", "_train_dir", "_val_dir", "_log_write_dir"),
        *("_should_write_train_graph", "_profiler_started", "_batch_trace_context", "_is_tracing"),
    },
}
_KINDS = {"tuple": tuple, "set": set, "items": dict}


class CannotSave(Exception):
    """A value that no checkpoint can hold."""


def read(callback: keras.callbacks.Callback) -> tuple[dict[str, Any], list[str]]:
    """Returns the encoded fields of a callback that can be saved, and the names of those that cannot.

    Functions, classes and paths come from the constructor and appear in neither.
    """
    made_anew: set[str] = set()
    for kind, names in _OWN.items():
        made_anew |= names if isinstance(callback, kind) else set()
    if "monitor_op" in vars(callback):  # Keras chooses it late, and then changes the sign of min_delta
        made_anew |= {"monitor_op", "min_delta"}
    saved, lost = {}, []
    for name, value in vars(callback).items():
        if name in made_anew or _is_how_it_was_made(value):
            continue
        try:
            saved[name] = encode(value)
        except CannotSave:
            lost.append(name)
    return saved, lost


def are_of_arguments(callback: keras.callbacks.Callback) -> bool:
    """Returns whether each field of a callback has the name of an argument of `__init__`."""
    saved, lost = read(callback)
    taken = inspect.signature(type(callback)).parameters
    return {name.lstrip("_") for name in (*saved, *lost)} <= taken.keys()


def write(callback: keras.callbacks.Callback, saved: Mapping[str, Any]) -> None:
    """Sets the fields of a callback that `read` returned."""
    for name, value in saved.items():
        setattr(callback, name, decode(value))


def fingerprints(saved: Mapping[str, Any]) -> dict[str, str]:
    """Returns a digest of each field, so that looplab sees changes without keeping copies."""
    return {name: hashlib.sha256(_text(value)).hexdigest() for name, value in saved.items()}


def _text(value: Any) -> bytes:
    def array(found: np.ndarray) -> list[str]:
        return [str(found.dtype), str(found.shape), hashlib.sha256(found.tobytes()).hexdigest()]

    return json.dumps(value, default=array).encode()


def _is_how_it_was_made(value: Any) -> bool:
    return (
        inspect.isroutine(value)
        or inspect.isclass(value)
        or inspect.ismodule(value)
        or isinstance(value, Path)
    )


def encode(value: Any) -> Any:
    """Returns a value in JSON's types and arrays; types that JSON lacks become `{"kind": ...}`.

    Raises:
        CannotSave: If a checkpoint cannot hold the value.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        return {"kind": "array", "value": np.asarray(value).copy()}
    if tf.is_tensor(value) and not isinstance(value, tf.Variable) and hasattr(value, "numpy"):
        return {"kind": "tensor", "value": np.asarray(value.numpy())}
    if type(value) is list:
        return [encode(item) for item in value]
    if type(value) in (tuple, set):
        return {"kind": type(value).__name__, "value": [encode(item) for item in value]}
    if type(value) is dict:
        return {"kind": "items", "value": [[encode(key), encode(item)] for key, item in value.items()]}
    raise CannotSave


def decode(saved: Any) -> Any:
    """Returns the value that was given to `encode`."""
    if isinstance(saved, list):
        return [decode(item) for item in saved]
    if not isinstance(saved, dict):
        return saved
    kind, value = saved["kind"], saved["value"]
    if kind == "array":
        return value.copy() if value.ndim else value[()]
    return tf.constant(value) if kind == "tensor" else _KINDS[kind](decode(value))
