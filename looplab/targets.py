"""What a configuration may name as a `_target_`: a decorator says so, and which arguments it must not decide.

This file imports nothing, so that models, layers and schedules may use it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar, overload

_MARK = "__looplab_target__"
T = TypeVar("T")


class Limits(NamedTuple):
    """Arguments of a target that a configuration file does not decide freely.

    Attributes:
        reads: Paths that are read: of the project, or of a folder that the user named.
        writes: Paths that are written: inside the run directory.
        user_only: Addresses, folders outside a run and whatever else only the user decides, on the command
            line, in Python or in `pyproject.toml`. The name of a `**` parameter stands for all that it takes.
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
    """Marks a function or a class as one that a configuration may name as a `_target_`.

    A function of a project needs the mark. A class needs it where it is not what its section takes by its
    base class, or where an argument is a path or an address: somebody else's experiment file then cannot
    choose it freely. A subclass keeps the limits of its bases. Nothing about the target changes.

        @looplab.configurable
        def points(count): ...

        @looplab.configurable(reads=("folder",), writes=("report",))
        class Labelled(looplab.Callback): ...

    The arguments of the decorator are tuples of names written out: they are read from the source, before
    anything is imported.

    Args:
        target: The function or class, where the decorator stands without arguments.
        reads: Its arguments that are paths it reads.
        writes: Its arguments that are paths it writes; a relative one is taken inside the run directory.
        user_only: Its arguments that no file gives, such as addresses.

    Returns:
        The target itself.
    """

    def mark(found: Any) -> Any:
        setattr(found, _MARK, Limits(frozenset(reads), frozenset(writes), frozenset(user_only)))
        return found

    return mark if target is None else mark(target)


def limits_of(found: Any) -> Limits | None:
    """Returns the limits that a function or a class was marked with itself; None if it was not marked."""
    own = vars(found).get(_MARK) if hasattr(found, "__dict__") else None
    return own if isinstance(own, Limits) else None
