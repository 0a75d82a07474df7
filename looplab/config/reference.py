"""Makes the reference of all keys and all experiments from the schema and the files."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from looplab.config.paths import directory
from looplab.config.schema import Config
from looplab.config.validation import keys_of, kind_of

_WIDTH = 110


@dataclass(frozen=True)
class Key:
    """A key of the configuration.

    Attributes:
        name: The key with its section, `data.batch_size`.
        default: The default, as in a configuration.
        takes: The kind of value.
        meaning: Its meaning, from the docstring of its section.
    """

    name: str
    default: str
    takes: str
    meaning: str


@dataclass(frozen=True)
class Section:
    """A section of the configuration.

    Attributes:
        name: The name; empty for the whole configuration.
        meaning: Its meaning; empty for the whole configuration.
        keys: Its keys, without those of nested sections.
    """

    name: str
    meaning: str
    keys: Sequence[Key]


def sections() -> Iterator[Section]:
    """Yields every section of the configuration; the top-level keys come first."""
    yield from _sections(Config, "", "")


def keys() -> str:
    """Returns a line for each key: its name, default, kind of value, and meaning."""
    lines = []
    for section in sections():
        if section.name:
            lines += ["", f"{section.name}: {section.meaning}"]
        for key in section.keys:
            lines += _lines(key)
    return "\n".join(lines)


def experiments() -> str:
    """Returns a line for each experiment: its name and the first line that describes it."""
    files = {
        str(path.relative_to(folder).with_suffix("")): path
        for folder in (directory() / "experiment", Path.cwd() / "conf" / "experiment")  # the project's win
        for path in sorted(folder.rglob("*.yaml"))
    }
    width = max(map(len, files), default=0)
    return "\n".join(f"  {name:<{width}}  {next(iter(comment(files[name])), '')}" for name in sorted(files))


def documented(section: type) -> dict[str, str]:
    """Returns the description of each key from the docstring of a section."""
    text = inspect.cleandoc(section.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}


def comment(path: Path) -> list[str]:
    """Returns the lines of the first paragraph of the comment at the start of a configuration file."""
    found: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @"):
            continue
        text = line.lstrip("# ").strip()
        if not line.startswith("#") or not text:
            break
        found.append(text)
    if found:
        found[0] = re.sub(r"^\S+\.yaml: ", "", found[0])
    return found


def _sections(section: Any, name: str, meaning: str) -> Iterator[Section]:
    words, types, defaults = documented(section), keys_of(section), section()
    prefix = f"{name}." if name else ""
    found, inner = [], []
    for own in (own.name for own in fields(section) if own.name in types):
        annotation: Any = types[own]
        if is_dataclass(annotation):
            inner.append((annotation, f"{prefix}{own}", words[own]))
            continue
        kind, may_be_null = kind_of(annotation)
        default = getattr(defaults, own)
        takes = kind.describe() + (" or null" if may_be_null and default is None else "")
        found.append(Key(f"{prefix}{own}", json.dumps(default).strip('"'), takes, words[own]))
    yield Section(name, meaning, found)
    for each in inner:
        yield from _sections(*each)


def _lines(key: Key) -> list[str]:
    head = f"  {key.name}={key.default}"
    body = textwrap.wrap(f"{key.meaning} ({key.takes})", _WIDTH - 38)
    lines = []
    if len(head) > 36:
        lines.append(head)
        head = ""
    return [*lines, f"{head:<38}{body[0]}", *(f"{'':38}{more}" for more in body[1:])]
