"""How a step is spread over devices, and the dtypes that it computes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from looplab.errors import ConfigurationError

STRATEGIES = ("auto", "one_device", "mirrored", "simulated", "tpu")
BATCH_NORMS = ("sync", "local")
PRECISIONS = ("float32", "float64", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True)
class Distribution:
    """How a step is spread over devices.

    Attributes:
        strategy: Of `STRATEGIES`, or a `tf.distribute.Strategy`.
        batch_norm: What BatchNormalization sees on several replicas: `"sync"` the global batch, `"local"` its
            replica's rows.
        precision: Of `PRECISIONS`; None for what Keras' global settings say.
    """

    strategy: Any = "auto"
    batch_norm: str = "sync"
    precision: str | None = None

    def __post_init__(self) -> None:
        """Checks what needs no TensorFlow; the rest is checked where it is made.

        Raises:
            ConfigurationError: If `batch_norm` is none of those that there are.
        """
        if self.batch_norm not in BATCH_NORMS:
            raise ConfigurationError(
                f"batch_norm: {self.batch_norm!r} is not one of {', '.join(map(repr, BATCH_NORMS))}."
            )
