"""Keeps Keras' masks with their tensors through an `if`, `for` or `while` over tensors.

Keras attaches a mask to the tensor that a layer returns, and the next layer reads it there. The result of a
condition or a loop of the graph is another tensor without the attribute: the mask would be lost silently, and
the update would differ from that in Python. So looplab passes a mask beside its tensor, as a separate value.
If a tensor has a mask in one branch only, all of it counts in the other branch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python.autograph.operators import conditional_expressions, control_flow

from looplab.compat import patches
from looplab.execution.inline_functions import is_within


class LostMask(NotImplementedError):
    """A conditional expression over tensors returns a tensor with a mask, and loses its mask."""


class _Masked(Exception):
    """A value has a mask that is not yet passed along.

    Attributes:
        ranks: The mask's rank, by the index of its tensor among the values.
    """

    ag_pass_through = True

    def __init__(self, ranks: dict[int, int]) -> None:
        super().__init__(ranks)
        self.ranks = ranks


@contextmanager
def carried() -> Iterator[None]:
    """Passes masks through control flow within the block, in looplab's steps."""
    with (
        patches.patched(
            "tensorflow.python.autograph.operators.control_flow._tf_if_stmt", control_flow, _if_stmt
        ),
        patches.patched(
            "tensorflow.python.autograph.operators.control_flow._tf_while_stmt", control_flow, _while_stmt
        ),
        patches.patched(
            "tensorflow.python.autograph.operators.conditional_expressions._tf_if_exp",
            conditional_expressions,
            _if_exp,
        ),
    ):
        yield


def _if_stmt(original: Callable[..., Any]) -> Callable[..., Any]:
    def if_stmt(cond: Any, body: Any, orelse: Any, get: Any, put: Any, names: Any, count: int) -> Any:
        def attempt(state: _State) -> Any:
            branches = state.watched(body), state.watched(orelse)
            return original(cond, *branches, state.get, state.put, state.names, state.count)

        if not is_within():
            return original(cond, body, orelse, get, put, names, count)
        return _with_masks(attempt, get, put, names, count)

    return if_stmt


def _while_stmt(original: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function that traces every loop over tensors, including `for`."""

    def while_stmt(test: Any, body: Any, get: Any, put: Any, names: Any, options: Any) -> Any:
        def attempt(state: _State) -> Any:
            return original(test, state.watched(body), state.get, state.put, state.names, dict(options))

        if not is_within():
            return original(test, body, get, put, names, options)
        return _with_masks(attempt, get, put, names, len(names))

    return while_stmt


def _if_exp(original: Callable[..., Any]) -> Callable[..., Any]:
    def if_exp(cond: Any, if_true: Any, if_false: Any, text: Any) -> Any:
        def unmasked(branch: Callable[[], Any]) -> Any:
            value = branch()
            if is_within() and any(_mask(part) is not None for part in tf.nest.flatten(value)):
                raise LostMask(text)
            return value

        return original(cond, lambda: unmasked(if_true), lambda: unmasked(if_false), text)

    return if_exp


def _with_masks(
    attempt: Callable[[_State], Any], get: Any, put: Any, names: tuple[str, ...], count: int
) -> Any:
    """Traces control flow, and traces it again for each new mask among its results."""
    before = get()
    ranks = {
        index: mask.shape.rank
        for index, value in enumerate(before[:count])
        if (mask := _mask(value)) is not None
    }
    while True:
        try:
            return attempt(_State(get, put, names, count, ranks))
        except _Masked as found:
            ranks = {**ranks, **found.ranks}
            put(before)


class _State:
    """The values that control flow changes; after its results follow the masks of some of them.

    Attributes:
        names: The names of all values.
        count: The number of results.
    """

    def __init__(self, get: Any, put: Any, names: tuple[str, ...], count: int, ranks: dict[int, int]) -> None:
        self._get, self._put, self._own, self._ranks = get, put, count, dict(sorted(ranks.items()))
        masks = tuple(f"the mask of {names[index]}" for index in self._ranks)
        self.names, self.count = (*names[:count], *masks, *names[count:]), count + len(masks)

    def get(self) -> tuple[Any, ...]:
        """Returns the values."""
        values = self._get()
        masks = [_mask_or_all(values[index], rank) for index, rank in self._ranks.items()]
        return (*values[: self._own], *masks, *values[self._own :])

    def put(self, values: Any) -> None:
        """Sets the values, and attaches each mask to its tensor again."""
        values = tuple(values)
        for index, mask in zip(self._ranks, values[self._own : self.count], strict=True):
            if _is_tensor(values[index]) and _is_tensor(mask):
                values[index]._keras_mask = mask
        self._put((*values[: self._own], *values[self.count :]))

    def watched(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a branch or loop body that raises `_Masked` for a mask that is not yet passed along."""

        def watched(*arguments: Any) -> Any:
            result = body(*arguments)
            masks = {index: _mask(value) for index, value in enumerate(self._get()[: self._own])}
            new = {
                i: mask.shape.rank for i, mask in masks.items() if mask is not None and i not in self._ranks
            }
            if new:
                raise _Masked(new)
            return result

        return watched


def _mask(value: Any) -> Any:
    return getattr(value, "_keras_mask", None) if _is_tensor(value) else None


def _mask_or_all(value: Any, rank: int) -> Any:
    """Returns the mask of a tensor, or a mask of ones; returns a value that is not a tensor unchanged."""
    if not _is_tensor(value):
        return value
    if (mask := _mask(value)) is not None:
        return mask
    whole = tf.ones(tf.shape(value)[:rank], tf.bool)
    whole.set_shape(value.shape[:rank])
    return whole


def _is_tensor(value: Any) -> bool:
    return isinstance(value, tf.Tensor)  # an unassigned name claims every attribute of a tensor
