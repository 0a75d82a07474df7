"""What there is to know, where a step fails, so that nothing of it remains."""

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
    """What steps change; each variable as its parts on every replica.

    Attributes:
        guarded: Whether steps fail where something is not finite.
        beside: What a step changes beside the update that it holds back if it fails.
        skipped: What of it a step that skips an update in float16 must not have changed either.
        changed: Everything, which is put back where updates are not held back.
        traces: Variables of optimizers in which a gradient that was not finite remains.
        afterwards: Whether steps cannot hold their updates back: what they change is put back after them.
    """

    guarded: bool = False
    beside: Sequence[tf.Variable] = ()
    skipped: Sequence[tf.Variable] = ()
    changed: Sequence[tf.Variable] = ()
    traces: Sequence[tf.Variable] = ()
    afterwards: bool = False

    def before(self, guard: Guard) -> list[tf.Tensor]:
        """Keeps what steps change, a reference until they do: nothing is copied before there is need."""
        return [v.read_value() for v in self.changed] if guard in (Guard.SEE, Guard.SEE_LOSS) else []

    def finite(self, guard: Guard) -> tf.Tensor:
        """Whether no step so far has seen a gradient that is not, scalar bool."""
        return are_finite([v.read_value() for v in self.traces] if guard is Guard.SEE_LOSS else [])

    def put_back(self, values: Sequence[tf.Tensor]) -> None:
        """Gives everything the values that it had `before`."""
        for variable, value in zip(self.changed, values, strict=True):
            variable.assign(value)


class Output(NamedTuple):
    """What a loop in the graph hands out.

    Attributes:
        result: What its steps come to, each a series.
        before: The values from which they began, if they may be put back.
        finite: Scalar bool, whether nothing they changed shows that a gradient was not finite.
        waits: Of a stream, for how long they waited; see `looplab.execution.batches.Waits`.
        lengths: Of a stream, those of all axes of each batch, `[batches, axes]`, where that is asked for.
        rows: Of a stream, its batches, where it had to be asked for them in one piece.
    """

    result: Result
    before: list[tf.Tensor]
    finite: tf.Tensor
    waits: Any = ()
    lengths: Any = ()
    rows: Any = ()

    def failed(self, count: int) -> int | None:
        """Returns which of the first steps failed, on the host."""
        failures = np.asarray(self.result.failed)[:count]
        return int(failures.argmax()) if failures.any() else None


def giving_back(variables: Sequence[tf.Variable]) -> Callable[[], None]:
    """Reads variables inside a step, and returns what gives them these values back."""
    before = [variable.read_value() for variable in variables]

    def give_back() -> None:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)

    return give_back


@contextmanager
def placed(graph: tf.Graph | None) -> Iterator[None]:
    """Notes on errors of operations where these were made: TensorFlow does not know it of those in a loop.

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
    """Returns where an operation was made, by its name within a loop: those of functions stand before it."""
    parts = name.split("/")
    for first in range(len(parts)):
        try:
            operation = graph.get_operation_by_name("/".join(parts[first:]))
        except KeyError:
            continue
        stack = operation.traceback or ()
        return cause.own([cause.Frame(each.filename, each.lineno, each.name) for each in stack])
    return None
