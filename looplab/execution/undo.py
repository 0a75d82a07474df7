"""The state that is restored after a step fails, so that nothing of the step remains."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from looplab.execution.step_result import Guard, Result, are_finite
from looplab.runs import cause


@dataclass
class Undo:
    """The variables that steps change, each as its parts on every replica.

    Attributes:
        guarded: Whether steps fail if something is not finite.
        beside: The variables that a step changes in addition to the update, which it holds back if it fails.
        skipped: Those of them that a step which skips an update in float16 must not change either.
        changed: All changed variables, which are restored if updates are not held back.
        traces: Variables of optimizers in which a gradient that was not finite remains.
        afterwards: Whether steps cannot hold back their updates: their changes are undone afterwards.
    """

    guarded: bool = False
    beside: Sequence[tf.Variable] = ()
    skipped: Sequence[tf.Variable] = ()
    changed: Sequence[tf.Variable] = ()
    traces: Sequence[tf.Variable] = ()
    afterwards: bool = False

    def before(self, guard: Guard) -> list[tf.Tensor]:
        """Keeps the values that steps change; a value is copied only when a step changes it."""
        return [v.read_value() for v in self.changed] if guard in (Guard.SEE, Guard.SEE_LOSS) else []

    def finite(self, guard: Guard) -> tf.Tensor:
        """Whether all gradients of steps so far were finite, scalar bool."""
        return are_finite([v.read_value() for v in self.traces] if guard is Guard.SEE_LOSS else [])

    def put_back(self, values: Sequence[tf.Tensor]) -> None:
        """Restores the values from `before`."""
        for variable, value in zip(self.changed, values, strict=True):
            variable.assign(value)


class Output(NamedTuple):
    """The output of a loop in the graph.

    Attributes:
        result: The results of its steps, as series.
        before: The values at its start, if they may have to be restored.
        finite: Scalar bool, whether no changed variable shows that a gradient was not finite.
        waits: For a stream, the time that steps waited; see `looplab.execution.batches.Waits`.
        lengths: For a stream, the lengths of all axes of each batch, `[batches, axes]`, if requested.
        rows: For a stream, its batches, if it had to return them concatenated.
    """

    result: Result
    before: list[tf.Tensor]
    finite: tf.Tensor
    waits: Any = ()
    lengths: Any = ()
    rows: Any = ()

    def failed(self, count: int) -> int | None:
        """Returns the index of the first failed step among the first `count`, or None; on the host."""
        failures = np.asarray(self.result.failed)[:count]
        return int(failures.argmax()) if failures.any() else None


def giving_back(variables: Sequence[tf.Variable]) -> Callable[[], None]:
    """Reads variables inside a step, and returns a function that restores these values."""
    before = [variable.read_value() for variable in variables]

    def give_back() -> None:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)

    return give_back


@contextmanager
def placed(graph: tf.Graph | None) -> Iterator[None]:
    """Adds the place to errors of operations in a loop, which TensorFlow does not know.

    Args:
        graph: The trace of the step that the loop runs, or None.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if graph is not None and cause.of(error).frame is None:
            names = re.findall(r"Detected at node (\S+) defined at", str(error.message))
            frames = (_made(name, graph) for name in names)
            if (frame := next(filter(None, frames), None)) is not None:
                error.add_note(str(frame))
        raise


def _made(name: str, graph: tf.Graph) -> cause.Frame | None:
    """Returns where an operation was created, by its name in a loop, which function names precede."""
    parts = name.split("/")
    for first in range(len(parts)):
        try:
            operation = graph.get_operation_by_name("/".join(parts[first:]))
        except KeyError:
            continue
        stack = operation.traceback or ()
        return cause.own([cause.Frame(each.filename, each.lineno, each.name) for each in stack])
    return None
