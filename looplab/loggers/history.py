"""Keeps the values of every epoch in memory; `fit` returns them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from looplab.loggers.curves import Series, escaped, picture
from looplab.loggers.text import number
from looplab.protocols import Logger, Record, StepRecords, Summary
from looplab.runs.tags import EPOCH

_NAMES = 12  # the most names in a line, and the most pictures on a page
_NAME = '<td style="text-align: left">'


class History(Logger):
    """The values of every epoch by name, as in Keras' `History`. It is also a logger.

    As the last value of a notebook's cell, it shows its curves and the best values.

    Attributes:
        epoch: The epochs, from 0 as in Keras.
        params: `{"epochs": ..., "steps": ...}`: the epochs of the run, and the steps of an epoch (None if
            `make_batch` is endless).
        model: The trained model; None if there are several.
    """

    def __init__(self, earlier: History | None = None) -> None:
        """Starts without epochs, or with a copy of an earlier history."""
        self.epoch: list[int] = [] if earlier is None else [*earlier.epoch]
        self.params: dict[str, int | None] = {}
        self.model: Any = None
        self._train: dict[str, dict[int, float]] = {}  # by name and epoch
        self._evaluated: dict[str, dict[int, float]] = {}
        self._sets: dict[str, tuple[str, str]] = {}  # by name: the metric and its set
        if earlier is not None:
            self._train = {name: {**series} for name, series in earlier._train.items()}
            self._evaluated = {name: {**series} for name, series in earlier._evaluated.items()}
            self._sets = {**earlier._sets}

    @property
    def history(self) -> dict[str, list[float]]:
        """`{"loss": [...], "val_loss": [...]}`: a value for each epoch that has one, training first.

        As in Keras, a list is shorter than `epoch` if a set is not evaluated in every epoch. If an epoch has
        several evaluations of a set, or a callback logs several values, the last one counts.
        """
        return {name: list(series.values()) for name, series in (self._train | self._evaluated).items()}

    def begin(self, summary: Summary) -> None:
        """See `Logger`; nothing to do."""

    def write(self, record: Record) -> None:
        """See `Logger`: keeps the means of epochs and evaluations, and the numbers that callbacks log."""
        means = {
            name.removeprefix(EPOCH): value
            for name, value in record.values.items()
            if record.from_callbacks or name.startswith(EPOCH) or name.endswith("learning_rate")
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
            self._sets[prefix + name] = name, record.split

    def write_steps(self, records: StepRecords) -> None:
        """See `Logger`: keeps at most the values of an epoch's last step."""
        self.write(records.record(-1))

    def offsets(self) -> dict[str, int]:
        """See `Logger`; there is no file."""
        return {}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """See `Logger`; nothing to do, since looplab creates it after it has cut the files back."""

    def close(self) -> None:
        """See `Logger`; nothing to do."""

    def __repr__(self) -> str:
        """Returns one line: the number of epochs, and the last values."""
        values = [f"{name} {number(values[-1])}" for name, values in self.history.items()]
        more = [f"{len(values) - _NAMES} more"] if len(values) > _NAMES else []
        count = f"{len(self.epoch)} epoch{'s' * (len(self.epoch) != 1)}"
        return f"History({': '.join(filter(None, [count, ', '.join(values[:_NAMES] + more)]))})"

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: a picture for each metric, and a table."""
        series = self._train | self._evaluated
        pictures: dict[str, dict[str, Series]] = {}
        for name, values in series.items():
            measured, split = self._sets[name]
            pictures.setdefault(measured, {})[split] = values
        # Readers look last at the end of a page.
        names = sorted(pictures, key=lambda name: name.endswith("learning_rate"))
        shown = "".join(picture(name, pictures[name]) for name in names[:_NAMES])
        more = f"<p>{len(names) - _NAMES} more are in the table.</p>" if len(names) > _NAMES else ""
        count = f"{len(self.epoch)} epoch{'s' * (len(self.epoch) != 1)}"
        return f"<div><p><b>History</b>, {count}</p><div>{shown}</div>{more}{_table(series)}</div>"


def _table(series: Mapping[str, Series]) -> str:
    if not series:
        return ""
    heads = "".join(f"<th>{head}</th>" for head in ("", "last", "lowest", "in epoch", "highest", "in epoch"))
    rows = "".join(
        f"<tr>{_NAME}{escaped(name)}</td>{_extremes(values)}</tr>" for name, values in series.items()
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _extremes(values: Series) -> str:
    finite = {epoch: value for epoch, value in values.items() if math.isfinite(value)}
    cells = [number([*values.values()][-1])]
    for choose in (min, max):
        epoch = choose(finite, key=finite.__getitem__, default=None)
        cells += ["-", "-"] if epoch is None else [number(finite[epoch]), str(epoch + 1)]
    return "".join(f"<td>{cell}</td>" for cell in cells)
