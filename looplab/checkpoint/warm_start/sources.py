"""Opens the sources of initial weights: checkpoints of looplab and Keras files. No code in them runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from looplab.checkpoint import Store, read, weights
from looplab.checkpoint.warm_start import keras_file
from looplab.checkpoint.warm_start.values import Value
from looplab.errors import CheckpointError
from looplab.options.initialize_from import is_checkpoint

_REPLICAS = "@replicas"


@dataclass(frozen=True)
class Source:
    """The contents of a source.

    Attributes:
        path: The opened file or folder; for a run, the folder of one checkpoint.
        values: Values by name.
        names: The key in `values` of each name of a value.
        known_by: How variables are named by default: by `"path"`; or in a Keras file by the names of
            `"layers"`, or by their `"places"` if the file has no such names.
        averaged: How many values are averages that an optimizer kept (`use_ema`), as evaluations used them.
    """

    path: Path
    values: Mapping[str, Value]
    names: Mapping[str, str]
    known_by: Literal["path", "layers", "places"] = "path"
    averaged: int = 0


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Opens the source that `initialize_from` names; its values can be read within the block.

    Args:
        path: The folder of a checkpoint, a run directory, or a Keras file.

    Raises:
        CheckpointError: If it is gone or damaged, or contains something that does not belong there.
    """
    if path.is_dir():
        yield _checkpoint(path)
        return
    with keras_file.opened(path) as found:
        yield Source(path, found.values, found.names, "layers" if found.is_named else "places")


def shortened(path: str, models: int) -> str:
    """Returns a variable's path as users write it: without the model's name if there is only one model."""
    if not path.startswith("models/"):
        return path
    return path.split("/", 2)[2] if models == 1 else path.removeprefix("models/")


def _checkpoint(path: Path) -> Source:
    inside, folder = path, path
    if is_checkpoint(path):
        arrays = read(path)
    else:
        inside = path / "checkpoints"
        folder, arrays, _ = Store(inside).find("best")
    _refuse_links(inside, folder)
    own, averages = weights.of(arrays), weights.averages_in(arrays)
    models = len({name.split("/")[1] for name in own if name.startswith("models/")})
    values, averaged = {}, 0
    for name, array in own.items():
        plain = name.removesuffix(_REPLICAS)
        average = averages.get(plain.removeprefix("models/"))
        averaged += average is not None
        per_replica = average is None and plain != name
        array = array if average is None else average
        shape = array.shape[1:] if per_replica else array.shape
        values[shortened(plain, models)] = Value(shape, array.dtype, partial(np.asarray, array), per_replica)
    return Source(folder, values, {name: name for name in values}, averaged=averaged)


def _refuse_links(inside: Path, folder: Path) -> None:
    """Refuses links that lead out of a checkpoint: their targets do not belong to it."""
    for path in folder.iterdir():
        if not path.resolve().is_relative_to(inside.resolve()):
            raise CheckpointError(f"{path} is a link out of {inside}, which looplab does not follow.")
