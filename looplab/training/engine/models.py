"""Names, factories and objects -> models, optimizers, losses and metrics, in the strategy's scope.

Serves the constructor and configurations alike: whatever a person may write for one of these ends
here, is made once, and belongs to the strategy it will run under.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

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
    refuse_one_for_two(found)
    for name in found:
        check_name(f"{what}s", name)
        if not name.replace("_", "").isalnum():
            raise ConfigurationError(
                f"{what}s: the name {name!r} may hold letters, digits and underscores only."
            )
    return found


def refuse_one_for_two(found: Mapping[str, Any]) -> None:
    """Refuses one optimizer under two names; what makes an optimizer may stand under several.

    Raises:
        ConfigurationError: With the names.
    """
    for given in found.values():
        names = [name for name, other in found.items() if other is given]
        if len(names) > 1 and isinstance(given, keras.optimizers.Optimizer):
            said = " and ".join(map(repr, names))
            raise ConfigurationError(
                f"optimizers: {said} are one object, and an optimizer keeps the slots of one set of "
                "variables and counts its updates. Give each its own, such as by a function that makes one; "
                "or give it one name and train all with it: optimizers={'both': ...}, and "
                "minimize(loss, batch, 'both', variables=[*a.trainable_variables, *b.trainable_variables])."
            )


def make_model(given: Any, strategy: tf.distribute.Strategy, name: str) -> keras.Model:
    """Makes a model: a factory is called, an object is used, or cloned where it must be.

    Runs in the strategy's scope. Under several replicas the variables of a model made outside the
    scope cannot be used; a functional or sequential one is cloned with its weights.

    Raises:
        ConfigurationError: If it is no model, or cannot be brought into the scope.
    """
    model = given if isinstance(given, keras.Model) or not callable(given) else given()
    if not isinstance(model, keras.Model):
        raise ConfigurationError(
            f"model {name!r}: expected a keras.Model or a function that returns one, got "
            f"{model!r} ({type(model).__name__})."
        )
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
