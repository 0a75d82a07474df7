"""Keeps the saved state when a run resumes: weights, learning rates, the lines of a CSV file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras

from looplab.checkpoint import state


def variables_of(model: keras.Model, optimizer: keras.optimizers.Optimizer | None) -> state.Variables:
    """Enumerates the weights of a model and, if one is given, the state and rate of its optimizer."""
    everything = list(model.variables)
    if optimizer is not None:
        everything += [*optimizer.variables, optimizer._learning_rate.factor]
    return {str(index): variable for index, variable in enumerate(everything)}


@contextmanager
def unchanged(model: keras.Model, optimizer: keras.optimizers.Optimizer | None) -> Iterator[None]:
    """Restores weights and learning rate after the block."""
    variables = variables_of(model, optimizer)
    before = state.read(variables)
    yield
    state.assign(variables, before, "the state that the run resumes from")


def size_of(callback: keras.callbacks.Callback) -> int | None:
    """Returns the size in bytes of a CSVLogger's file."""
    if not isinstance(callback, keras.callbacks.CSVLogger) or not Path(callback.filename).exists():
        return None
    return Path(callback.filename).stat().st_size


@contextmanager
def appended(callback: keras.callbacks.Callback, size: int | None) -> Iterator[None]:
    """Makes a CSVLogger of a resumed run append to its file, which is cut back to a given size."""
    if isinstance(callback, keras.callbacks.CSVLogger):
        path, append = Path(callback.filename), callback.append
        path.parent.mkdir(parents=True, exist_ok=True)
        if size is not None and path.exists():
            os.truncate(path, min(size, path.stat().st_size))
            callback.append = True
        try:
            yield
        finally:
            callback.append = append
    else:
        yield
