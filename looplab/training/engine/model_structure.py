"""The facts about models that a step's trace fixes: the layers, and what is trainable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import is_
from typing import Any

import keras

_SHOWN = 3  # layers that a message names


class ModelStructure:
    """The layers of some models and their trainable flags, at one time.

    Creating or comparing one takes some microseconds for each ten layers.

    Attributes:
        models: The models by name.
    """

    def __init__(self, models: Mapping[str, keras.Layer]) -> None:
        """Reads the models.

        Args:
            models: The models by name; layers count as models.
        """
        self.models = dict(models)
        self._by_model = {name: model._flatten_layers() for name, model in self.models.items()}
        layers = [layer for own in self._by_model.values() for layer in own]
        self._of_layers = [layer.trainable for layer in layers]
        self._variables = [variable for layer in layers for variable in layer._trainable_variables]
        self._of_variables = [variable.trainable for variable in self._variables]

    @property
    def parts(self) -> list[Any]:
        """The layers, outer ones first, and then their variables that can be trained."""
        return [*self._all(), *self._variables]

    def layers_changed(self, now: ModelStructure) -> list[str]:
        """Describes the models that have other layers now."""
        if self._by_model.keys() == now._by_model.keys() and all(
            len(own) == len(then) and all(map(is_, own, then))
            for own, then in zip(now._by_model.values(), self._by_model.values(), strict=True)
        ):
            return []
        return [
            f"the layers of {name}: {_named(_without(then, own))} -> {_named(_without(own, then))}"
            for name, then, own in (
                (name, self._by_model.get(name, []), now._by_model.get(name, []))
                for name in {**self._by_model, **now._by_model}
            )
            if len(own) != len(then) or not all(map(is_, own, then))
        ]

    def trainable_changed(self, now: ModelStructure) -> list[str]:
        """Describes the layers and variables whose trainable flag has changed."""
        if self._of_layers == now._of_layers and self._of_variables == now._of_variables:
            return []
        then = {id(layer): flag for layer, flag in zip(self._all(), self._of_layers, strict=True)}
        flags = {id(v): flag for v, flag in zip(self._variables, self._of_variables, strict=True)}
        found, said = [], set[int]()
        for layer, flag in zip(now._all(), now._of_layers, strict=True):
            if then.get(id(layer), flag) == flag or id(layer) in said:
                continue
            inner = [*layer._flatten_layers(), *layer.variables]
            said |= {id(one) for one in inner if one.trainable == flag}  # Keras sets it for everything in it
            found.append(f"{layer.name}.trainable: {not flag} -> {flag}")
        for variable, flag in zip(now._variables, now._of_variables, strict=True):
            if flags.get(id(variable), flag) != flag and id(variable) not in said:
                found.append(f"{variable.path}.trainable: {not flag} -> {flag}")
        more = len(found) - _SHOWN
        return found if more <= 0 else [*found[:_SHOWN], f"and {more} more"]

    def _all(self) -> Iterator[Any]:
        return (layer for own in self._by_model.values() for layer in own)


def _without(layers: list[Any], others: list[Any]) -> list[Any]:
    gone = {id(layer) for layer in others}
    return [layer for layer in layers if id(layer) not in gone]


def _named(layers: list[Any]) -> str:
    names = [layer.name for layer in layers[:_SHOWN]]
    more = len(layers) - _SHOWN
    return ", ".join(names) + (f" and {more} more" if more > 0 else "") if names else "none"
