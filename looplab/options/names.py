"""Checks the names of values, models and data sets, which are tags in logs and paths in checkpoints."""

from __future__ import annotations

import re
from typing import Any

from looplab.errors import ConfigurationError, as_written

_LONGEST = 200  # bytes: with looplab's prefixes (`val_`, `epoch_`) it can still be the name of a file


def wrong_name(name: Any) -> str | None:
    """Returns why a name is not valid, or None.

    Names may contain letters, digits, spaces and signs of any language; `/` groups them, as in
    `discriminator/loss`.
    """
    if not isinstance(name, str):
        return f"it is a {type(name).__name__}, not a string"
    if not name.strip():
        return "it is empty"
    if not name.isprintable():
        return "it has characters that cannot be printed"
    if name != name.strip():
        return "it begins or ends with a space"
    if len(name.encode()) > _LONGEST:
        return f"it has {len(name.encode())} bytes, but a name has at most {_LONGEST}"
    if {"", ".", ".."} & set(re.split(r"[/\\]", name)):
        return "the parts between '/' must not be empty, '.' or '..'; a valid name is 'discriminator/loss'"
    return None


def check_name(what: str, name: Any) -> None:
    """Refuses a name that is not valid.

    Args:
        what: The owner of the name, for the message.
        name: The name that the user gave.

    Raises:
        ConfigurationError: If it cannot be a tag in logs and a path in checkpoints.
    """
    if why := wrong_name(name):
        raise ConfigurationError(
            f"{what}: the name {as_written(name)} cannot be a tag in logs and a path in checkpoints: {why}. "
            "Choose another name."
        )
