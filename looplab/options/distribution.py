"""The names of what a step may be spread over, and computed in."""

from __future__ import annotations

STRATEGIES = ("auto", "one_device", "mirrored", "simulated", "tpu")
BATCH_NORMS = ("sync", "local")
PRECISIONS = ("float32", "float64", "mixed_bfloat16", "mixed_float16")
