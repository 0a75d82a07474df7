"""Keras' masks through an `if`, `for` or `while` over tensors: they come out of it with their tensors.

Keras hangs a mask on the tensor that a layer gives, and the next layer takes it from there. What comes out of
a condition or a loop of the graph is another tensor, with nothing on it: the mask would be lost without a
word, and the update be another one than in Python. So a mask travels beside its tensor, as a value of its
own. Where a tensor has a mask one way and none the other, all of it counts there.
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
    """A tensor with a mask comes out of a conditional expression over tensors, and its mask does not."""


class _Masked(Exception):
    """A value has a mask that does not travel yet.

    Attributes:
        ranks: The mask's rank, by the place of its tensor among the values.
    """

    ag_pass_through = True

    def __init__(self, ranks: dict[int, int]) -> None:
        super().__init__(ranks)
        self.ranks = ranks


@contextmanager
def carried() -> Iterator[None]:
    """Has masks travel through control flow within the block, in the steps of looplab."""
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
    """Returns what every loop over tensors is traced by, a `for` too."""

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
    """Traces control flow, again for each mask that turns out to come out of it."""
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
    """The values that control flow changes, and behind those that come out of it the masks of some.

    Attributes:
        names: Of all of them.
        count: How many come out.
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
        """Takes the values, each mask on its tensor again."""
        values = tuple(values)
        for index, mask in zip(self._ranks, values[self._own : self.count], strict=True):
            if _is_tensor(values[index]) and _is_tensor(mask):
                values[index]._keras_mask = mask
        self._put((*values[: self._own], *values[self.count :]))

    def watched(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a branch or a turn that says of a mask which does not travel yet."""

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
    """Returns the mask of a tensor, all of it where it has none; what is no tensor (yet) itself."""
    if not _is_tensor(value):
        return value
    if (mask := _mask(value)) is not None:
        return mask
    whole = tf.ones(tf.shape(value)[:rank], tf.bool)
    whole.set_shape(value.shape[:rank])
    return whole


def _is_tensor(value: Any) -> bool:
    return isinstance(value, tf.Tensor)  # what is not assigned yet claims to have what any tensor has
