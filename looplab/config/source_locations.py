"""Finds where a key of a composed configuration was written: a word of the command line, a line of a file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from looplab.config.project_settings import TABLE, project_settings
from looplab.secret import redacted_word


@dataclass(frozen=True)
class File:
    """A file of which a configuration was composed.

    Attributes:
        path: The path of the file.
        package: The section to which its keys belong; empty for the whole configuration.
    """

    path: Path
    package: str


@dataclass(frozen=True)
class Origins:
    """The words and files of which a configuration was composed.

    Attributes:
        words: The words of the command line.
        files: The files in the order in which they were composed: later ones win.
    """

    words: Sequence[str] = ()
    files: Sequence[File] = ()

    def of(self, key: str) -> str:
        """Returns where a key was written, or its section if the key is missing; empty if nowhere.

        Args:
            key: A key such as `optimizer.learning_rate` or `metrics[0]._target_`.
        """
        parts = _parts(key)
        for length in range(len(parts), 0, -1):
            if found := self._word(parts[:length]) or self._line(parts[:length]):
                return found
        return ""

    def left_over(self, slot: str, key: str) -> File | None:
        """Returns the file from which an argument is left over, if something later replaced the `_target_`.

        Args:
            slot: The key of the section with the `_target_`.
            key: The key of the argument.
        """
        target, argument = _parts(f"{slot}._target_"), _parts(key)
        if self._word(argument):
            return None
        own = self._last(argument)
        later = len(self.files) if self._word(target) else self._last(target)
        return self.files[own] if 0 <= own < later else None

    def is_word(self, key: str) -> bool:
        """Returns whether a key was written on the command line."""
        return bool(self._word(_parts(key)))

    def _last(self, parts: list[str]) -> int:
        """Returns the index of the last file with a key, or -1."""
        found = (index for index, file in enumerate(self.files) if self._line_in(file, parts))
        return max(found, default=-1)

    def _word(self, parts: list[str]) -> str:
        for word in reversed(self.words):
            name, _, value = word.partition("=")
            given = name.lstrip("+~").split("@")[0].replace("/", ".").split(".")
            inside = parts[len(given) :]
            if given[: len(parts)] == parts or (
                given == parts[: len(given)] and all(part in value or part.isdigit() for part in inside)
            ):
                return from_word(word)
        return ""

    def file_of(self, key: str) -> File | None:
        """Returns the file that sets a key, unless a word does; None if there is none."""
        file, _ = self._found(_parts(key))
        return file

    def _line(self, parts: list[str]) -> str:
        file, line = self._found(parts)
        return f"{shown(file.path)}:{line}" if file is not None else ""

    def _found(self, parts: list[str]) -> tuple[File | None, int]:
        for file in reversed(self.files):
            if line := self._line_in(file, parts):
                return file, line
        return None, 0

    def _line_in(self, file: File, parts: list[str]) -> int:
        package = file.package.split(".") if file.package else []
        return line_of(file.path, parts[len(package) :]) if parts[: len(package)] == package else 0


def _parts(key: str) -> list[str]:
    return re.findall(r"[^.\[\]]+", key)


def from_word(word: str) -> str:
    """Returns the text for something written as a word of the command line, or in `pyproject.toml`."""
    key, _, value = word.removeprefix("++").partition("=")
    run_keys = project_settings().run_keys
    if word.startswith("++") and key in run_keys and json.dumps(run_keys[key]) == value:
        return f"in {TABLE}"
    return f"on the command line: {redacted_word(word)}"


def shown(path: Path) -> str:
    """Returns the shortest clear form of a path: relative to the working directory, if it is inside."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def line_of(path: Path, parts: Sequence[str]) -> int:
    """Returns the line of a nested key in a YAML file, from 1, or 0 if it is not there.

    Args:
        path: The file.
        parts: Names of keys, and indices of lists; empty for the whole file.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return 0
    line = 1
    for index, part in enumerate(parts):
        if isinstance(node, yaml.MappingNode):
            dotted = ".".join(parts[index:])  # a key with dots in its name
            for key, _ in node.value:
                if "." in dotted and key.value == dotted:
                    return int(key.start_mark.line) + 1
            pairs = [(key, value) for key, value in node.value if key.value == part]
            if not pairs:
                return 0
            key, node = pairs[-1]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            return 0
    return line
