"""Numbers the classes of every table in a configuration as in the training table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from looplab.data.table import text_classes
from looplab.errors import ConfigurationError, LooplabError

_TABLES = ("looplab.data.table", "looplab.data.table.table")
_SPLITS = ("looplab.data.splits", "looplab.data.validation.splits")


def training_table(source: Any) -> Mapping[str, Any] | None:
    """Returns the section of the training table, or None if a source names no table.

    Args:
        source: A section `data.source`: a table, or `looplab.data.splits` of tables.
    """
    if not isinstance(source, Mapping):
        return None
    if source.get("_target_") in _SPLITS:
        return training_table(source.get("train"))
    return source if source.get("_target_") in _TABLES and source.get("target") else None


def with_classes(source: Any, trained_on: Mapping[str, Any] | None) -> Any:
    """Returns a section `data.source` whose tables number their classes as the training table does.

    Args:
        source: A section, with tables at any depth.
        trained_on: The section of the training table; None changes nothing.

    Raises:
        ConfigurationError: If a table has strings as classes, and the training table can no longer be read.
    """
    if trained_on is None or not isinstance(source, Mapping):
        return source
    if source.get("_target_") not in _TABLES:
        return {name: with_classes(value, trained_on) for name, value in source.items()}
    same = all(source.get(name) == trained_on.get(name) for name in ("path", "target"))
    if same or not source.get("target") or source.get("classes") is not None:
        return source
    classes = _classes(trained_on, source)
    return source if classes is None else {**source, "classes": classes}


def _classes(trained_on: Mapping[str, Any], other: Mapping[str, Any]) -> list[str] | None:
    if trained_on.get("classes") is not None:
        return list(trained_on["classes"])
    try:
        return text_classes(trained_on["path"], trained_on["target"])
    except LooplabError as error:
        if text_classes(other["path"], other["target"]) is None:
            return None
        raise ConfigurationError(
            f"data.source.classes: {other['path']} needs the class numbers of the training table for its "
            f"column {other['target']!r}, but that table cannot be read ({str(error).rstrip('.')}). Give the "
            "classes in the order of their numbers: data.source.classes=[...]."
        ) from error
