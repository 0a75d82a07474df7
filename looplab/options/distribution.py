"""The settings for the distribution of a step over devices, and for its dtypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from looplab.errors import ConfigurationError

STRATEGIES = ("auto", "one_device", "mirrored", "simulated", "tpu")
BATCH_NORMS = ("sync", "local")
RANDOM = ("rows", "replicas")
PRECISIONS = ("float32", "float64", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True)
class Distribution:
    """The settings for the distribution of a step over devices.

    Attributes:
        strategy: One of `STRATEGIES`, or a `tf.distribute.Strategy`.
        batch_norm: The rows over which BatchNormalization averages on several replicas: `"sync"` means the
            global batch, `"local"` the rows of its replica.
        precision: One of `PRECISIONS`; None for Keras' global settings.
        random: What random numbers follow on several replicas and in micro-batches: `"rows"` means the row of
            the global batch, as on one device, `"replicas"` that each replica draws numbers of its own.
    """

    strategy: Any = "auto"
    batch_norm: str = "sync"
    precision: str | None = None
    random: str = "rows"

    def __post_init__(self) -> None:
        """Checks what can be checked without TensorFlow; the rest is checked when the strategy is made.

        Raises:
            ConfigurationError: If `batch_norm` or `random` is not one of its values.
        """
        for name, value, values in (
            ("batch_norm", self.batch_norm, BATCH_NORMS),
            ("random", self.random, RANDOM),
        ):
            if value not in values:
                raise ConfigurationError(f"{name}: {value!r} is not one of {', '.join(map(repr, values))}.")
