"""Describes data: shapes, an example, ranges, classes, and the rate of the input."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from looplab.data.arrays import name_of
from looplab.data.feeds import split_batch
from looplab.data.read_errors import explained
from looplab.execution.batches import batch_at, words
from looplab.protocols import Feed
from looplab.strategy import tree

_CLASSES = 20  # up to this number all classes are shown; of more, the rarest and the most frequent
Line = tuple[str, str]


def look(feed: Feed, seconds: float = 1.0) -> list[Line]:
    """Reads data as training would, and describes it; on the host.

    Args:
        feed: The data.
        seconds: The time to measure the rate; the rest takes three times as long, but at most one pass.

    Returns:
        `(label, text)` in reading order.

    Raises:
        DataError: If the data cannot be read.
    """
    rate = _rate(feed, seconds)
    parts: dict[str, _Part] = {}
    labels: Counter[int] | None = Counter()
    examples = 0
    example: list[Line] = []
    for batch in _batches(feed, 3 * seconds):
        leaves = _leaves(batch)
        example = example or [(f"example: {name}", _value(array[0])) for name, array in leaves]
        examples += len(leaves[0][1])
        for name, array in leaves:
            parts.setdefault(name, _Part()).add(array)
        targets = split_batch(batch)[1]
        classes = (
            isinstance(targets, np.ndarray) and targets.dtype.kind in "iu" and targets.size == len(targets)
        )
        if classes and labels is not None:
            labels.update(targets.ravel().tolist())
        else:
            labels = None
    lines = [("data", feed.describe()), ("batch", words(feed.element_spec)), *example]
    lines += [(f"values: {name}", part.describe()) for name, part in parts.items() if part.count]
    if labels:
        lines.append(("classes", _balance(labels)))
    return [*lines, ("looked at", f"{examples} examples"), ("rate", rate)]


class _Part:
    """The range of the values of one part of the examples."""

    def __init__(self) -> None:
        self.count = self.bad = 0
        self.least, self.most, self.total = np.inf, -np.inf, 0.0

    def add(self, array: np.ndarray) -> None:
        if array.dtype.kind not in "biuf":
            return
        good = array[np.isfinite(array)] if array.dtype.kind == "f" else array
        self.count += array.size
        self.bad += array.size - good.size
        if good.size:
            self.least, self.most = min(self.least, good.min()), max(self.most, good.max())
            self.total += float(good.sum(dtype=np.float64))

    def describe(self) -> str:
        if self.bad == self.count:
            return f"none of {self.count} values is finite"
        mean = self.total / (self.count - self.bad)
        bad = f"; {self.bad} of {self.count} values are not finite" if self.bad else ""
        return f"from {self.least:.6g} to {self.most:.6g}, mean {mean:.4g}{bad}"


def _batches(feed: Feed, seconds: float) -> Iterator[Any]:
    """Yields batches as arrays: at least one, for some seconds, and at most one pass."""
    until, number = time.monotonic() + seconds, 0
    feed.seek(0)
    while number == 0 or (number < (feed.steps_per_epoch or 1) and time.monotonic() < until):
        with explained(feed, number, 1):
            batch = batch_at(feed.take(1), 0)
        yield tree.map_structure(lambda part: part.numpy(), batch)
        number += 1


def _rate(feed: Feed, seconds: float) -> str:
    feed.seek(0)
    with explained(feed, 0, 1):
        batch_at(feed.take(1), 0)  # one-time costs do not count
    began, number, examples = time.perf_counter(), 0, 0
    while number == 0 or time.perf_counter() - began < seconds:
        with explained(feed, number + 1, 1):
            batch = batch_at(feed.take(1), 0)
        number += 1
        examples += int(tree.first(batch).shape[0])
    passed = time.perf_counter() - began
    return f"{number / passed:.4g} batches/s, {examples / passed:.4g} examples/s, input only"


def _leaves(batch: Any) -> list[tuple[str, np.ndarray]]:
    return [(name_of(path), part) for path, part in tree.flatten_with_path(batch)]


def _value(array: Any) -> str:
    """Returns one example of a part as a shortened text."""
    array = np.asarray(array)
    if array.ndim == 0:
        return repr(array.item())
    shape = " x ".join(map(str, array.shape))
    few = ", ".join(f"{v:.5g}" if isinstance(v, float) else repr(v) for v in array.ravel()[:6].tolist())
    return f"{shape}: {few}{', ...' if array.size > 6 else ''}"


def _balance(labels: Counter[int]) -> str:
    total = labels.total()
    said = [f"{label}: {count} ({count / total:.1%})" for label, count in sorted(labels.items())]
    if len(labels) > _CLASSES:
        ranked = [f"{label}: {count} ({count / total:.1%})" for label, count in labels.most_common()]
        return f"{len(labels)}; most {', '.join(ranked[:5])}; least {', '.join(ranked[-5:])}"
    return f"{len(labels)}; " + ", ".join(said)
