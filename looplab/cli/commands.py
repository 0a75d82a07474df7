"""The list of commands: their names here, and the line that describes each in its own module's docstring."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

NAMES = ("train", "check", "inspect", "evaluate", "predict", "replay", "checkpoint")


def description(name: str) -> str:
    """Returns the line that describes a command, read from its source: the command is not imported.

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
