"""Functions that TensorFlow traced again: how often, and which property of the batches had changed."""

from __future__ import annotations

import logging
from typing import Any

import keras

from looplab.execution.batches import Taken, rows_spec, words

_log = logging.getLogger("looplab")
_NAMES = {0: "the inputs", 1: "the targets", 2: "the weights"}


class Retraces:
    """Warns once for each further kind of batch for which the steps of one purpose were traced.

    The number of examples in a batch does not matter: a trace serves any number, and the additional trace for
    a feed whose batches all have one size is part of its start.

    Attributes:
        count: The number of warnings.
    """

    def __init__(self, purpose: str) -> None:
        """Starts before the first trace.

        Args:
            purpose: The name of what is traced, for messages: `"training"`.
        """
        self.count = 0
        self._purpose, self._known = purpose, list[Any]()

    def note(self, taken: Taken, general: Any) -> None:
        """Records that something was traced for these batches.

        Args:
            taken: From `Feed.take`.
            general: The type of all batches of the feed. An axis that is open there is no change.
        """
        spec = rows_spec(taken, general)
        if spec in self._known:
            return
        if self._known:
            self.count += 1
            _log.warning(
                "%s was traced again: %s. Each change costs this time again: give all batches one shape and "
                "type, padded if they differ.",
                self._purpose,
                "; ".join(_changes(self._known[-1], spec)),
            )
        self._known.append(spec)


def _changes(before: Any, now: Any) -> list[str]:
    """Returns each argument that changed, with its old and new type."""
    old, new = (dict(named(spec)) for spec in (before, now))
    if set(old) != set(new):
        return [f"a batch was {words(before)} and is {words(now)}"]
    return [
        f"{name} were {words(old[name])} and are {words(new[name])}" for name in new if old[name] != new[name]
    ]


def named(spec: Any) -> list[tuple[str, Any]]:
    """Returns the parts of a batch by name; a batch that is not a tuple consists of inputs.

    Args:
        spec: The parts: tensors, arrays or their types.
    """
    whole = spec if isinstance(spec, tuple) else (spec,)
    return [
        ("/".join([_NAMES.get(first, str(first)), *map(str, rest)]), part)
        for (first, *rest), part in keras.tree.flatten_with_path(whole)
    ]
