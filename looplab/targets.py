"""The decorator that permits a `_target_` in a configuration, and restricts its arguments.

This file imports nothing, so that models, layers and schedules can use it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar, overload

_MARK = "__looplab_target__"
T = TypeVar("T")


class Limits(NamedTuple):
    """Arguments of a target that a configuration file does not decide freely.

    Attributes:
        reads: Arguments that are paths to read: inside the project, or in a folder that the user named.
        writes: Arguments that are paths to write: inside the run directory.
        user_only: Arguments that only the user sets, on the command line, in Python or in `pyproject.toml`:
            addresses, folders outside a run and the like. The name of a `**` parameter stands for every
            argument that it takes.
    """

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    user_only: frozenset[str] = frozenset()

    def __or__(self, other: Limits) -> Limits:
        """Returns the limits of both."""
        return Limits(*(mine | theirs for mine, theirs in zip(self, other, strict=True)))


@overload
def configurable(target: T, /) -> T: ...
@overload
def configurable(
    *, reads: tuple[str, ...] = (), writes: tuple[str, ...] = (), user_only: tuple[str, ...] = ()
) -> Any: ...
def configurable(
    target: Any = None,
    /,
    *,
    reads: tuple[str, ...] = (),
    writes: tuple[str, ...] = (),
    user_only: tuple[str, ...] = (),
) -> Any:
    """Marks a function or a class that a configuration may name as a `_target_`.

    A function of a project needs the mark. A class needs it if its base class is not what its section
    expects, or if an argument is a path or an address: then another person's experiment file cannot choose
    that argument freely. A subclass keeps the limits of its bases. The target itself does not change.

        @looplab.configurable
        def points(count): ...

        @looplab.configurable(reads=("folder",), writes=("report",))
        class Labelled(looplab.Callback): ...

    Write the arguments of the decorator as literal tuples of names: looplab reads them from the source,
    before it imports anything.

    Args:
        target: The function or class, if the decorator is used without arguments.
        reads: The names of arguments that are paths to read.
        writes: The names of arguments that are paths to write; a relative path is inside the run directory.
        user_only: The names of arguments that no file may set, such as addresses.

    Returns:
        The target itself.
    """

    def mark(found: Any) -> Any:
        setattr(found, _MARK, Limits(frozenset(reads), frozenset(writes), frozenset(user_only)))
        return found

    return mark if target is None else mark(target)


def limits_of(found: Any) -> Limits | None:
    """Returns the limits of a function's or a class's own mark; None if it was not marked."""
    own = vars(found).get(_MARK) if hasattr(found, "__dict__") else None
    return own if isinstance(own, Limits) else None
