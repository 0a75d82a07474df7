"""Patterns over the paths of variables, as of parameter groups, `Freeze` and first weights."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from looplab.errors import nearest


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern is of a variable: of its whole path, or of a layer that it is in.

    The one grammar of parameter groups and `looplab.callbacks.Freeze`.

    Args:
        path: Of the variable, without the name of a single model: `encoder/conv/kernel`.
        pattern: With `*` (also over `/`), `?` and `[...]`: `*/kernel`, `encoder`, `encoder/conv*`.
    """
    parts = path.split("/")
    return any(fnmatchcase("/".join(parts[: count + 1]), pattern) for count in range(len(parts)))


def of_nothing(pattern: str, paths: Sequence[str]) -> str:
    """Returns what is said of a pattern that matches none of the variables with these paths."""
    layers = dict.fromkeys(path.rpartition("/")[0] for path in paths)
    inside = ["/".join(layer.split("/")[: n + 1]) for layer in layers for n in range(layer.count("/") + 1)]
    return (
        f"{pattern!r} matches no variable and no layer: variables are {listed(paths)}. A pattern (with *, "
        "? and [...]) is compared with their paths and with those of the layers they are in, such as "
        f"'*/bias' or '{inside[0] if inside and inside[0] else 'encoder'}'."
        + nearest(pattern, list(dict.fromkeys([*inside, *paths])))
    )


def listed(paths: Sequence[str]) -> str:
    """Returns the first paths of many in words."""
    return ", ".join(paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
