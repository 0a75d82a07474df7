"""Puts weights that a callback sets when training ends into the last checkpoint and the averages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np

from looplab import optimization
from looplab.callbacks.base import Event
from looplab.callbacks.keras.restored_state import variables_of
from looplab.checkpoint import state
from looplab.protocols import Controls


@contextmanager
def noticed(model: keras.Model, event: Event, controls: Controls) -> Iterator[None]:
    """Saves the changes that the block makes to a model's weights, and uses them in `evaluate` and `predict`.

    If there are averages of weights, the block sees them, as callbacks do when `model.fit` ends.

    Args:
        model: The model.
        event: The end of training.
        controls: Saves again if a weight has changed.
    """
    variables = variables_of(model, None)
    with optimization.exchanged(optimization.averages_of(event.optimizers.values())):
        before = state.read(variables)
        yield
        after = state.read(variables)
    changed = {
        path: array
        for path, array in after.items()
        if path not in before or not np.array_equal(array, before[path], equal_nan=True)
    }
    if changed:
        set_here = {name: variables[name] for name in (p.removesuffix("@replicas") for p in changed)}
        state.assign(set_here, changed, "the weights that a callback has set")
        _become_averages(event, {id(variable) for variable in set_here.values()})
        controls.save()


def _become_averages(event: Event, changed: set[int]) -> None:
    """Copies weights that a callback has set, given by their ids, to their averages."""
    for weight, average in optimization.averages_of(event.optimizers.values()):
        if id(weight) in changed:
            average.assign(weight)
