"""The errors looplab raises on purpose, each with the exit code its command ends with.

`python -m looplab.train` prints the message of a `LooplabError` without a traceback: the message is
the whole explanation (what was received, what was expected, where, and the remedy).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class LooplabError(Exception):
    """Base of all errors that looplab raises on purpose.

    What ends a run from outside is no error: see `EndRequested`.

    Attributes:
        exit_code: The process exit code of a command that ends with this error.
        status: The word that `outcome.json` records under `"status"`.

    As text it is what a terminal may show, whatever names and values of others it tells of (`shown`).
    """

    exit_code = 1
    status = "failed"
    # Raised inside a step these arrive as they are: AutoGraph and Keras leave alone what has such attributes.
    ag_pass_through = True
    _keras_call_info_injected = True

    def __str__(self) -> str:
        """Returns the message."""
        return shown(super().__str__())


def restart_helps(exit_code: int) -> bool:
    """Whether the same command continues a run that has ended with an exit code, with nothing changed."""
    return exit_code >= 128


class ConfigurationError(LooplabError):
    """A configuration, argument or command line that cannot work; raised before work starts."""

    exit_code = 2
    status = "refused"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration.

    Attributes:
        key: Where, such as `checkpoint.every` or `metrics[1]`; empty for the whole.
        message: What was given, what is valid, the nearest to it, and the remedy.
        where: The word of the command line or the line of a file it was written in, if it is known.
    """

    key: str
    message: str
    where: str = ""

    def __str__(self) -> str:
        """Returns both."""
        return f"{self.key}: {self.message}" if self.key else self.message


class Refused(ConfigurationError):
    """A configuration with all that is wrong with it.

    Attributes:
        problems: At least one.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class ChangedRun(Refused):
    """A run was to go on with a configuration that computes something else."""

    exit_code = 3


class LossError(LooplabError):
    """A user's loss returned something whose mean over the global batch is not defined."""


class ControlFlowError(LooplabError):
    """The user's `if`, `for` or `while` over tensors that cannot become part of a graph."""


class DivergedError(LooplabError):
    """The loss or a gradient is not finite; the update was not made."""

    exit_code = 4
    status = "diverged"


class CheckpointError(LooplabError):
    """A checkpoint that is damaged, or does not fit the state it should be restored into."""

    exit_code = 3
    status = "failed"


class DamagedFile(LooplabError):
    """A file of a run or a sweep that is not what was written, and that nothing can go on without."""

    exit_code = 3
    status = "failed"


class DataError(LooplabError):
    """Data that cannot be trained on: empty, of different lengths, or used up too early."""

    exit_code = 5
    status = "failed"


class OutOfMemoryError(LooplabError):
    """A step for which there is no memory; nothing is made smaller without being asked for."""


class StorageError(LooplabError):
    """A disk that is full, or a directory that cannot be written to."""

    exit_code = 6


class RunInUse(LooplabError):
    """A run directory that another process is writing."""

    exit_code = 7
    status = "refused"


class EndRequested(BaseException):
    """The run was asked from outside to end, and has ended; its state up to then is saved.

    Not an `Exception`: `except Exception` in a loop over runs does not go on with the next one.

    Attributes:
        exit_code: The process exit code of a command that ends with it.
        status: The word that `outcome.json` records under `"status"`.
    """

    exit_code: int
    status: str

    def _render_traceback_(self) -> list[str]:
        """Returns what IPython shows: the user has asked for it, so there is nothing to look for."""
        return [f"{type(self).__name__}: {self}"]


class Interrupted(EndRequested, KeyboardInterrupt):
    """The run was stopped by the person (Ctrl-C); its state up to then is saved.

    `except KeyboardInterrupt` catches it, as it does around Keras' `model.fit`.
    """

    exit_code = 130
    status = "interrupted"


class Terminated(EndRequested, SystemExit):
    """The run was told to end (SIGTERM, as schedulers do); its state up to then is saved.

    Where nobody catches it, the process ends with its exit code, as it does after `sys.exit`.
    """

    exit_code = 143
    status = "terminated"

    def __init__(self, message: str = "") -> None:
        """Says what became of the run.

        Args:
            message: At which step, and where it is saved.
        """
        super().__init__(message)
        self.code = self.exit_code


def is_abort(error: BaseException | None) -> bool:
    """Whether an exception is Python's own `KeyboardInterrupt`, after which nothing more is waited for."""
    return isinstance(error, KeyboardInterrupt) and not isinstance(error, EndRequested)


class Hung(LooplabError):
    """The run did not move for longer than it may; whoever starts it again continues it."""

    exit_code = 138


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.5) -> str:
    """Returns ` Did you mean 'x'?` for the valid name nearest to `name`, or an empty string.

    Args:
        name: What was given.
        valid: What there is.
        cutoff: How alike they must be, from 0 to 1.
    """
    match = difflib.get_close_matches(name, list(valid), n=1, cutoff=cutoff)
    return f" Did you mean {match[0]!r}?" if match else ""


def shown(text: str) -> str:
    """Returns text as a terminal or a log may show it, whoever it comes from.

    Args:
        text: Any; line breaks and tabs stay.

    Returns:
        It; what would steer a terminal or turn the direction of writing stands as Python escapes it.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text
    )


def as_written(value: object) -> str:
    """Returns a value as a configuration has it, at most a line of it."""
    words: dict[object, str] = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
