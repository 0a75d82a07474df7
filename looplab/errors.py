"""The errors looplab raises on purpose, each with the exit code its command ends with.

`python -m looplab.train` prints the message of a `LooplabError` without a traceback: the message is
the whole explanation (what was received, what was expected, where, and the remedy).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LooplabError(Exception):
    """Base of all errors that looplab raises on purpose.

    Attributes:
        exit_code: The process exit code of a command that ends with this error.
        status: The word that `outcome.json` records under `"status"`.
    """

    exit_code = 1
    status = "failed"


class ConfigurationError(LooplabError):
    """A configuration, argument or command line that cannot work; raised before work starts."""

    exit_code = 2
    status = "refused"


class LossError(LooplabError):
    """A user's loss returned something whose mean over the global batch is not defined."""


class CheckpointError(LooplabError):
    """A checkpoint that is damaged, or does not fit the state it should be restored into."""

    exit_code = 3
    status = "failed"


class DataError(LooplabError):
    """Data that cannot be trained on: empty, of different lengths, or used up too early."""

    exit_code = 5
    status = "failed"


class Interrupted(LooplabError):
    """The run was stopped from outside (Ctrl-C); its state up to then is saved."""

    exit_code = 130
    status = "interrupted"


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns ` Did you mean 'x'?` for the valid name nearest to `name`, or an empty string."""
    match = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""
