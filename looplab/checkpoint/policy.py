"""When to save a checkpoint, what to keep, and which one is best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from looplab.errors import ConfigurationError
from looplab.interval import Interval

_HIGHER_IS_BETTER = frozenset(
    ("acc", "accuracy", "auc", "precision", "recall", "f1", "iou", "dice", "r2", "reward", "return")
)


@dataclass(frozen=True)
class Policy:
    """When to save, and what to keep.

    The last checkpoint is always kept, and one is always saved at the end of `fit`.

    Attributes:
        every: Interval between checkpoints, such as `"1ep"`, `"500st"`, `"10min"`.
        keep_last: How many of the newest to keep, at least 1.
        monitor: The value that says which is best, `val_<metric>` of an evaluation or `<metric>` of
            a training epoch; without validation data `val_loss` means the training loss.
        mode: `"min"`, `"max"`, or `"auto"`: accuracies, AUC and their kin rise, all else falls.
        verify: Whether each checkpoint is read back into the live state after it is written, and
            compared; one that differs ends the run.
    """

    every: str | int = "1ep"
    keep_last: int = 2
    monitor: str = "val_loss"
    mode: str = "auto"
    verify: bool = False

    def __post_init__(self) -> None:
        """Checks what can be checked without a run.

        Raises:
            ConfigurationError: If a value is out of its range.
        """
        Interval.parse(self.every, what="checkpoint.every")
        if self.keep_last < 1:
            raise ConfigurationError(f"checkpoint.keep_last: must be at least 1, got {self.keep_last}.")
        if self.mode not in ("auto", "min", "max"):
            raise ConfigurationError(f"checkpoint.mode: {self.mode!r} is not one of 'auto', 'min', 'max'.")

    @property
    def interval(self) -> Interval:
        """`every`, read."""
        return Interval.parse(self.every, what="checkpoint.every")

    def better(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than the best so far; NaN never is."""
        if math.isnan(value):
            return False
        if best is None:
            return True
        rising = self.mode == "max" or (self.mode == "auto" and self._rises())
        return value > best if rising else value < best

    def _rises(self) -> bool:
        words = self.monitor.split("_")
        return words[-1] != "loss" and any(word in _HIGHER_IS_BETTER for word in words)

    def value(self, values: Mapping[str, float]) -> tuple[str, float] | None:
        """Finds the monitored value among those of an epoch, or the training loss in its place."""
        if self.monitor in values:
            return self.monitor, values[self.monitor]
        plain = self.monitor.removeprefix("val_")
        evaluated = any(name.startswith("val_") for name in values)
        return (plain, values[plain]) if plain in values and not evaluated else None
