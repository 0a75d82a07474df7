"""Random draws of some rows of a batch, with the numbers that a draw for the whole batch has for these rows.

A kernel with Philox (Salmon et al. 2011) numbers the elements of a draw flat, in row-major order: `group`
elements come from one position of a counter, and the next group from the position `advance` further
(`core/lib/random/random_distributions.h` in TensorFlow). So the rows from `first` on have the same numbers if
the counter starts at their position. Other kernels know only a seed: they draw for the whole batch, of which
the rows are taken.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.ops import stateless_random_ops

from looplab.compat import patches
from looplab.random import Layout


class _Moves(NamedTuple):
    """How the counter of a kernel moves; the second of two numbers is for types of 64 bits."""

    group: tuple[int, int]
    advance: tuple[int, int]


_SIMPLE = _Moves((4, 2), (1, 1))
_BY_COUNTER = {
    "stateless_random_uniform_v2": _SIMPLE,
    "stateless_random_normal_v2": _SIMPLE,
    "stateless_random_uniform_full_int_v2": _SIMPLE,
    "stateless_random_uniform_int_v2": _SIMPLE,
    "stateless_truncated_normal_v2": _Moves((4, 2), (256, 128)),
    "stateless_random_gamma_v3": _Moves((1, 1), (256, 256)),
}
# The arrays that a kernel takes; a number that is valid there, for the rows of other parts.
_ARRAYS: dict[str, dict[str, float]] = {
    "stateless_multinomial": {"logits": 0},
    "stateless_random_binomial": {"counts": 1, "probs": 0.5},
    "stateless_random_poisson": {"lam": 1},
    "stateless_random_gamma_v3": {"alpha": 1},
}
# The numbers of a row depend on other rows.
UNPLACED = {
    "stateless_shuffle": "orders the rows of each replica and micro-batch alone",
    "stateless_parameterized_truncated_normal": "draws for a row after what it rejected for the rows before",
}
STEP = "the step"  # the name of the part that is no loss
_DRAWS = {*_BY_COUNTER, *_ARRAYS, *UNPLACED}


class Place(NamedTuple):
    """The place of some rows in the global batch.

    Attributes:
        first: The index of the first row; scalar, a Python number where it is known.
        rows: The number of rows; scalar.
        whole: The number of rows of the global batch; scalar.
    """

    first: Any = 0
    rows: Any = 0
    whole: Any = 0

    def pieces(self, rows: Any, count: int) -> list[Place]:
        """Returns the places of contiguous slices of these rows, as `strategy.rows` cuts them.

        Args:
            rows: The number of rows to cut.
            count: The number of slices.
        """
        limits = [index * rows // count for index in range(count)] + [rows]
        begins = [self.first, *(self.first + begin for begin in limits[1:-1])]
        lengths = [end - begin for begin, end in pairwise(limits)]
        return [Place(*own, self.whole) for own in zip(begins, lengths, strict=True)]


@dataclass
class Part:
    """A part of a step while it is traced or runs: its own code, or one of its losses.

    Attributes:
        name: `STEP`, or such as `"loss 1"`.
        place: The place of its rows in the global batch.
        shares: Whether no draw in it belongs to a row, as in an update of weights.
        graph: The graph in which it began.
        drawn: The number of draws so far, by kind and shape.
    """

    name: str
    place: Place = field(default_factory=Place)
    shares: bool = False
    graph: Any = field(default_factory=tf.compat.v1.get_default_graph)
    drawn: dict[Any, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """A call of a kernel that draws random numbers.

    Attributes:
        kind: The name of the kernel.
        kernel: The kernel.
        arguments: Its arguments by name.
    """

    kind: str
    kernel: Callable[..., Any]
    arguments: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The static shape of the result."""
        if "num_samples" in self.arguments:
            count = tf.get_static_value(self.arguments["num_samples"])
            return (*self.lengths[:1], None if count is None else int(count))
        return tuple(self.lengths)

    def __str__(self) -> str:
        """Returns a word for the kernel."""
        return named(self.kind)

    def run(self) -> tf.Tensor:
        """Draws as TensorFlow does."""
        return self.kernel(**self.arguments)

    def apart(self, replica: Any) -> tf.Tensor:
        """Draws numbers of this replica's own.

        Args:
            replica: The index of the replica; the first draws as TensorFlow does.
        """
        if "counter" not in self.arguments:
            seed = tf.random.experimental.stateless_fold_in(self.arguments["seed"], replica)
            return self._with(seed=tf.where(replica > 0, seed, self.arguments["seed"]))
        low, high = tf.unstack(self.arguments["counter"], 2)
        return self._with(counter=tf.stack([low, high + tf.cast(replica, tf.uint64)]))

    def of_rows(self, place: Place, layout: Layout) -> tf.Tensor:
        """Draws the numbers of some rows of the global batch.

        Args:
            place: The rows.
            layout: Where rows are in the result.
        """
        if not self._is_flat or layout.axis or layout.views > 1:
            return self._of_whole(place, layout)
        if isinstance(place.first, int) and place.first == 0:
            return self.run()
        return self._moved(place.first * self._folds(place, layout))

    @property
    def _is_flat(self) -> bool:
        """Whether its numbers follow each other in the order of the elements."""
        if self.kind not in _BY_COUNTER:
            return False
        alpha = self.arguments.get("alpha")
        return alpha is None or alpha.shape.rank in (0, len(self.lengths))

    def _moved(self, first: Any) -> tf.Tensor:
        """Draws from a place in the first axis on."""
        moves, wide = _BY_COUNTER[self.kind], int(self._dtype.size == 8)
        group, advance = moves.group[wide], moves.advance[wide]
        shape = self.arguments["shape"]
        lengths = self.lengths
        width = None if None in lengths[1:] else _product(lengths[1:])
        offset = tf.cast(first, tf.int64) * (_size(shape[1:]) if width is None else width)
        low, high = tf.unstack(self.arguments["counter"], 2)
        counter = tf.stack([low + tf.cast(offset // group * advance, tf.uint64), high])
        if group == 1 or (width is not None and width % group == 0):
            return self._with(counter=counter)
        size = tf.cast(_size(shape) if None in lengths else _product(lengths), shape.dtype)
        drawn = self._with(counter=counter, shape=tf.reshape(size + (group - 1), [1]))
        skipped = tf.cast(offset % group, shape.dtype)
        return tf.reshape(tf.slice(drawn, tf.reshape(skipped, [1]), tf.reshape(size, [1])), shape)

    def _of_whole(self, place: Place, layout: Layout) -> tf.Tensor:
        """Draws for the whole batch, and takes the rows of this place."""
        axis, views, folds = layout.axis, layout.views, self._folds(place, layout)
        assert axis is not None
        first, rows, whole = (tf.cast(part, tf.int32) * folds for part in place)
        rank = len(self.lengths)
        changed: dict[str, Any] = {}
        if "shape" in self.arguments:
            shape = tf.cast(self.arguments["shape"], tf.int32)
            shape = tf.concat([shape[:axis], [views * whole], shape[axis + 1 :]], axis=0)
            changed["shape"] = tf.cast(shape, self.arguments["shape"].dtype)
        for name, filling in _ARRAYS.get(self.kind, {}).items():
            values = tf.convert_to_tensor(self.arguments[name])
            own = axis - rank + (values.shape.rank or 0)
            is_of_all = own < 0 or (values.shape[own] == 1 and self.lengths[axis] != 1)
            if not is_of_all:
                parts = _split(values, own, views)
                widths: list[Any] = [[0, 0]] * parts.shape.rank
                widths[own + 1] = [first, whole - first - rows]
                parts = tf.pad(parts, widths, constant_values=tf.cast(filling, values.dtype))
                changed[name] = _joined(parts, own)
        drawn = _split(self._with(**changed), axis, views)
        begin, size = [0] * (drawn.shape.rank or 0), [-1] * (drawn.shape.rank or 0)
        begin[axis + 1], size[axis + 1] = first, rows
        found = _joined(tf.slice(drawn, begin, size), axis)
        if "shape" in self.arguments:
            found = tf.reshape(found, self.arguments["shape"])
        return found

    def _folds(self, place: Place, layout: Layout) -> Any:
        """Returns the number of elements of the row axis for one row of one view."""
        if not layout.folded:
            return 1
        length = tf.cast(tf.convert_to_tensor(self.arguments["shape"])[layout.axis], tf.int32)
        return length // tf.maximum(1, tf.cast(place.rows, tf.int32))

    def _with(self, **changed: Any) -> tf.Tensor:
        return self.kernel(**{**self.arguments, **changed})

    @property
    def _dtype(self) -> tf.DType:
        for name in ("dtype", "minval", "alpha"):
            if name in self.arguments:
                value = self.arguments[name]
                return value.dtype if tf.is_tensor(value) else tf.as_dtype(value)
        return tf.float32

    @cached_property
    def lengths(self) -> list[int | None]:
        """The lengths of the axes of the result (of the logits for categories), as far as they are known."""
        if "shape" not in self.arguments:
            return list(tf.convert_to_tensor(self.arguments["logits"]).shape)
        known = tf.get_static_value(self.arguments["shape"], partial=True)
        if known is None:
            return [None] * int(self.arguments["shape"].shape[0])
        return [None if length is None else int(length) for length in known]


def named(kind: str) -> str:
    """Returns a word for a kernel or a type of operation that draws."""
    word = kind.removeprefix("stateless_").removeprefix("random_").removeprefix("Stateless")
    return word.removeprefix("Random").removesuffix("_v2").removesuffix("_v3").removesuffix("V2").lower()


def install(drawn: Callable[[Call], tf.Tensor]) -> None:
    """Lets a function make every seeded draw of this process; once, when looplab is imported.

    Args:
        drawn: Makes the draw of a call.
    """
    old, new = stateless_random_ops.gen_stateless_random_ops, stateless_random_ops.gen_stateless_random_ops_v2
    patches.patch(
        "tensorflow.python.ops.stateless_random_ops.gen_stateless_random_ops",
        stateless_random_ops,
        _Kernels(old, drawn),
    )
    patches.patch(
        "tensorflow.python.ops.stateless_random_ops.gen_stateless_random_ops_v2",
        stateless_random_ops,
        _Kernels(new, drawn),
    )


class _Kernels:
    """Stands for a module of kernels: its draws go through a function."""

    def __init__(self, module: Any, drawn: Callable[[Call], tf.Tensor]) -> None:
        self._module, self._drawn = module, drawn
        self._signatures = {
            name: inspect.signature(getattr(module, name)) for name in _DRAWS if hasattr(module, name)
        }

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(self._module, name)  # now: a trace for XLA replaces some of them for a time
        if name not in _DRAWS:
            return kernel
        return partial(self._draw, name, kernel)

    def _draw(self, kind: str, kernel: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        bound = self._signatures[kind].bind(*arguments, **named)
        return self._drawn(Call(kind, kernel, bound.arguments))


def _split(values: tf.Tensor, axis: int, views: int) -> tf.Tensor:
    """Splits an axis into views and the elements of each; the views become the axis before it."""
    shape = tf.shape(values)
    length = shape[axis] // views if values.shape[axis] is None else values.shape[axis] // views
    outer = tf.concat([shape[:axis], [views, length], shape[axis + 1 :]], axis=0)
    return tf.reshape(values, outer)


def _joined(parts: tf.Tensor, axis: int) -> tf.Tensor:
    shape = tf.shape(parts)
    return tf.reshape(
        parts, tf.concat([shape[:axis], [shape[axis] * shape[axis + 1]], shape[axis + 2 :]], axis=0)
    )


def _size(shape: Any) -> tf.Tensor:
    return tf.reduce_prod(tf.cast(shape, tf.int64))


def _product(lengths: list[Any]) -> int:
    found = 1
    for length in lengths:
        found *= length
    return found
