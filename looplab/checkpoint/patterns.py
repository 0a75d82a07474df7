"""Matches patterns against the paths of variables, for parameter groups, `Freeze` and initial weights."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from looplab.errors import nearest


def matches(path: str, pattern: str) -> bool:
    """Returns whether a pattern matches a variable: its whole path, or the path of a layer that contains it.

    Parameter groups and `looplab.callbacks.Freeze` use the same grammar.

    Args:
        path: The path of the variable, without the name of a single model: `encoder/conv/kernel`.
        pattern: A pattern with `*` (also over `/`), `?` and `[...]`: `*/kernel`, `encoder`, `encoder/conv*`.
    """
    parts = path.split("/")
    return any(fnmatchcase("/".join(parts[: count + 1]), pattern) for count in range(len(parts)))


def of_nothing(pattern: str, paths: Sequence[str]) -> str:
    """Returns the message for a pattern that matches none of the variables with these paths."""
    layers = dict.fromkeys(path.rpartition("/")[0] for path in paths)
    inside = ["/".join(layer.split("/")[: n + 1]) for layer in layers for n in range(layer.count("/") + 1)]
    return (
        f"{pattern!r} matches no variable and no layer: variables are {listed(paths)}. A pattern (with *, "
        "? and [...]) is compared with their paths and with the paths of their layers, such as "
        f"'*/bias' or '{inside[0] if inside and inside[0] else 'encoder'}'."
        + nearest(pattern, list(dict.fromkeys([*inside, *paths])))
    )


def listed(paths: Sequence[str]) -> str:
    """Returns the first of many paths as a text."""
    return ", ".join(paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
