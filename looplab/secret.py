"""Text that is not to be shown: its type, the keys it stands under, and configurations without it."""

from __future__ import annotations

import re
from typing import Any

_KEY = re.compile(
    r"(.*[_-])?(password|passwd|passphrase|secret|credentials?|(api|access|private|secret)[_-]?key)"
    # Not every token: pad_token, mask_token and their kin are words of a vocabulary.
    r"|((.*[_-])?(api|auth|access|refresh|bearer|bot|session|hf|hub|github|gitlab|wandb|slack)[_-]?)?token",
    re.IGNORECASE,
)
_PAIR = re.compile(r"""([\w-]+)(\s*:\s*)(?!\$\{)('[^']*'|"[^"]*"|[^,}\]\s]+)""")  # of a dict in a word
_HIDDEN = "***"


class Secret(str):
    """A password, a key, a token: text that prints, formats and represents itself as `***`.

    Whatever takes a string takes it: `+`, `join`, `encode`, JSON and HTTP libraries use its
    characters. Formatting does not: write `"Bearer " + key`, or `f"Bearer {key.reveal()}"`.
    """

    __slots__ = ()

    def reveal(self) -> str:
        """Returns the text itself."""
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
    """Whether what stands under a key of this name, such as `api_key`, is not to be shown."""
    return _KEY.fullmatch(key) is not None


def redacted(content: Any, hide: bool = False) -> Any:
    """Returns nested dicts and lists with `***` for every value under a key such as `api_key`.

    An interpolation (`${oc.env:API_KEY}`) says only where the secret is, and stays.

    Args:
        content: A configuration, interpolations unresolved.
        hide: Whether it stands under such a key itself.
    """
    if isinstance(content, dict):
        return {key: redacted(item, hide or is_secret(str(key))) for key, item in content.items()}
    if isinstance(content, list):
        return [redacted(item, hide) for item in content]
    plain = content is not None and not isinstance(content, bool) and "${" not in str(content)
    return _HIDDEN if hide and plain else content


def redacted_word(word: str) -> str:
    """Returns a word of the command line, `***` in the place of a secret."""
    key, equals, value = word.partition("=")
    if equals and is_secret(key.lstrip("+~").split(".")[-1]):
        return f"{key}={redacted(value, hide=True)}"
    return f"{key}{equals}" + _PAIR.sub(lambda m: m[1] + m[2] + _HIDDEN if is_secret(m[1]) else m[0], value)
