"""Rows of an embedding that a batch repeats: looplab updates with the gradient, Keras does not.

If a batch looks up a row twice, its gradient has two parts (`tf.IndexedSlices`). The gradient is their sum,
which looplab gives to optimizers. Keras gives them the parts: most optimizers square each part, so Adam's
second moment of parts 1 and 3 grows by 1 + 9 instead of 16, and clipping shortens each part (Keras 3.15). The
two agree if the update is linear in the gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from looplab.strategy import unwrapped

_LINEAR = (keras.optimizers.SGD, keras.optimizers.Lion)  # linear in the new gradient of a step
_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")


def differs_from_keras(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether Keras' update with the parts of a gradient differs from that with their sum."""
    return type(optimizer) not in _LINEAR or any(getattr(optimizer, name) for name in _CLIPPING)


def remarks(
    models: Mapping[str, keras.Model],
    optimizers: Mapping[str, keras.optimizers.Optimizer],
    trained: Mapping[str, Iterable[Any]],
) -> list[str]:
    """Returns notes about embeddings that an optimizer trains, one sentence for each optimizer.

    Args:
        models: The models by name, built.
        optimizers: The optimizers by name.
        trained: The variables that each optimizer trains.
    """
    layers = [layer for model in models.values() for layer in model._flatten_layers()]
    embeddings = {
        id(unwrapped(layer.embeddings)): layer.name
        for layer in layers
        if isinstance(layer, keras.layers.Embedding) and layer.built
    }
    found = []
    for name, optimizer in optimizers.items():
        ids = {id(unwrapped(variable)) for variable in trained.get(name, ())}
        names = [own for held, own in embeddings.items() if held in ids]
        if names and differs_from_keras(optimizer):
            found.append(
                f"{type(optimizer).__name__} gets the whole gradient of a row of {', '.join(names)} that a "
                "batch repeats; Keras' model.fit gives it each part separately, so its weights differ"
            )
    return found
