"""Supports `callbacks=[{_target_: ...}]` on the command line; Hydra takes a list of options only."""

from __future__ import annotations

import json
import re
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

_WORD = re.compile(r"(\+{0,2})(callbacks|loggers\.more)=\[")
# Words that leave out all sections of files: null, merged last, replaces a section.
_NOTHING = {"callbacks": "+callbacks@_global_=none", "loggers.more": "++loggers.more=null"}


def by_name(word: str) -> list[str]:
    """Converts a word with a list of sections to words with sections by name; returns others unchanged.

    Like every list, it replaces the sections of files; with one plus, it adds to them. The names are those of
    the classes.

    Args:
        word: A word of the command line.
    """
    match = _WORD.match(word)
    if match is None:
        return [word]
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:  # composing reports what is wrong with it
        return [word]
    given = None if override.is_sweep_override() else override.value()
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        return [word]
    named: dict[str, Any] = {}
    for section in given:
        kind = re.sub(r"\W", "_", str(section.get("_target_", "unnamed")).rpartition(".")[2])
        names = [kind, *(f"{kind}_{number}" for number in range(2, len(given) + 1))]
        named[next(name for name in names if name not in named)] = section
    plus, key = match.groups()
    sections = [f"+{key}={_text(named)}"] if named else []
    return sections if plus == "+" else [_NOTHING[key], *sections]


def _text(value: Any) -> str:
    """Returns a value in the syntax of Hydra's grammar."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    return QuotedString(value, Quote.single).with_quotes() if isinstance(value, str) else json.dumps(value)
