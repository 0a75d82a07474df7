"""What learning rates are called where they are logged, and which one a step has used."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from looplab.errors import ConfigurationError, nearest

Optimizers = Mapping[str, keras.optimizers.Optimizer]


def learning_rates(optimizers: Optimizers) -> dict[str, float]:
    """Returns the rate that the last completed step used, of each optimizer by its tag, on the host.

    `optimizer.learning_rate`, which Keras logs, is the rate of the step that comes: another one where a
    schedule moves on, or a callback has just changed it.

    Args:
        optimizers: By name, of a trainer that is prepared.

    Returns:
        `learning_rate`, or `<name>/learning_rate` where there are several.
    """
    several = len(optimizers) > 1
    return {
        f"{name}/learning_rate" if several else "learning_rate": optimizer._learning_rate.of_last_step()
        for name, optimizer in optimizers.items()
    }


def scale_learning_rate(optimizers: Optimizers, factor: float, name: str | None) -> None:
    """Multiplies the factor on the schedule of one optimizer, or of all; on the host.

    Args:
        optimizers: By name, of a trainer that is prepared.
        factor: What to multiply with.
        name: Of the optimizer; None for all.

    Raises:
        ConfigurationError: If there is no optimizer of this name.
    """
    if name is not None and name not in optimizers:
        raise ConfigurationError(
            f"scale_learning_rate: there is no optimizer {name!r}; there are {list(optimizers)}."
            + nearest(name, optimizers)
        )
    for own, optimizer in optimizers.items():
        if name in (None, own):
            optimizer._learning_rate.scale(factor)


def factors_before(optimizers: Optimizers) -> dict[str, float]:
    """Returns the factors on the rates that the last completed step used, of those changed since.

    A checkpoint holds them: an epoch may yet have to be logged by the run that goes on.
    """
    found = {name: optimizer._learning_rate.factor_before for name, optimizer in optimizers.items()}
    return {name: factor for name, factor in found.items() if factor is not None}


def restore_factors(optimizers: Optimizers, saved: Mapping[str, float]) -> None:
    """Takes back what `factors_before` gave, after the variables were restored."""
    for name, optimizer in optimizers.items():
        optimizer._learning_rate.factor_before = saved.get(name)
