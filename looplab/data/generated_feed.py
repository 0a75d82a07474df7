"""Feeds batches that the trainer makes itself, one per step: rollouts, replay, synthesis."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import tensorflow as tf

from looplab.checkpoint import state
from looplab.checkpoint.held_values import HeldValues
from looplab.errors import DataError
from looplab.execution.batches import Stacked
from looplab.strategy import tree


class GeneratedFeed:
    """The batches of `Trainer.make_batch(step)`, which it calls right before the step; see `Feed`.

    It never calls `make_batch` ahead of time, because a policy makes its data with its current weights. The
    first batch is the exception, since its shapes must be known: see `_FirstBatch`.

    Attributes:
        facts: What the batches depend on beside the step and variables, such as the seed.
    """

    max_take: int | None = 1
    waited, gives_rows = 0.0, True
    faster = (
        "make_batch runs on the host before each step, so only less work in it helps. If it computes one "
        "example after the other, have it compute all of a batch at once"
    )
    resumes = (
        "from the step and the trainer's variables, exactly only if make_batch depends on no other state"
    )

    def __init__(
        self,
        make_batch: Callable[[int], Any],
        steps_per_epoch: int | None,
        element_spec: Any = None,
        variables: Callable[[], state.Variables] = dict,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Calls `make_batch(0)` to learn the shapes, if they are not given.

        Args:
            make_batch: Returns one global batch, nested arrays, for a number of completed steps.
            steps_per_epoch: Steps of an epoch; None for one endless epoch.
            element_spec: The shapes, if they are known.
            variables: Gives those that `make_batch` may read and change, by path, as far as they are made.
            facts: What else the batches depend on, in JSON's types; part of the position.
        """
        self._make_batch = make_batch
        self.facts = {**(facts or {})}
        self.steps_per_epoch = steps_per_epoch
        self._step = 0
        self._first = None if element_spec else _FirstBatch(partial(self._made, 0), variables)
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
        if self._step > 0:
            self._first = None  # with all that it holds
        batch = None if self._first is None else self._first.take()
        batch = self._made(self._step) if batch is None else batch
        self.waited += time.monotonic() - began
        self._step += 1
        return Stacked(batch, tf.constant(tree.first(batch).shape[0]))

    def batch(self, step: int) -> Any:
        """See `Feed`. Calls `make_batch` again, unless it is the first batch and still at hand."""
        return self._made(step) if step or self._first is None else self._first.batch

    def _made(self, step: int) -> Any:
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
        return {"kind": "made", "step": step, **self.facts}

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


class _FirstBatch:
    """The batch of step 0, which is made before training begins, to learn the shapes.

    Its call of `make_batch` counts as that of step 0, so that there is one call for each step. Until then
    the variables that the call has changed are as they were before: a checkpoint of step 0 and a rehearsal
    must not hold them.

    Attributes:
        batch: The batch.
    """

    def __init__(self, make: Callable[[], Any], variables: Callable[[], state.Variables]) -> None:
        """Makes the batch, and puts all variables back.

        Args:
            make: Returns the batch.
            variables: As of `GeneratedFeed`.
        """
        known = variables()
        before = HeldValues(known)
        self.batch = make()
        self._after, self._changed = HeldValues(known), before.changed()
        before.put_back(self._changed)
        self._before = HeldValues(variables())  # with those of a model that the call has built

    def take(self) -> Any:
        """Changes variables as the call has done, and returns its batch; None if it must be made anew.

        It must where something else has changed since, such as the weights of a policy: the call would make
        another batch now.
        """
        if self._before.changed():
            return None
        self._after.put_back(self._changed)
        return self.batch
