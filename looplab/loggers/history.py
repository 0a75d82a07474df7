"""The values of every epoch, in memory: what `fit` returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from looplab.protocols import Logger, Record, Summary


class History(Logger):
    """One value per epoch and name, as Keras' `History`; a logger like any other.

    Attributes:
        epoch: The epochs, from 1.
        history: `{"loss": [...], "val_accuracy": [...]}`, in the order of `epoch`. A value that an
            epoch does not have is NaN.
        params: `{"epochs": ..., "steps": ...}`: the epochs of the run, and the steps of one (None where
            `make_batch` has no end).
        model: The model that was trained; None where there are several.
    """

    def __init__(self) -> None:
        """Starts with no epoch."""
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}
        self.params: dict[str, int | None] = {}
        self.model: Any = None

    def begin(self, summary: Summary) -> None:
        """See `Logger`; nothing to do."""

    def write(self, record: Record) -> None:
        """See `Logger`: takes means of epochs and evaluations."""
        means = {
            name.removeprefix("epoch_"): value
            for name, value in record.values.items()
            if name.startswith("epoch_") or name.endswith("learning_rate")
        }
        if not means:
            return
        if not self.epoch or self.epoch[-1] != record.epoch:
            self.epoch.append(record.epoch)
            for series in self.history.values():
                series.append(float("nan"))
        prefix = {"train": "", "validation": "val_"}.get(record.split, f"{record.split}_")
        for name, value in means.items():
            missing = [float("nan")] * len(self.epoch)
            self.history.setdefault(prefix + name, missing)[-1] = value

    def offsets(self) -> dict[str, int]:
        """See `Logger`; there is no file."""
        return {}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """See `Logger`; it is made after the files were cut back."""

    def close(self) -> None:
        """See `Logger`; nothing to do."""
