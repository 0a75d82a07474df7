"""Feeds batches that the trainer makes itself, one per step: rollouts, replay, synthesis."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from looplab.errors import DataError
from looplab.execution.batches import Stacked
from looplab.strategy import tree


class GeneratedFeed:
    """The batches of `Trainer.make_batch(step)`, which it calls right before the step; see `Feed`.

    It never calls `make_batch` ahead of time, because a policy makes its data with its current weights.
    """

    max_take: int | None = 1
    waited, gives_rows = 0.0, True
    faster = "make_batch runs on the host before each step: make all examples of a batch in one call"
    resumes = "from the trainer's state"

    def __init__(
        self, make_batch: Callable[[int], Any], steps_per_epoch: int | None, element_spec: Any = None
    ) -> None:
        """Calls `make_batch(0)` to learn the shapes, if they are not given.

        Args:
            make_batch: Returns one global batch, nested arrays, for a number of completed steps.
            steps_per_epoch: Steps of an epoch; None for one endless epoch.
            element_spec: The shapes, if they are known.
        """
        self._make_batch = make_batch
        self.steps_per_epoch = steps_per_epoch
        self._step = 0
        self.element_spec = element_spec or tree.map_structure(
            lambda part: tf.TensorSpec([None, *part.shape[1:]], part.dtype), self.batch(0)
        )

    def place(self, step: int, *, begun: int, shift: int) -> int:
        """See `Feed`: `make_batch` counts the steps of the run."""
        return step

    def seek(self, step: int) -> None:
        """See `Feed`."""
        self._step = step

    def take(self, count: int) -> Any:
        """See `Feed`: one batch."""
        began = time.monotonic()
        batch = self.batch(self._step)
        self.waited += time.monotonic() - began
        self._step += 1
        return Stacked(batch, tf.constant(tree.first(batch).shape[0]))

    def batch(self, step: int) -> Any:
        """See `Feed`. Calls `make_batch` again."""
        batch = tree.map_structure(tf.convert_to_tensor, self._make_batch(step))
        if not tree.flatten(batch):
            raise DataError(
                f"make_batch({step}) returned {batch}; expected a batch: nested arrays with the same first "
                "axis."
            )
        return batch

    def rows(self, step: int) -> list[int] | None:
        """See `Feed`: not known."""
        return None

    def position(self, step: int) -> dict[str, Any]:
        """See `Feed`: the trainer's state holds all else that the batches depend on."""
        return {"kind": "made", "step": step}

    def snapshot(self, step: int) -> None:
        """See `Feed`: None, since the position is enough."""

    def resume_from(self, snapshot: Any) -> None:
        """See `Feed`."""

    def examples(self, step: int) -> int | None:
        """See `Feed`: not known before a batch is made."""
        return None

    def describe(self) -> str:
        """See `Feed`."""
        return "made by the trainer, one batch a step (make_batch)"
