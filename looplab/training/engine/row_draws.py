"""How the steps of an engine draw random numbers: by the row of the global batch, or by replica."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from looplab.compat import patches
from looplab.execution import xla_random
from looplab.execution.random_looks import Look, Unplaced
from looplab.execution.row_random import Apart, Draws, Placed, placed
from looplab.execution.unseeded_draws import Unseeded
from looplab.runs import cause
from looplab.training.audit.global_generators import GlobalGenerators

_log = logging.getLogger("looplab")

BY_ROW, BY_REPLICA = "rows", "replicas"


class RowDraws:
    """Decides, for each kind of step, how it draws random numbers.

    Attributes:
        rule: `"rows"` if the numbers follow the row of the global batch, `"replicas"` if each replica draws
            numbers of its own.
        unseeded: Makes the draws of `keras.random` without a seed.
        others_in_xla: The types of operations of training that draw other numbers in XLA.
        why: Why they cannot follow the row although that was asked for; empty if they can.
    """

    def __init__(self, setting: str) -> None:
        """Begins with the rule that was asked for.

        Args:
            setting: `"rows"` or `"replicas"`.
        """
        self.rule, self.why = setting, tuple[Unplaced, ...]()
        self.others_in_xla: list[str] = []
        self.unseeded = Unseeded()
        self._draws: dict[str, Draws] = {}
        self._was_asked = False  # for numbers by replica, and a step draws

    def of(self, purpose: str) -> Draws | None:
        """Returns what makes the draws of a kind of step; None if TensorFlow does."""
        return self._draws.get(purpose) if self.rule == BY_ROW else None

    def look(
        self,
        purpose: str,
        first: Look | None,
        rows: int,
        trace: Callable[[Draws, int], tf.Graph | None],
        *,
        in_xla: bool,
    ) -> bool:
        """Finds the rows in the draws of a step, by a further look at it with another number of rows.

        Args:
            purpose: `"train"`, `"test"` or `"predict"`.
            first: What the first trace has seen; None if it ran in Python.
            rows: Another number of rows.
            trace: Traces the step with a number of rows (or runs it eagerly, without a graph).
            in_xla: Whether XLA compiles the draws.

        Returns:
            Whether training follows the other rule from here on.
        """
        self._draws.pop(purpose, None)
        if self.rule == BY_REPLICA:
            self._was_asked = not self.why
            return False
        if not patches.are_on():
            return self._by_replica([Unplaced("a draw", f"is not moved with {patches.VARIABLE}=off")])
        small, large, process = Look(rows), Look(2 * rows), GlobalGenerators()
        found: Placed | Sequence[Unplaced] = ()
        look = small
        try:
            in_python = _take(look, trace)
            if first is not None:
                found = placed(first, small)
            if not isinstance(found, Placed):  # a length that is not known where rows are not
                look = large
                _take(look, trace)
                found = placed(small, large, in_python=in_python)
        except Exception as error:
            why = f"cannot be traced with {look.rows} rows: {cause.of(error).sentence}"
            found = [Unplaced("the step", why)]
        if chosen := process.drawn():
            names = " and ".join(sorted(chosen))
            found = [Unplaced("the step", f"draws from {names} global generator when it is traced")]
        if purpose == "train":
            self.others_in_xla = xla_random.others_in_xla(small.types)
        if in_xla and (others := xla_random.others_in_xla(small.types)):
            found = [Unplaced(kind, "draws other numbers in XLA") for kind in others]
        if isinstance(found, Placed):
            if found.count or found.generators:
                self._draws[purpose] = found
        elif purpose == "train":
            return self._by_replica(found)
        else:
            self._draws[purpose] = Apart()
        return False

    def follow_replicas(self, why: str) -> None:
        """Draws by replica from here on, as a run did that is continued."""
        self._by_replica([Unplaced("the run", why)])

    def line(self) -> Iterator[tuple[str, str]]:
        """Yields the line of a plan, as `(label, text)`; none if nothing is drawn on several parts."""
        train = self._draws.get("train")
        if self._was_asked:
            text = "by replica, as random='replicas' says; other replicas or micro-batches draw others"
            yield "random numbers", text
        elif self.why:
            more = f" (and {len(self.why) - 1} more)" if len(self.why) > 1 else ""
            text = f"by replica, since {self.why[0]}{more}; other replicas or micro-batches draw others"
            yield "random numbers", text
        elif isinstance(train, Placed) and self.rule == BY_ROW:
            count = f"{train.count} draw{'s' * (train.count != 1)}"
            yield "random numbers", f"by row ({count}); weights do not depend on replicas or micro-batches"

    def _by_replica(self, why: Sequence[Unplaced]) -> bool:
        self.rule, self.why = BY_REPLICA, tuple(why)
        return True


def _take(look: Look, trace: Callable[[Draws, int], tf.Graph | None]) -> bool:
    """Looks at a trace; returns whether the step ran in Python instead."""
    assert look.rows is not None
    if (graph := trace(look, look.rows)) is not None:
        look.finish(graph)
    return graph is None
