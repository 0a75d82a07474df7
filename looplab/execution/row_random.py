"""Random numbers that follow the row: the same for a row of the global batch, however the batch is split.

Where the rows are in a draw is found before the step runs, by two looks at it: in its first trace, whose
batch may have any number of rows, and with another number. A draw whose first axis has the length of the rows
in both belongs to them. A draw of the same shape in both belongs to none, and is the same everywhere. Where
this does not tell, a third look with twice as many rows does. Any other draw cannot be placed; then the whole
step draws by replica, because half of such a promise is of no use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import tensorflow as tf

from looplab import strategy
from looplab.errors import LossError
from looplab.execution.moved_draws import Call, Part
from looplab.execution.random_looks import Look, Seen, Unplaced
from looplab.random import BY_ROW, SHARED, Layout, declared


class Draws(Protocol):
    """Makes the random draws of a step."""

    @property
    def generators(self) -> Sequence[Any]:
        """The seed generators that each part of an update starts from the same state."""

    def draw(self, call: Call, part: Part) -> tf.Tensor:
        """Makes a draw in a part of the step."""

    def advance(self, generator: Any, part: Part) -> None:
        """Notes that a seed generator is advanced."""


class Placed:
    """Gives each draw the numbers of its rows in the global batch.

    Attributes:
        generators: The seed generators that the step advances.
        count: The number of draws in the step.
    """

    def __init__(self, rules: Sequence[tuple[Seen, Layout]], generators: Sequence[Any]) -> None:
        """Stores the layout of each draw that the looks have seen."""
        self._rules, self.generators, self.count = rules, generators, len(rules)

    def draw(self, call: Call, part: Part) -> tf.Tensor:
        """Draws the numbers of the rows of this part."""
        layout = self._layout(call, part)
        return call.run() if layout == SHARED else call.of_rows(part.place, layout)

    def advance(self, generator: Any, part: Part) -> None:
        """Does nothing: the looks have found it."""

    def unclear(self) -> list[Seen]:
        """Returns the draws that are told apart from others only by their order."""
        return [
            seen
            for seen, layout in self._rules
            for other, another in self._rules
            if layout != another
            and (seen.part, seen.kind) == (other.part, other.kind)
            and _fit(seen.shape[1:], other.shape[1:])
        ]

    def _layout(self, call: Call, part: Part) -> Layout:
        key = call.kind, call.shape[1:]
        at = part.drawn[key] = part.drawn.get(key, -1) + 1
        if part.shares:
            return SHARED
        if (layout := declared()) is not None:
            return layout
        alike = [
            (seen, layout)
            for seen, layout in self._rules
            if (seen.part, seen.kind) == (part.name, call.kind) and _fit(seen.shape[1:], call.shape[1:])
        ]
        fitting = [
            layout for seen, layout in alike if layout != SHARED or _fit(seen.shape[:1], call.shape[:1])
        ]
        if len(set(fitting)) == 1:
            return fitting[0]
        if fitting and at < len(alike):
            return alike[at][1]
        raise LossError(
            f"a random draw of shape {_said(call.shape)} ({call}) in {part.name} was not there when looplab "
            f"looked at the step: it saw {', '.join(map(str, (s for s, _ in self._rules))) or 'no draw'}. "
            "Python must not decide by the number of rows, or in a gradient, what is drawn. Draw in each "
            "case; or use Trainer(random='replicas'), by which each replica draws numbers of its own."
        )


class Apart:
    """Gives each replica numbers of its own, although all have the same seeds."""

    generators: Sequence[Any] = ()

    def draw(self, call: Call, part: Part) -> tf.Tensor:
        """Draws with the index of the replica as a part of the seed."""
        context = tf.distribute.get_replica_context()
        return call.run() if context is None else call.apart(context.replica_id_in_sync_group)

    def advance(self, generator: Any, part: Part) -> None:
        """Does nothing: each replica advances its generators by the same calls."""


class Seeds:
    """The state of the seed generators when a loss begins; inside of a step, on each replica.

    Each slice of the batch draws from the same state, as the whole batch would, so the last one leaves the
    generators advanced once.
    """

    def __init__(self, draws: Draws | None) -> None:
        """Reads the state; nothing if draws are not placed."""
        generators = () if draws is None else draws.generators
        held = [strategy.local_part(strategy.unwrapped(own.state)) for own in generators]
        self._held = [(variable, variable.read_value()) for variable in held]

    def set_back(self) -> None:
        """Assigns the state again."""
        for variable, value in self._held:
            variable.assign(value)


def placed(small: Look, large: Look, *, in_python: bool = False) -> Placed | list[Unplaced]:
    """Decides, from two looks, where the rows are in each draw.

    Args:
        small: A look at the step with some rows, or with any number.
        large: A look with twice as many; after one with any number, a look with some.
        in_python: Whether the step runs in Python, not in a trace.

    Returns:
        What makes the draws; or, if one of them cannot be placed, all that cannot.
    """
    troubles = list(dict.fromkeys([*small.troubles, *large.troubles]))
    if troubles:
        return troubles
    if small.turns != large.turns or small.advances != large.advances:
        return [Unplaced("a seed generator", "is advanced as often as the number of rows says")]
    few, many = small.seen, large.seen
    loops = in_python and not _alike(few, many)
    if loops:  # with a draw in each of their turns, perhaps one for each row
        few, many = list(dict.fromkeys(few)), list(dict.fromkeys(many))
    if not _alike(few, many):
        count = f"{len(few)} draws for {small.rows} rows and {len(many)} for {large.rows}"
        return [Unplaced("the step", f"makes other draws for another number of rows ({count})")]
    rules, unplaced = [], list[Unplaced]()
    for one, other in zip(few, many, strict=True):
        layout = _found(one, other, small.rows, large.rows)
        if isinstance(layout, Layout):
            rules.append((one, layout))
        else:
            unplaced.append(Unplaced(str(one), layout))
    if unplaced:
        return list(dict.fromkeys(unplaced))
    found = Placed(rules, small.generators)
    if loops and (unclear := found.unclear()):
        return [Unplaced(str(one), "may be taken for another draw of its shape") for one in unclear]
    return found


def _alike(few: Sequence[Seen], many: Sequence[Seen]) -> bool:
    return [(seen.part, seen.kind) for seen in few] == [(seen.part, seen.kind) for seen in many]


def _found(one: Seen, other: Seen, few: int | None, many: int | None) -> Layout | str:
    """Returns the layout of a draw, or why it has none."""
    if one.trouble:
        return one.trouble
    if one.layout is not None:
        wrong = _misdeclared(one, few) or _misdeclared(other, many)
        return wrong or one.layout
    is_of_others = one.given != few or other.given != many
    if is_of_others and None not in (one.given, *one.shape[:1]) and one.shape[:1] == (one.given,):
        return f"is made in a loss for {one.given} of {few} rows, so its rows are not known"
    if one.shape == other.shape and None not in one.shape:
        return SHARED
    if one.shape[:1] == (few,) and other.shape[:1] == (many,) and one.shape[1:] == other.shape[1:]:
        return f"is made in a loss for {one.given} of {few} rows" if is_of_others else BY_ROW
    return (
        f"has the shape {_said(one.shape)} for {few} rows and {_said(other.shape)} for {many}, so its rows "
        "are not known (looplab.random.rows says where they are)"
    )


def _misdeclared(seen: Seen, rows: int | None) -> str:
    """Returns what is wrong with a declared layout, or an empty text."""
    layout = seen.layout
    if layout is None or layout.axis is None or rows is None:
        return ""
    length = seen.shape[layout.axis] if layout.axis < len(seen.shape) else 0
    whole = rows * layout.views
    if length is None or length == whole or (layout.folded and length and length % rows == 0):
        return ""
    return f"has the shape {_said(seen.shape)} for {rows} rows, which is not as {layout} declares"


def _fit(seen: Sequence[int | None], drawn: Sequence[int | None]) -> bool:
    """Whether two static shapes may be the same."""
    return len(seen) == len(drawn) and all(
        None in pair or pair[0] == pair[1] for pair in zip(seen, drawn, strict=True)
    )


def _said(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if length is None else str(length) for length in shape) + "]"
