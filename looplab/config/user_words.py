"""What words of a command line, and the project, say of a configuration; see `Said`."""

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
    """Reads what words say.

    Args:
        words: Overrides of the command line, or of a call in Python; what cannot be read is left out.
    """
    keys, sections, folders = set(), set(), []
    for word in words:
        try:
            (override,) = OverridesParser.create().parse_overrides([word])
        except OverrideParseException:
            continue
        key, value = override.key_or_group, override.value()
        values = list(value.list) if isinstance(value, Sweep) and hasattr(value, "list") else [value]
        texts = [text for each in values for text in _texts(each)]
        if "." in key and any(re.search(r"\$\{[^:}]*\}", text) for text in texts):
            continue  # the value of an argument comes from elsewhere in the configuration
        if any(isinstance(each, dict | list) for each in values):
            sections.add(key)
        elif not options(key):  # the file of an option may say anything
            keys.add(key)
        folders += [Path(os.path.abspath(os.path.expanduser(text))) for text in texts if _is_path(text)]
    project = project_settings()
    return Said(frozenset(keys), frozenset(sections), (*folders, *project.read), project.addresses)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield str(value)


def _is_path(text: str) -> bool:
    """Whether a text names a place outside the working directory, but not the whole disk."""
    return (
        text.startswith(("/", "~", "..")) and len(Path(os.path.abspath(os.path.expanduser(text))).parts) > 1
    )
