"""Lists the commands; the line that describes each is in the docstring of its own module."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

NAMES = ("train", "check", "inspect", "evaluate", "predict", "replay", "checkpoint")


def description(name: str) -> str:
    """Returns the line that describes a command, read from its source without an import.

    Args:
        name: One of `NAMES`.
    """
    spec = find_spec(f"looplab.{name}")
    assert spec is not None and spec.origin is not None, name
    source = Path(spec.origin)
    if spec.submodule_search_locations:
        source = source.with_name("__main__.py")
    docstring = ast.get_docstring(ast.parse(source.read_bytes()))
    assert docstring is not None, source
    return docstring.partition("\n")[0]
