"""What learning rates are called where they are logged."""

from __future__ import annotations

from collections.abc import Mapping

import keras


def learning_rates(optimizers: Mapping[str, keras.optimizers.Optimizer]) -> dict[str, float]:
    """Returns the present rate of each optimizer by its tag, on the host.

    Args:
        optimizers: By name.

    Returns:
        `learning_rate`, or `<name>/learning_rate` where there are several.
    """
    several = len(optimizers) > 1
    return {
        f"{name}/learning_rate" if several else "learning_rate": float(optimizer.learning_rate)
        for name, optimizer in optimizers.items()
    }
