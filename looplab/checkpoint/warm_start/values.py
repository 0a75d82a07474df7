"""A value in a source that is not read yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Value:
    """A value in a source; it is read when it is needed, after its shape was checked.

    Attributes:
        shape: The shape of the variable, on one replica.
        dtype: The dtype in NumPy.
        read: Returns the value.
        per_replica: Whether it has one value for each replica, in an additional first axis.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    per_replica: bool = False
