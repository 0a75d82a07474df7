"""The order in which looplab calls callbacks."""

from __future__ import annotations

from collections.abc import Sequence

from looplab.callbacks.base import Callback


def in_order(callbacks: Sequence[Callback]) -> list[Callback]:
    """Returns callbacks in the given order, except that each comes after those that log what it waits for.

    Callbacks that wait for each other keep the given order.
    """
    left, found = list(callbacks), list[Callback]()
    while left:
        found.append(next((one for one in left if not _waits(one, left)), left[0]))
        left = [one for one in left if one is not found[-1]]
    return found


def _waits(callback: Callback, others: Sequence[Callback]) -> bool:
    """Whether another callback logs a value that a callback waits for."""
    return any(set(callback.monitors) & set(one.produces) for one in others if one is not callback)
