"""The values of every epoch, in memory: what `fit` returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from looplab.protocols import Logger, Record, StepRecords, Summary


class History(Logger):
    """The values of every epoch by name, as Keras' `History`; a logger like any other.

    Attributes:
        epoch: The epochs, from 0 as in Keras.
        params: `{"epochs": ..., "steps": ...}`: the epochs of the run, and the steps of one (None where
            `make_batch` has no end).
        model: The model that was trained; None where there are several.
    """

    def __init__(self, earlier: History | None = None) -> None:
        """Starts with no epoch, or with those of an earlier history, which does not change with it."""
        self.epoch: list[int] = [] if earlier is None else [*earlier.epoch]
        self.params: dict[str, int | None] = {}
        self.model: Any = None
        self._train: dict[str, dict[int, float]] = {}  # by name and epoch
        self._evaluated: dict[str, dict[int, float]] = {}
        if earlier is not None:
            self._train = {name: {**series} for name, series in earlier._train.items()}
            self._evaluated = {name: {**series} for name, series in earlier._evaluated.items()}

    @property
    def history(self) -> dict[str, list[float]]:
        """`{"loss": [...], "val_loss": [...]}`: a value for each epoch that has one, those of training first.

        As in Keras a list is shorter than `epoch` where a set is not evaluated in every epoch. Of several
        evaluations within an epoch the last one stands.
        """
        return {name: list(series.values()) for name, series in (self._train | self._evaluated).items()}

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
        epoch = record.epoch - 1
        if epoch not in self.epoch:
            self.epoch.append(epoch)
        prefix = {"train": "", "validation": "val_"}.get(record.split, f"{record.split}_")
        named = self._train if record.split == "train" else self._evaluated
        for name, value in means.items():
            named.setdefault(prefix + name, {})[epoch] = value

    def write_steps(self, records: StepRecords) -> None:
        """See `Logger`: of what a step gives at most the last of an epoch stands."""
        self.write(records.record(-1))

    def offsets(self) -> dict[str, int]:
        """See `Logger`; there is no file."""
        return {}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """See `Logger`; it is made after the files were cut back."""

    def close(self) -> None:
        """See `Logger`; nothing to do."""
