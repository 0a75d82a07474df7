"""Loads the handwritten digits of scikit-learn: 1797 grey images of 8 x 8 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from looplab.errors import ConfigurationError
from looplab.targets import configurable


@configurable
def digits(validation_fraction: float = 0.2, split_seed: int = 0) -> dict[str, Any]:
    """Loads the digits (E. Alpaydin and C. Kaynak 1998, UCI "Optical Recognition", test part).

    Args:
        validation_fraction: The fraction of the images that is held out, above 0 and below 1.
        split_seed: Chooses these images; the split does not depend on the run's seed.

    Returns:
        `{"train": (images, labels), "validation": (images, labels)}`: images float32 of shape
        `[n, 8, 8, 1]` from 0 to 1, labels int64 of shape `[n]` from 0 to 9.

    Raises:
        ConfigurationError: If scikit-learn is not installed, or the fraction is out of range.
    """
    if not 0.0 < validation_fraction < 1.0:
        raise ConfigurationError(
            f"data.source.validation_fraction: {validation_fraction} is not between 0 and 1."
        )
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigurationError(
            "data: the digits are part of scikit-learn, which is not installed. "
            "Run: pip install 'looplab[examples]'"
        ) from None
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16.0).astype("float32")
    order = np.random.default_rng(split_seed).permutation(len(images))
    held_out = round(len(images) * validation_fraction)
    validation, train = order[:held_out], order[held_out:]
    return {
        "train": (images[train], labels[train]),
        "validation": (images[validation], labels[validation]),
    }
