"""Attributes of others' objects are replaced here, and nowhere else; one switch turns all of it off.

The switch is the environment variable `LOOPLAB_PATCHES`, read when looplab is imported. `on` is the default;
with `off` nothing of Keras or TensorFlow is replaced. looplab then still trains, in float32 on one device. A
setting that needs a patch to be right is refused by name; `looplab.compat.registry` says so for each patch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from looplab.compat.registry import PRIVATE_USES

VARIABLE = "LOOPLAB_PATCHES"
SETTING = os.environ.get(VARIABLE) or "on"
# Is said of a setting that is refused.
NEEDED = f"needs looplab's patches of Keras and TensorFlow: unset {VARIABLE}, or do without it."

_PATCHES = {f"{use.owner}.{name}" for use in PRIVATE_USES if use.without for name in use.names}

_lock = threading.Lock()
# By the owner's id and the attribute's name, for attributes that are replaced for a time: how many blocks are
# within, and the original.
_replaced: dict[tuple[int, str], tuple[int, Any]] = {}


def are_on() -> bool:
    """Whether patches are applied."""
    return SETTING != "off"


def lines() -> list[tuple[str, str]]:
    """Returns what a plan says of the switch, as `(label, text)`: nothing where patches are on."""
    if are_on():
        return []
    effects = "XLA draws other random numbers than the graph, AutoGraph translates no tf.function in a step"
    return [("patches", f"off ({VARIABLE}): {effects}")]


def patch(what: str, owner: Any, replacement: Any) -> None:
    """Replaces an attribute for good; does nothing where patches are off.

    Args:
        what: The dotted name of the attribute, which the registry has as a patch.
        owner: The module, class or object that has it.
        replacement: What takes its place.

    Raises:
        KeyError: If the registry has no such patch.
    """
    name = _attribute(what)
    if are_on():
        setattr(owner, name, replacement)


def unpatch(what: str, owner: Any) -> None:
    """Takes back what `patch` has put on an object: its class's attribute counts again.

    Args:
        what: As of `patch`.
        owner: The object; one that was not patched stays as it is.

    Raises:
        KeyError: As of `patch`.
    """
    vars(owner).pop(_attribute(what), None)


@contextmanager
def patched(what: str, owner: Any, make: Callable[[Any], Any]) -> Iterator[None]:
    """Replaces an attribute within the block; does nothing where patches are off.

    The replacement holds for all threads. Blocks may be nested, and threads may be within at the same time:
    they share the replacement of the first, and the last one that leaves puts the original back.

    Args:
        what: As of `patch`.
        owner: As of `patch`.
        make: Makes the replacement of the original.

    Raises:
        KeyError: As of `patch`.
    """
    name = _attribute(what)
    if not are_on():
        yield
        return
    key = id(owner), name
    with _lock:
        within, original = _replaced.get(key, (0, getattr(owner, name)))
        if not within:
            setattr(owner, name, make(original))
        _replaced[key] = within + 1, original
    try:
        yield
    finally:
        with _lock:
            within, original = _replaced.pop(key)
            if within > 1:
                _replaced[key] = within - 1, original
            else:
                setattr(owner, name, original)


def _attribute(what: str) -> str:
    if what not in _PATCHES:
        raise KeyError(
            f"looplab.compat.registry has no patch {what!r}; there are {', '.join(sorted(_PATCHES))}."
        )
    return what.rpartition(".")[2]
