"""Several sets of data as one source of a configuration."""

from __future__ import annotations

from typing import Any


def splits(train: Any, **others: Any) -> dict[str, Any]:
    """Returns sets of data by name, as a `data.source` has them.

    Args:
        train: Training data, as of `Trainer.fit`.
        **others: Validation sets by name: `validation`, or others beside it. None is left out.
    """
    return {"train": train, **{name: data for name, data in others.items() if data is not None}}
