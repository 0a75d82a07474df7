"""Replaces attributes of other packages, which no other module does; one switch turns all of it off.

The switch is the environment variable `LOOPLAB_PATCHES`, read when looplab is imported. `on` is the default;
with `off` nothing of Keras or TensorFlow is replaced. looplab then still trains, in float32 on one device. A
setting that needs a patch is refused by name; `looplab.compat.registry` lists the effect for each patch.
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
# The text for a refused setting.
NEEDED = f"needs looplab's patches of Keras and TensorFlow: unset {VARIABLE}, or do without it."

_PATCHES = {f"{use.owner}.{name}" for use in PRIVATE_USES if use.without for name in use.names}

_lock = threading.Lock()
# For attributes that are replaced for a time, by the owner's id and the attribute's name: the number of open
# blocks, and the original.
_replaced: dict[tuple[int, str], tuple[int, Any]] = {}


def are_on() -> bool:
    """Returns whether patches are applied."""
    return SETTING != "off"


def lines() -> list[tuple[str, str]]:
    """Returns the lines of a plan about the switch, as `(label, text)`: none if patches are on."""
    if are_on():
        return []
    effects = "XLA draws other random numbers than the graph, AutoGraph translates no tf.function in a step"
    return [("patches", f"off ({VARIABLE}): {effects}")]


def patch(what: str, owner: Any, replacement: Any) -> None:
    """Replaces an attribute permanently; does nothing if patches are off.

    Args:
        what: The dotted name of the attribute, which the registry lists as a patch.
        owner: The module, class or object that has it.
        replacement: The new value.

    Raises:
        KeyError: If the registry has no such patch.
    """
    name = _attribute(what)
    if are_on():
        setattr(owner, name, replacement)


def unpatch(what: str, owner: Any) -> None:
    """Removes what `patch` has set on an object, so that the attribute of its class counts again.

    Args:
        what: See `patch`.
        owner: The object; an object without the patch stays unchanged.

    Raises:
        KeyError: See `patch`.
    """
    vars(owner).pop(_attribute(what), None)


@contextmanager
def patched(what: str, owner: Any, make: Callable[[Any], Any]) -> Iterator[None]:
    """Replaces an attribute within the block; does nothing if patches are off.

    The replacement holds for all threads. Blocks may be nested, and several threads may be in blocks at the
    same time: they share the replacement of the first, and the last one to leave restores the original.

    Args:
        what: See `patch`.
        owner: See `patch`.
        make: Makes the replacement from the original.

    Raises:
        KeyError: See `patch`.
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
