"""The errors of looplab, each with the exit code of a command that ends with it.

A command prints the message of a `LooplabError` without a traceback. The message is the whole explanation:
the value that was received, the value that was expected, the place where it was written, and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class LooplabError(Exception):
    """Base of all errors that looplab raises on purpose.

    A request from outside to end a run is not an error; see `EndRequested`. The text of an error is safe to
    print: names and values that come from elsewhere are escaped in it.

    Attributes:
        exit_code: The exit code of a command that ends with this error.
        status: The value of `"status"` in `outcome.json`.
    """

    exit_code = 1
    status = "failed"
    # AutoGraph and Keras do not wrap errors with these attributes, so errors in a step arrive unchanged.
    ag_pass_through = True
    _keras_call_info_injected = True

    def __str__(self) -> str:
        """Returns the message."""
        return shown(super().__str__())


def restart_helps(exit_code: int) -> bool:
    """Whether the unchanged command continues a run that ended with an exit code."""
    return exit_code >= 128


class ConfigurationError(LooplabError):
    """A configuration, argument or command line cannot work. looplab raises it before the work starts."""

    exit_code = 2
    status = "refused"


@dataclass(frozen=True)
class Problem:
    """One problem of a configuration.

    Attributes:
        key: The key, such as `checkpoint.every` or `metrics[1]`; empty for the whole configuration.
        message: The value that was given, the valid values, the nearest of them, and the remedy.
        where: The argument of the command line or the line of a file where the value was written; empty if
            that is not known.
    """

    key: str
    message: str
    where: str = ""

    def __str__(self) -> str:
        """Returns the key and the message."""
        return f"{self.key}: {self.message}" if self.key else self.message


class Refused(ConfigurationError):
    """A configuration that cannot work, with all its problems.

    Attributes:
        problems: The problems, at least one.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class ChangedRun(Refused):
    """A run cannot go on, because its configuration now computes something else."""

    exit_code = 3


class LossError(LooplabError):
    """A loss of the user, or a function of looplab in a step, was used in a way that has no exact meaning.

    For example, a loss has returned a bare scalar, whose mean over the global batch is not defined.
    """


class ControlFlowError(LooplabError):
    """An `if`, `for` or `while` over tensors in the user's code cannot become part of a graph."""


class DivergedError(LooplabError):
    """The loss or a gradient is not finite. The update was not made."""

    exit_code = 4
    status = "diverged"


class CheckpointError(LooplabError):
    """A checkpoint is damaged, or does not fit the state into which it is restored."""

    exit_code = 3
    status = "failed"


class DamagedFile(LooplabError):
    """A file that a run or a sweep needs to continue is not as looplab wrote it."""

    exit_code = 3
    status = "failed"


class DataError(LooplabError):
    """Data cannot be trained on: it is empty, has different lengths, or ends too early."""

    exit_code = 5
    status = "failed"


class OutOfMemoryError(LooplabError):
    """There is not enough memory for a step. looplab reduces nothing unless the user requests it."""


class StorageError(LooplabError):
    """A disk is full, or a directory cannot be written to."""

    exit_code = 6


class RunInUse(LooplabError):
    """Another process writes the run directory."""

    exit_code = 7
    status = "refused"


class EndRequested(BaseException):
    """The run has ended because of a request from outside. Its state is saved.

    It is not an `Exception`, so `except Exception` in a loop over runs does not continue with the next run.

    Attributes:
        exit_code: The exit code of a command that ends with it.
        status: The value of `"status"` in `outcome.json`.
    """

    exit_code: int
    status: str

    def _render_traceback_(self) -> list[str]:
        """Returns the one line that IPython shows: an end on request needs no traceback."""
        return [f"{type(self).__name__}: {self}"]


class Interrupted(EndRequested, KeyboardInterrupt):
    """The user has stopped the run with Ctrl-C. Its state is saved.

    `except KeyboardInterrupt` catches it, as with Keras' `model.fit`.
    """

    exit_code = 130
    status = "interrupted"


class Terminated(EndRequested, SystemExit):
    """A signal such as SIGTERM from a scheduler has ended the run. Its state is saved.

    If no code catches it, the process ends with its exit code, as after `sys.exit`.
    """

    exit_code = 143
    status = "terminated"

    def __init__(self, message: str = "") -> None:
        """Stores the message.

        Args:
            message: The step at which the run has ended, and where it is saved.
        """
        super().__init__(message)
        self.code = self.exit_code


def is_abort(error: BaseException | None) -> bool:
    """Whether an exception is Python's own `KeyboardInterrupt`, after which looplab does not wait."""
    return isinstance(error, KeyboardInterrupt) and not isinstance(error, EndRequested)


class Hung(LooplabError):
    """The run made no progress for longer than `hang_timeout`. The same command continues it."""

    exit_code = 138


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.5) -> str:
    """Returns ` Did you mean 'x'?` for the valid name nearest to `name`, or an empty string.

    Args:
        name: The name that was given.
        valid: The valid names.
        cutoff: The least similarity, from 0 to 1.
    """
    match = difflib.get_close_matches(name, list(valid), n=1, cutoff=cutoff)
    return f" Did you mean {match[0]!r}?" if match else ""


def shown(text: str) -> str:
    """Returns text that is safe to show in a terminal or a log.

    Args:
        text: Any text.

    Returns:
        The text. Characters that would control a terminal or change the writing direction are escaped as in
        Python. Line breaks and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text
    )


def as_written(value: object) -> str:
    """Returns a value as a configuration writes it, cut to at most 120 characters and `...`."""
    words: dict[object, str] = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
