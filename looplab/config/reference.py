"""The reference of all keys, and of all experiments, made from the schema and the files."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from looplab.config.paths import directory
from looplab.config.schema import Config
from looplab.config.validation import keys_of, kind_of

_WIDTH = 110


def keys() -> str:
    """Returns a line for each key: its name, default, what it takes and what it is for."""
    return "\n".join(_lines(Config, ""))


def experiments() -> str:
    """Returns a line for each experiment: its name and the first line that describes it."""
    files = {
        str(path.relative_to(folder).with_suffix("")): path
        for folder in (directory() / "experiment", Path.cwd() / "conf" / "experiment")  # one's own win
        for path in sorted(folder.rglob("*.yaml"))
    }
    width = max(map(len, files), default=0)
    return "\n".join(f"  {name:<{width}}  {_description(files[name])}" for name in sorted(files))


def documented(section: type) -> dict[str, str]:
    """Returns what the docstring of a section says of each of its keys."""
    text = inspect.cleandoc(section.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}


def _lines(section: type, prefix: str) -> list[str]:
    words, types = documented(section), keys_of(section)
    lines = []
    keys = [own for own in fields(section) if own.name in types]
    for own in sorted(keys, key=lambda own: is_dataclass(types[own.name])):  # sections last
        annotation: Any = types[own.name]
        if is_dataclass(annotation):
            lines += ["", f"{own.name}: {words[own.name]}", *_lines(annotation, f"{own.name}.")]  # type: ignore[arg-type]
            continue
        kind, may_be_null = kind_of(annotation)
        default = getattr(section(), own.name)
        shown = json.dumps(default).strip('"')
        what = kind.describe() + (" or null" if may_be_null and default is None else "")
        text = f"{words[own.name]} ({what})"
        head = f"  {prefix}{own.name}={shown}"
        body = textwrap.wrap(text, _WIDTH - 38)
        if len(head) > 36:
            lines.append(head)
            head = ""
        lines.append(f"{head:<38}{body[0]}")
        lines += [f"{'':38}{more}" for more in body[1:]]
    return lines


def _description(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @"):
            return re.sub(r"^\S+\.yaml: ", "", line.lstrip("# ").strip())
    return ""
