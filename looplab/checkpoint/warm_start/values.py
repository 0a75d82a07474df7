"""A value that is there, not read yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Value:
    """A value that is there; it is read when it is wanted, once its shape is known to be right.

    Attributes:
        shape: Of the variable, on one replica.
        dtype: As NumPy has it.
        read: Returns it.
        per_replica: Whether it is one for each replica, in another first axis.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    per_replica: bool = False
