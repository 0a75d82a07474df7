"""Creates models, optimizers, losses and metrics from names, factories and objects, in the strategy's scope.

It serves the constructor and configurations alike: all forms that a user may write end here, are created
once, and belong to the strategy under which they run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from looplab.checkpoint.state import size_of
from looplab.errors import ConfigurationError, nearest, shown
from looplab.optimization.remake import another_model
from looplab.options.names import check_name
from looplab.protocols import LayerRow
from looplab.strategy import unwrapped
from looplab.strategy.strategies import belongs_here


def named(one: Any, several: Mapping[str, Any] | None, what: str) -> dict[str, Any]:
    """Returns objects by name that were given as a single object or by name.

    Args:
        one: The single object, which gets the name `what`; or None.
        several: The objects by name; or None.
        what: `"model"` or `"optimizer"`.

    Raises:
        ConfigurationError: If both are given, or if a name is not valid in a path.
    """
    if one is not None and several is not None:
        raise ConfigurationError(f"{what} and {what}s: give one of the two, not both.")
    if several is not None and not isinstance(several, Mapping):
        raise ConfigurationError(
            f"{what}s: expected a dict, {{name: {what}}}, got {shown(repr(several))}. For one use {what}=..."
        )
    found = dict(several) if several is not None else ({} if one is None else {what: one})
    refuse_one_for_two(found)
    for name in found:
        check_name(f"{what}s", name)
        if not name.replace("_", "").isalnum():
            raise ConfigurationError(
                f"{what}s: the name {name!r} may hold letters, digits and underscores only."
            )
    return found


def refuse_one_for_two(found: Mapping[str, Any]) -> None:
    """Refuses one optimizer under two names; a function that returns optimizers may have several names.

    Raises:
        ConfigurationError: With the names.
    """
    for given in found.values():
        names = [name for name, other in found.items() if other is given]
        if len(names) > 1 and isinstance(given, keras.optimizers.Optimizer):
            said = " and ".join(map(repr, names))
            raise ConfigurationError(
                f"optimizers: {said} are one object, but an optimizer keeps the slots of one set of "
                "variables and counts its updates. Give each name its own, for example a function that "
                "returns one; or give it one name, and the models that it trains: optimizers={'both': "
                "(optimizer, "
                f"{list(names)})}}."
            )


def trained_models(
    optimizers: Mapping[str, Any], models: Collection[str], *, every: bool
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Separates each optimizer from the models that it trains if a step names no variables.

    Args:
        optimizers: The given objects by name: an optimizer, which trains the model of its name; a list of
            models, which the Keras optimizer of this name trains; or a pair of an optimizer and such a list.
        models: The names of the models.
        every: Whether an optimizer without a list trains all models.

    Returns:
        The object that was given for each optimizer; and the names of the models that it trains, none if a
        step must name them.

    Raises:
        ConfigurationError: If a list is empty, names a model twice, or names an unknown model.
    """
    given, trains = {}, {}
    for name, own in optimizers.items():
        listed = list(models) if every or len(models) == 1 else [n for n in models if n == name]
        if isinstance(own, list | tuple):
            own, listed = _with_its_models(name, own, models)
        given[name], trains[name] = own, listed
    return given, trains


def _with_its_models(name: str, given: Any, models: Collection[str]) -> tuple[Any, list[str]]:
    own, listed = (name, given) if all(isinstance(each, str) for each in given) else (given[0], given[1:])
    if len(listed) == 1 and isinstance(listed[0], list | tuple):
        listed = listed[0]
    for model in listed:
        if not isinstance(model, str) or model not in models:
            raise ConfigurationError(
                f"optimizers: {name!r} should train {shown(repr(model))}, but there is no such model; there "
                f"are {list(models)}.{nearest(str(model), models)} Expected an optimizer; a list of models, "
                f"which the Keras optimizer {name!r} trains; or a pair of an optimizer and such a list."
            )
    if not listed or len({*listed}) < len(listed):
        raise ConfigurationError(f"optimizers: {name!r} should train {list(listed)}: name each model once.")
    return own, list(listed)


def made_model(given: Any, name: str) -> keras.Model:
    """Returns the given model, or the model that the given function returns; in the strategy's scope.

    Raises:
        ConfigurationError: If it is not a model.
    """
    model = given if isinstance(given, keras.Model) or not callable(given) else given()
    if not isinstance(model, keras.Model):
        raise ConfigurationError(
            f"model {name!r}: expected a keras.Model or a function that returns one, got "
            f"{model!r} ({type(model).__name__})."
        )
    return model


def placed_model(model: keras.Model, name: str) -> keras.Model:
    """Returns a model that the strategy can use: itself, or a clone if necessary; in its scope.

    Under several replicas the variables of a model that was created outside the scope cannot be used; a
    functional or sequential model is cloned with its weights.

    Raises:
        ConfigurationError: If it cannot be cloned into the scope.
    """
    return model if belongs_here(model.variables) else another_model(model, f"model {name!r}")


def layer_rows(
    models: Mapping[str, keras.Model], trained: Mapping[str, Iterable[Any]]
) -> tuple[LayerRow, ...]:
    """Returns the rows of the model table.

    Args:
        models: The models by name, built.
        trained: The variables that each optimizer trains.
    """
    updated = {id(unwrapped(variable)) for own in trained.values() for variable in own}
    rows = []
    for name, model in models.items():
        for layer in model.layers:
            counts = {id(unwrapped(v)): int(np.prod(v.shape)) for v in layer.weights}
            trainable = {id(unwrapped(v)) for v in layer.weights if v.trainable}
            trained_here = sum(counts[held] for held in trainable & updated)
            size = sum(size_of(variable) for variable in layer.weights)
            kind = type(layer).__name__
            rows.append(LayerRow(name, layer.name, kind, sum(counts.values()), trained_here, size))
    return tuple(rows)


def untrained(models: Mapping[str, keras.Model], trained: Mapping[str, Iterable[Any]]) -> list[str]:
    """Returns the names of the models of which no optimizer trains any variable."""
    trained_here = {row.model for row in layer_rows(models, trained) if row.trained}
    return [name for name in models if name not in trained_here]
