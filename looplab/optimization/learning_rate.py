"""The learning rates of the last step, and the names under which they are logged."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from looplab.errors import ConfigurationError, nearest

Optimizers = Mapping[str, keras.optimizers.Optimizer]


def learning_rates(optimizers: Optimizers) -> dict[str, float]:
    """Returns the learning rate that the last completed step used, of each optimizer by its tag; on the host.

    `optimizer.learning_rate`, which Keras logs, is the rate of the next step: it differs if a schedule
    advances, or if a callback has just changed it.

    Args:
        optimizers: The optimizers of a prepared trainer, by name.

    Returns:
        `learning_rate`, or `<name>/learning_rate` if there are several.
    """
    several = len(optimizers) > 1
    return {
        f"{name}/learning_rate" if several else "learning_rate": optimizer._learning_rate.of_last_step()
        for name, optimizer in optimizers.items()
    }


def scale_learning_rate(optimizers: Optimizers, factor: float, name: str | None) -> None:
    """Multiplies the factor on the schedule of one optimizer, or of all; on the host.

    Args:
        optimizers: The optimizers of a prepared trainer, by name.
        factor: The number to multiply by.
        name: The name of the optimizer; None for all.

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
    """Returns the factors that the last completed step used, of those rates that have changed since.

    A checkpoint holds them: the run that continues may still have to log an epoch.
    """
    found = {name: optimizer._learning_rate.factor_before for name, optimizer in optimizers.items()}
    return {name: factor for name, factor in found.items() if factor is not None}


def restore_factors(optimizers: Optimizers, saved: Mapping[str, float]) -> None:
    """Restores the result of `factors_before`, after the variables were restored."""
    for name, optimizer in optimizers.items():
        optimizer._learning_rate.factor_before = saved.get(name)
