"""Secrets: text that is never printed, and configurations in which secrets are replaced by `***`."""

from __future__ import annotations

import re
from typing import Any

_KEY = re.compile(
    r"(.*[_-])?(password|passwd|passphrase|secret|credentials?|(api|access|private|secret)[_-]?key)"
    # Not every token: pad_token, mask_token and the like are words of a vocabulary.
    r"|((.*[_-])?(api|auth|access|refresh|bearer|bot|session|hf|hub|github|gitlab|wandb|slack)[_-]?)?token",
    re.IGNORECASE,
)
_PAIR = re.compile(r"""([\w-]+)(\s*:\s*)(?!\$\{)('[^']*'|"[^"]*"|[^,}\]\s]+)""")  # of a dict in an argument
_HIDDEN = "***"


class Secret(str):
    """A password, key or token: a string that prints as `***`.

    Code that uses the characters of a string works unchanged: `+`, `join`, `encode`, JSON and HTTP libraries.
    `str`, `repr` and formatting give `***`, so write `"Bearer " + key`, or `f"Bearer {key.reveal()}"`.
    """

    __slots__ = ()

    def reveal(self) -> str:
        """Returns the text itself, as a plain string."""
        return "".join(self)

    def __str__(self) -> str:
        """Returns `***`."""
        return _HIDDEN

    def __repr__(self) -> str:
        """Returns `'***'`."""
        return repr(_HIDDEN)

    def __format__(self, specification: str) -> str:
        """Returns `***`."""
        return format(_HIDDEN, specification)


def is_secret(key: str) -> bool:
    """Whether the name of a key, such as `api_key`, indicates that its value is a secret.

    Args:
        key: One part of a configuration's key.
    """
    return _KEY.fullmatch(key) is not None


def redacted(content: Any, hide: bool = False) -> Any:
    """Returns a copy of a configuration with `***` in place of every secret.

    An interpolation (`${oc.env:API_KEY}`) names only the place of a secret, so it is kept.

    Args:
        content: Nested dicts and lists with unresolved interpolations.
        hide: Whether `content` itself is the value of a secret's key.
    """
    if isinstance(content, dict):
        return {key: redacted(item, hide or is_secret(str(key))) for key, item in content.items()}
    if isinstance(content, list):
        return [redacted(item, hide) for item in content]
    plain = content is not None and not isinstance(content, bool) and "${" not in str(content)
    return _HIDDEN if hide and plain else content


def redacted_word(word: str) -> str:
    """Returns an argument of the command line with `***` in place of a secret.

    Args:
        word: Such as `logger.api_key=...`.
    """
    key, equals, value = word.partition("=")
    if equals and is_secret(key.lstrip("+~").split(".")[-1]):
        return f"{key}={redacted(value, hide=True)}"
    return f"{key}{equals}" + _PAIR.sub(lambda m: m[1] + m[2] + _HIDDEN if is_secret(m[1]) else m[0], value)
