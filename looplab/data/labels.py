"""Finds labels that are out of range before training begins, if all labels are in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from looplab.data.class_weight import check_range
from looplab.data.indexed_feed import IndexedFeed
from looplab.errors import DataError
from looplab.protocols import Feed

_log = logging.getLogger("looplab")
_FEW = 100  # with more distinct labels than this, integers are counts rather than classes


def warn_of_unseen(labels: np.ndarray | None, class_weight: Mapping[Any, float]) -> None:
    """Warns about weights of classes that no training example has.

    Args:
        labels: The labels of the training examples, if they are known.
        class_weight: Weights by class.
    """
    seen = set() if labels is None else set(np.unique(labels).tolist())
    if labels is not None and (unseen := [label for label in class_weight if label not in seen]):
        _log.warning(
            "class_weight: no training example has the class %s; the classes in the data are %s",
            _listed(unseen),
            _listed(sorted(seen)),
        )


def warn_of_split(train: np.ndarray | None, held_out: np.ndarray | None, how: str, remedy: str) -> None:
    """Warns if one part of a split lacks classes of the other, as in data that is sorted by class.

    Args:
        train: The labels of the training part, if they are known.
        held_out: The labels of the held-out part, if they are known.
        how: The cause of the split, which begins the warning.
        remedy: The advice that ends the warning.
    """
    if train is None or held_out is None:
        return
    ours, theirs = (set(np.unique(labels).tolist()) for labels in (train, held_out))
    everyone = len(ours | theirs)
    if everyone > _FEW or 4 * everyone > len(train) + len(held_out):
        return
    lacks = [
        f"{who} lack the class {_listed(sorted(other - own))}"
        for who, own, other in (("training examples", ours, theirs), ("held-out examples", theirs, ours))
        if other - own
    ]
    if lacks:
        _log.warning("%s: the %s. %s", how, ", the ".join(lacks), remedy)


def _listed(labels: Iterable[Any]) -> str:
    several = [str(label) for label in labels]
    return ", ".join(several[:10]) + (f", ... ({len(several)} in all)" if len(several) > 10 else "")


def check_labels(feed: Feed, classes: int, what: str) -> None:
    """Checks that all labels of arrays in memory are valid classes, and that `class_weight` has no others.

    looplab does not know the labels of other data before it reads them.

    Args:
        feed: The data.
        classes: The number of classes of the model's output; labels are counted from 0.
        what: `"training"` or the validation set's name.

    Raises:
        DataError: If a label is out of range.
        ConfigurationError: If `class_weight` names a class that does not exist.
    """
    weighted = getattr(feed.source if isinstance(feed, IndexedFeed) else feed, "class_weight", None)
    if weighted:
        check_range(weighted, classes, "the model's output")
    if not isinstance(feed, IndexedFeed) or (labels := feed.source.labels()) is None:
        return
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        first = int(np.argmax(bad))
        row = feed.source.places(np.array([first]))[0]
        raise DataError(
            f"{what} data: the label of row {row} (counted from 0) is {labels[first]}, but the model's "
            f"output has {classes} classes: expected 0 to {classes - 1}. {int(bad.sum())} of {len(labels)} "
            "labels are out of range."
        )
