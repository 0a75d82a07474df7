"""Finds the names of a model's variables in Keras' weight files; the model must be built.

A file identifies a layer by its class and place (`layers/dense_1`), not by its name, and a layer's variables
by their number. It also keeps the layers' own names, which make readable names: `encoder/dense/0`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from keras.src.saving.saving_lib import NpzIOStore, _save_state

from looplab.strategy import unwrapped

_SUFFIX = re.compile(r"_\d+$")


class _Noted(NpzIOStore):
    """Acts as a file that Keras saves to: records the variables themselves, and writes nothing."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self.layers: dict[str, str] = {}

    def make(self, path: str, metadata: Mapping[str, str] | None = None) -> dict[str, Any]:
        self.layers[path] = (metadata or {}).get("name", "")
        return self.found.setdefault(path, {})


def of_model(model: keras.Model) -> dict[int, tuple[str, str]]:
    """Returns both names of each variable, by its id: the name in a file and the readable name.

    The id is that of the TensorFlow variable. A saved value that is not a variable gets no name.
    """
    noted = _Noted()
    _save_state(model, weights_store=noted, assets_store=None, inner_path="", visited_saveables=set())
    shown = readable(noted.layers)
    return {
        id(unwrapped(value)): (joined(path, key), joined(shown[path], key))
        for path, values in noted.found.items()
        for key, value in values.items()
        if isinstance(value, keras.Variable | tf.Variable)
    }


def readable(layers: Mapping[str, str]) -> dict[str, str]:
    """Names layers by their own names, each within its parent; renumbers the numbers at their ends.

    Args:
        layers: The name of each layer by its path in the file; the model's own has the path `""`.
    """
    shown = {"": ""}
    used: set[str] = set()
    for path in sorted(layers, key=_natural):
        if not path:
            continue
        above = path.rpartition("/")[0]
        while above not in shown:
            above = above.rpartition("/")[0]
        base = joined(shown[above], _SUFFIX.sub("", layers[path] or path.rpartition("/")[2]))
        names = (base if not number else f"{base}_{number}" for number in range(len(layers) + 1))
        shown[path] = next(name for name in names if name not in used)
        used.add(shown[path])
    return shown


def joined(*parts: str) -> str:
    """Returns a path without empty parts."""
    return "/".join(filter(None, parts))


def _natural(path: str) -> list[tuple[int, str]]:
    """Returns a key that sorts `dense_10` after `dense_2`, in the order in which layers were added."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]
