"""Names, factories and objects -> models, optimizers, losses and metrics, in the strategy's scope.

Serves the constructor and configurations alike: whatever a person may write for one of these ends
here, is made once, and belongs to the strategy it will run under.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from looplab.checkpoint.state import size_of
from looplab.errors import ConfigurationError
from looplab.optimization.remake import another_model
from looplab.options.names import check_name
from looplab.strategy.strategies import belongs_here


def named(one: Any, several: Mapping[str, Any] | None, what: str) -> dict[str, Any]:
    """Returns what was given as a single thing or by name, by name.

    Args:
        one: The single one, which gets the name `what`; or None.
        several: By name; or None.
        what: `"model"` or `"optimizer"`.

    Raises:
        ConfigurationError: If both are given, or a name cannot stand in a path.
    """
    if one is not None and several is not None:
        raise ConfigurationError(f"{what} and {what}s: give one of the two, not both.")
    found = dict(several) if several is not None else ({} if one is None else {what: one})
    for name in found:
        check_name(f"{what}s", name)
        if not name.replace("_", "").isalnum():
            raise ConfigurationError(
                f"{what}s: the name {name!r} may hold letters, digits and underscores only."
            )
    return found


def made_model(given: Any, name: str) -> keras.Model:
    """Returns the model that was given, or that the function that was given makes; in the strategy's scope.

    Raises:
        ConfigurationError: If it is no model.
    """
    model = given if isinstance(given, keras.Model) or not callable(given) else given()
    if not isinstance(model, keras.Model):
        raise ConfigurationError(
            f"model {name!r}: expected a keras.Model or a function that returns one, got "
            f"{model!r} ({type(model).__name__})."
        )
    return model


def placed_model(model: keras.Model, name: str) -> keras.Model:
    """Returns a model that the strategy can use: itself, or a clone where it must be; in its scope.

    Under several replicas the variables of a model made outside the scope cannot be used; a functional or
    sequential one is cloned with its weights.

    Raises:
        ConfigurationError: If it cannot be brought into the scope.
    """
    return model if belongs_here(model.variables) else another_model(model, f"model {name!r}")


def layer_rows(models: Mapping[str, keras.Model]) -> tuple[tuple[str, str, str, int, int], ...]:
    """Returns the rows of the model table: `(model, layer, kind, parameters, bytes)`."""
    rows = []
    for name, model in models.items():
        for layer in model.layers:
            size = sum(size_of(variable) for variable in layer.weights)
            count = sum(int(np.prod(variable.shape)) for variable in layer.weights)
            rows.append((name, layer.name, type(layer).__name__, count, size))
    return tuple(rows)
