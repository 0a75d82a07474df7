"""Finds what the words of a command line, and the project, set in a configuration; see `Said`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Sweep
from hydra.errors import OverrideParseException

from looplab.config.hydra_errors import options
from looplab.config.project_settings import project_settings
from looplab.config.said import Said


def said_by(words: Sequence[str]) -> Said:
    """Reads what words set.

    Args:
        words: Overrides of the command line, or of a call in Python; words that cannot be read are ignored.
    """
    keys, lists, folders = set[str](), set[str](), list[Path]()
    for word in words:
        try:
            (override,) = OverridesParser.create().parse_overrides([word])
        except OverrideParseException:
            continue
        key, value = override.key_or_group, override.value()
        values = list(value.list) if isinstance(value, Sweep) and hasattr(value, "list") else [value]
        texts = [text for each in values for text in _texts(each)]
        if "." in key and any(re.search(r"\$\{[^:}]*\}", text) for text in texts):
            continue  # an interpolation: the value comes from elsewhere in the configuration
        if not options(key) or not isinstance(value, str):  # an option's file may contain anything
            for each in values:
                _add(each, key, keys, lists)
        folders += [Path(os.path.abspath(os.path.expanduser(text))) for text in texts if _is_path(text)]
    project = project_settings()
    return Said(frozenset(keys), frozenset(lists), (*folders, *project.read), project.addresses)


def _add(value: Any, key: str, keys: set[str], lists: set[str]) -> None:
    """Adds the keys that a value sets; for a section its inner keys, since a file may set others in it."""
    if isinstance(value, dict):
        for name, each in value.items():
            _add(each, f"{key}.{name}", keys, lists)
    else:
        (lists if isinstance(value, list) else keys).add(key)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield str(value)


def _is_path(text: str) -> bool:
    """Returns whether a text names a place outside the working directory, but not the whole disk."""
    return (
        text.startswith(("/", "~", "..")) and len(Path(os.path.abspath(os.path.expanduser(text))).parts) > 1
    )
