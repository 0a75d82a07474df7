"""Checks the values that a checkpoint must hold before a run continues from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from looplab.checkpoint.safe_open import damaged
from looplab.runs.shapes import (
    EVALUATION,
    anything,
    count,
    either,
    fields,
    integer,
    items,
    logged,
    number,
    optional,
    table,
    text,
    whole,
)
from looplab.runs.terminal import printable

_EPOCHS = fields(
    {"length": count},
    {"examples": optional(whole), "begun": whole, "shift": integer, "surplus": integer},
    closed=True,
)
_PAIR = items(number, 2)
_PROGRESS = fields(
    {"step": whole, "settled": whole, "sums": table(either(_PAIR, items(_PAIR))), "top": items(EVALUATION)},
    {"incidents": whole, "epochs": optional(_EPOCHS), "seen": optional(whole), "logged": table(logged)},
)
# Later versions added the entries that are not required.
_VALUES = fields(
    {
        "progress": _PROGRESS,
        "callbacks": items(fields({"class": text, "state": anything})),
        "position": table(anything),
    },
    {
        "snapshot": optional(table(anything)),
        "execution": optional(fields({"mode": text, "micro_batches": whole})),
        "learning_rate_factors_before": table(optional(number)),
        "topology": fields({"replicas": whole}),
        "random": text,
        "config": table(anything),
        "lengths": table(anything),
        "code": optional(text),
        "fields": table(text),
        "seeds": items(items(integer, 2)),
        "initialized_from": optional(text),
        "fields_of_steps": fields(
            {
                "fields": items(fields({"place": items(text), "began": anything, "now": anything})),
                "trainable": table(text),
            }
        ),
    },
)
_MANIFEST = fields({"step": whole, "values": _VALUES, "logs": table(whole)})


def check(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuses a checkpoint whose manifest no version of looplab could have written.

    Args:
        path: Its folder.
        manifest: Its manifest.

    Raises:
        CheckpointError: If a run cannot continue from it.
    """
    try:
        _MANIFEST(manifest, "")
        progress = manifest["values"]["progress"]
        if not progress["settled"] <= progress["step"] == manifest["step"]:
            raise ValueError(
                f"values.progress is of step {progress['step']}, and settled up to {progress['settled']}, "
                f"in a checkpoint of step {manifest['step']}"
            )
    except ValueError as error:
        raise damaged(path, f"its manifest is damaged: {printable(str(error), 300)}.") from None
