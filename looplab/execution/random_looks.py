"""Sees the random draws of a step in a trace of it, and what in them cannot follow the rows of the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from looplab.checkpoint import state
from looplab.execution import loop_bounds
from looplab.execution.graph_operations import graph_of, line_of
from looplab.execution.moved_draws import STEP, UNPLACED, Call, Part, named
from looplab.execution.random_operations import drawing
from looplab.execution.recomputed import is_recomputed
from looplab.random import SHARED, Layout, declared

_REASONS = {
    "RngReadAndSkip": "is of a tf.random.Generator, whose state depends on how many numbers were drawn",
}
_UNSEEDED = "draws from a state that no seed determines"
_UNSEEN = "is not drawn by tf.random.stateless_* or keras.random"
# They order or choose elements along an axis.
_ORDER = {"TopKV2", "ArgMax", "ArgMin"}
_SAME_PLACES = {"Identity", "Cast", "Neg", "StopGradient", "Transpose", "Reshape", "ExpandDims", "Squeeze"}
_MOST = 50  # operations that are followed from a draw


class Seen(NamedTuple):
    """A draw that a look has seen.

    Attributes:
        part: The name of the part of the step.
        kind: The name of the kernel.
        shape: The static shape of the result, with None where a length is not known.
        given: The number of rows that its part of the step was given; None if it is not known.
        layout: What the step declares; None if nothing.
        where: The user's line, if it is known.
        trouble: Why it cannot be placed, whatever its shape is.
    """

    part: str
    kind: str
    shape: tuple[int | None, ...]
    given: int | None
    layout: Layout | None
    where: str
    trouble: str

    def __str__(self) -> str:
        """Returns a description."""
        return f"{named(self.kind)}{self.where and ' at '}{self.where}"


class Unplaced(NamedTuple):
    """A draw, or another part of the step, that cannot be placed, and the reason."""

    what: str
    why: str

    def __str__(self) -> str:
        """Returns a description."""
        return f"{self.what} {self.why}"


class Look:
    """Sees the draws of a trace with a number of rows, and makes them as TensorFlow does.

    Attributes:
        rows: The number of rows; None for any number.
        seen: The draws in their order.
        generators: The seed generators that are advanced.
        advances: How often they are advanced, a loop of the graph counted once.
        turns: What determines how often loops advance them.
        troubles: What cannot be placed.
    """

    def __init__(self, rows: int | None, *, creates: bool = False) -> None:
        """Has seen nothing yet.

        Args:
            rows: The number of rows; None for any number.
            creates: Whether the trace creates variables, and does not know the places of rows.
        """
        self.rows, self._creates = rows, creates
        self.seen: list[Seen] = []
        self.generators: list[Any] = []
        self.advances = 0
        self.turns: list[Any] = []
        self.troubles: list[Unplaced] = []
        self._operations: list[tf.Operation] = []
        self._inside: list[tuple[Any, Any, Any]] = []  # generator, graph of the loop, graph of the step

    @property
    def types(self) -> set[str]:
        """The types of the operations that draw."""
        return {operation.type for operation in self._operations}

    def draw(self, call: Call, part: Part) -> tf.Tensor:
        """Draws, and notes the shape."""
        result, where, trouble = call.run(), "", ""
        if self._is_of_a_variable():
            return result
        if not tf.executing_eagerly():
            where = line_of(result.op)
            self._operations.append(result.op)
        if call.kind in UNPLACED:
            trouble = UNPLACED[call.kind]
        elif is_recomputed():
            trouble = "is made again in the backward pass (keras.remat, tf.recompute_grad)"
        elif not _is_inline(part.graph):
            trouble = "is in a function whose trace is used again (tf.vectorized_map?)"
        layout = SHARED if part.shares else declared()
        given = self.rows if self._creates else tf.get_static_value(part.place.rows)
        self.seen.append(
            Seen(
                part.name,
                call.kind,
                tuple(result.shape),
                None if given is None else int(given),
                layout,
                where,
                trouble,
            )
        )
        return result

    def advance(self, generator: Any, part: Part) -> None:
        """Notes a seed generator, and whether a loop or a condition advances it."""
        if self._is_of_a_variable():
            return
        if all(generator is not other for other in self.generators):
            self.generators.append(generator)
        self.advances += 1
        graph = tf.compat.v1.get_default_graph()
        if graph is not part.graph and not tf.executing_eagerly():
            self._inside.append((generator, graph, part.graph))

    def _is_of_a_variable(self) -> bool:
        """Whether a draw is an initial value: a trace lifts these out of itself."""
        return self._creates and tf.executing_eagerly()

    def finish(self, graph: tf.Graph) -> None:
        """Finds in the whole trace what cannot be placed; not for a step that ran in Python."""
        for generator, inner, outer in self._inside:
            turns = _turns(inner, outer)
            self.turns.append(turns)
            if turns is None:
                name = getattr(generator, "name", type(generator).__name__)
                why = "is advanced in a condition, or in a loop whose length depends on values"
                self.troubles.append(Unplaced(f"the seed generator {name!r}", why))
        self.troubles += self._unseen(graph)
        self.troubles += self._moving(graph)
        if self.rows is not None:
            self.troubles += self._ordered(self.rows)

    def _unseen(self, graph: tf.Graph) -> Iterator[Unplaced]:
        """Yields the draws that were not made by the functions that looplab can move."""
        seen = {id(operation) for operation in self._operations}
        counts = Counter(operation.type for operation in self._operations)
        found = list(drawing(graph))
        present = Counter(operation.type for operation, _, _ in found)
        of_generator = "RngReadAndSkip" in present
        for operation, within, seeded in found:
            kind = operation.type
            if id(operation) in seen or present[kind] <= counts[kind]:
                continue
            if of_generator and kind != "RngReadAndSkip" and seeded:
                continue  # the numbers that it reads for
            where = line_of(operation, within)
            why = _REASONS.get(kind, _UNSEEN if seeded else _UNSEEDED)
            yield Unplaced(f"{named(kind)}{where and ' at '}{where}", why)

    def _moving(self, graph: tf.Graph) -> Iterator[Unplaced]:
        """Yields the draws of losses whose seed comes from a variable that the step changes, not a generator.

        Only generators are set back between micro-batches.
        """
        of_generators = {id(part.handle) for own in self.generators for part in state.parts(own.state)}
        held = {id(inside) for outside, inside in graph.captures if id(outside) in of_generators}
        assigned = {
            id(operation.inputs[0])
            for operation in graph.get_operations()
            if operation.type.startswith("Assign") and operation.type.endswith("VariableOp")
        }
        for operation, seen in zip(self._operations, self.seen, strict=True):
            if seen.part == STEP or operation.graph is not graph:
                continue
            for handle in _variables(operation):
                if id(handle) in assigned - held:
                    yield Unplaced(
                        str(seen), f"has a seed from a variable that the step changes ({handle.name})"
                    )

    def _ordered(self, rows: int) -> Iterator[Unplaced]:
        """Yields the draws whose numbers order or choose rows, as in a shuffle."""
        for operation in self._operations:
            if operation.outputs[0].shape[:1] == [rows] and _orders(operation, rows):
                where = line_of(operation)
                why = "orders or chooses among the rows of each replica and micro-batch alone"
                yield Unplaced(f"{named(operation.type)}{where and ' at '}{where}", why)


def _is_inline(outer: Any) -> bool:
    """Whether the present graph is a graph, or a branch or loop in it."""
    graph = tf.compat.v1.get_default_graph()
    while graph is not outer:
        if not getattr(graph, "is_control_flow_graph", False):
            return False
        graph = graph.outer_graph
    return True


def _turns(inner: Any, outer: Any) -> tuple[Any, ...] | None:
    """Returns what determines how often a graph in a loop runs; None if values or a condition do."""
    found: list[Any] = []
    while inner is not outer:
        above = inner.outer_graph
        caller = next((op for op in above.get_operations() if _calls(op, inner)), None)
        turns = None if caller is None else loop_bounds.turns(caller)
        if turns is None:
            return None
        found.append(turns)
        inner = above
    return tuple(found)


def _calls(operation: tf.Operation, graph: Any) -> bool:
    return (
        operation.type.endswith("While")
        and graph_of(operation.graph, operation.get_attr("body").name) is graph
    )


def _variables(draw: tf.Operation) -> Iterator[tf.Tensor]:
    """Yields the variables that a draw's seed is computed from; its shape and arrays do not count."""
    seeds = [own for own in draw.inputs if own.dtype in (tf.uint64, tf.int32, tf.int64)][1:]
    todo, known = [own.op for own in seeds], set[str]()
    while todo:
        operation = todo.pop()
        if operation.name in known:
            continue
        known.add(operation.name)
        if operation.type == "ReadVariableOp":
            yield operation.inputs[0]
        todo += [own.op for own in operation.inputs]


def _orders(draw: tf.Operation, rows: int) -> bool:
    """Whether elements along an axis of `rows` are ordered or chosen by a draw's numbers."""
    todo, known = list(draw.outputs), set[str]()
    while todo and len(known) < _MOST:
        tensor = todo.pop()
        for user in tensor.consumers():
            if user.name in known:
                continue
            known.add(user.name)
            if user.type in _ORDER:
                shape = user.inputs[0].shape
                axis = -1 if user.type == "TopKV2" else tf.get_static_value(user.inputs[1])
                if shape.rank is None or axis is None or shape[int(axis)] in (rows, None):
                    return True
            elif user.type in _SAME_PLACES or any(out.shape == tensor.shape for out in user.outputs):
                todo += user.outputs
    return False
