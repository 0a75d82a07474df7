"""The ranges of whole numbers in settings, each with its reason, for configuration files and Python."""

from __future__ import annotations

import operator
from typing import Any

from looplab.errors import ConfigurationError, as_written
from looplab.options.value_types import EXACT, OneOfOrWhole, Whole

COUNT = Whole(1, EXACT, "larger numbers are not exact in logs and checkpoints.")
BATCH_SIZE = Whole(1, 2**31 - 1, "TensorFlow counts the rows of a tensor in 32 bits in many operations.")
CHUNK = OneOfOrWhole(
    "auto", Whole(1, 2**31 - 1, "TensorFlow counts the iterations of a compiled loop in 32 bits.")
)
MICRO_BATCHES = OneOfOrWhole(
    "auto",
    Whole(
        1,
        1024,
        "the graph of the step contains each piece; with 1,024 pieces it already takes minutes to build.",
    ),
)
FOLDS = Whole(2, EXACT, "larger numbers are not exact in logs and checkpoints.")
FOLD = Whole(0, EXACT - 1, "it must be below the number of folds.")
SEED = Whole(0, 2**32 - 1, "NumPy's random generators take seeds of 32 bits.")
KEPT = Whole(1, 10**6, "each checkpoint is a folder, and looplab lists them all at each save.")
WINDOW = Whole(10, 10**6, "each step sorts the losses of the whole window.")
THREADS = Whole(
    1, 1024, "each one is a thread of the system; TensorFlow crashes if it cannot start all of them."
)
REPLICAS = Whole(
    1, 64, "each simulated replica computes on this machine's CPU and makes the graph of a step longer."
)


def whole(key: str, value: Any, kind: Whole | OneOfOrWhole) -> Any:
    """Returns a whole number given in Python, after it has checked its range.

    Args:
        key: The name of the setting, for the message.
        value: A number of Python or NumPy.
        kind: One of the ranges of this module.

    Raises:
        ConfigurationError: If it is not such a number; the message has the range and its reason.
    """
    number: Any
    try:
        number = value if isinstance(value, bool | float) else operator.index(value)
    except TypeError:
        number = value if value == "auto" else None  # only files may give a number as a text
    try:
        return kind.read(number)
    except ValueError as error:
        why = f" {error}" if str(error) else ""
        raise ConfigurationError(
            f"{key}: expected {kind.describe()}, got {as_written(value)}.{why}"
        ) from None
