"""Tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(r"(`[^`]*`)")
_SPECIAL = re.compile(r"[*<\\]|(?<!\w)_|_(?!\w)")  # inside a word, an underscore is one


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table whose cells are plain text with code in single backticks.

    Args:
        header: The name of each column.
        rows: As many cells in each.
    """
    lines = [header, ["---"] * len(header), *([cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """Returns text in which Markdown reads code and links only."""
    parts = _CODE.split(text)
    plain = [part if part.startswith("`") else _SPECIAL.sub(r"\\\g<0>", part) for part in parts]
    return "".join(plain).replace("|", "\\|")
