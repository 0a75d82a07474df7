"""Labels out of range, found before training begins where all labels are at hand."""

from __future__ import annotations

import numpy as np

from looplab.data.indexed import IndexedFeed
from looplab.errors import DataError
from looplab.protocols import Feed


def check_labels(feed: Feed, classes: int, what: str) -> None:
    """Checks that all labels, of arrays in memory, are classes; of other data nothing is known yet.

    Args:
        feed: The data.
        classes: How many the model's output has; labels are from 0 to one less.
        what: `"training"` or the validation set's name.

    Raises:
        DataError: If one is not.
    """
    labels = feed.source.labels() if isinstance(feed, IndexedFeed) else None
    if labels is None:
        return
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{what} data: the label of row {row} (counted from 0) is {labels[row]}, and the model's output "
            f"has {classes} classes: expected 0 to {classes - 1}. {int(bad.sum())} of {len(labels)} rows are "
            "out of range."
        )
