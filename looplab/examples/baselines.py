"""What the examples must beat: simple methods on the same data."""

from __future__ import annotations

from typing import Any

import numpy as np

_MOST_BITS = 6  # for one number: more are never worth it here


def pca(train: Any, held_out: Any, numbers: int) -> float:
    """Returns the squared error of a pixel when images are kept as some principal components.

    Args:
        train: Images that the components are fitted to, shape `[n, ...]`.
        held_out: Images that the error is measured on.
        numbers: The number of components of an image.
    """
    _, error = _fitted(train, held_out, numbers)
    return error


def quantised_pca(train: Any, held_out: Any, bits: int) -> float:
    """Returns that error when the components of an image may take some bits in all, shared out as is best.

    Each component has the same number of levels, evenly spaced over what the training images need.

    Args:
        train: See `pca`.
        held_out: See `pca`.
        bits: The number of bits of an image.
    """
    choices = [each for each in range(1, _MOST_BITS + 1) if bits % each == 0]
    return min(_fitted(train, held_out, bits // each, levels=2**each)[1] for each in choices)


def _fitted(train: Any, held_out: Any, numbers: int, levels: int | None = None) -> tuple[Any, float]:
    """Returns the reconstructions of held-out images, and the squared error of a pixel."""
    known, unknown = (np.reshape(images, (len(images), -1)).astype("float64") for images in (train, held_out))
    mean = known.mean(axis=0)
    axes = np.linalg.svd(known - mean, full_matrices=False)[2][:numbers]
    codes = (unknown - mean) @ axes.T
    if levels is not None:
        least, most = np.quantile((known - mean) @ axes.T, [0.01, 0.99], axis=0)
        step = (most - least) / levels
        cell = np.clip(np.floor((codes - least) / step), 0, levels - 1)
        codes = least + (cell + 0.5) * step
    found = codes @ axes + mean
    return found, float(np.mean((found - unknown) ** 2))
