"""The states that recurrent layers keep between batches (`stateful=True`), which Keras does not track."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from looplab.checkpoint import state
from looplab.errors import ConfigurationError


def variables(models: Mapping[str, keras.Model], owner: Any) -> state.Variables:
    """Returns the states of stateful layers, by the paths of a checkpoint.

    They are saved, so that an interrupted run continues with them; `restore` and first weights leave them
    out.

    Args:
        models: The models by name, built.
        owner: The object whose attributes may be models and layers.
    """
    found: state.Variables = {}
    seen = set[int]()
    for name, layer in _stateful(models, owner):
        for index, variable in enumerate(keras.tree.flatten(layer.states)):
            if id(variable) not in seen:
                seen.add(id(variable))
                path = f"states/{name}/{state.without_number(layer.name)}/{index}"
                found[state.unused(state.as_path(path), ".", found)] = variable
    return found


def refuse_pieces(
    models: Mapping[str, keras.Model], owner: Any, *, replicas: int, micro_batches: int
) -> None:
    """Refuses stateful layers if a batch is computed in slices: they keep one state for each row.

    Raises:
        ConfigurationError: With the first such layer.
    """
    if replicas * micro_batches == 1:
        return
    how = f"{replicas} replicas" if replicas > 1 else f"micro_batches={micro_batches}"
    for name, layer in _stateful(models, owner):
        raise ConfigurationError(
            f"the layer {layer.name!r} of {name!r} keeps its state from batch to batch (stateful=True), one "
            f"for each row of a whole batch, but with {how} a batch is computed in slices. Use one device "
            "and micro_batches=1; or return the state (return_state=True) and pass it on yourself."
        )


def _stateful(models: Mapping[str, keras.Model], owner: Any) -> Iterator[tuple[str, keras.layers.RNN]]:
    """Yields the layers that keep a state, each with the name of its model or attribute."""
    held = {name: value for name, value in vars(owner).items() if isinstance(value, keras.Layer)}
    for name, outer in {**held, **models}.items():
        for layer in outer._flatten_layers():
            if isinstance(layer, keras.layers.RNN) and layer.stateful and layer.states is not None:
                yield name, layer
