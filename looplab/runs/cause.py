"""Finds the cause of an error, without what TensorFlow and Keras wrap around it.

An error inside a step arrives wrapped. AutoGraph turns it into a new exception ("in user code: ..."), Keras
into another one ("Exception encountered when calling ..."), and an error while a graph runs (an assertion, a
`tf.py_function`) is one of many lines of an `OpError`. All reports of a failure take the cause from here.
"""

from __future__ import annotations

import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

_LOOPLAB = str(Path(__file__).parents[1])
_STANDARD = sysconfig.get_paths()["stdlib"]
_INSTALLED = ("site-packages", "dist-packages")
_TRANSLATED = "__autograph_generated"  # the name of a generated file with the user's translated code
_WRAPPED_BY = (  # beginnings of messages of exceptions that wrap others, which are their context
    "in user code:",
    "Exception encountered when calling",
    "Could not automatically infer the output shape",
)
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
# In the message of an OpError: lines before the cause, and lines after it.
_BEFORE = re.compile(
    r"\s*$|Graph execution error|Detected at node|<stack traces|\s*File \"|\d+ root error\(s\) found"
)
_BEHIND = re.compile(
    r"\s*\[\[|Traceback \(most recent|Stack trace for op|The op is created|\s*tf2xla conversion failed"
    r"|  \(\d+\) |\d+ successful operations"
)
_AROUND = re.compile(  # text around the cause on its own line
    r"^\s*\(0\) [A-Z_]+:\s*|\{\{function_node [^}]*\}\}\s*|\{\{node [^}]*\}\}$|\[\[\{\{node.*|\s*\[Op:.*"
    r"|^Error in user-defined function passed to .*? transformation with iterator: \S+: "
)


class Frame(NamedTuple):
    """A line of code that was running.

    Attributes:
        file: The file.
        line: The line number.
        name: The name of the function.
    """

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        """Returns the frame in the form for messages."""
        return f"{self.file}, line {self.line}, in {self.name}"


class Cause(NamedTuple):
    """The cause of a failure.

    Attributes:
        kind: The name of the exception's type.
        message: The exception's message, with all lines.
        frame: The line of the user's code that raised it, or that made the failing operation.
        layer: The Keras layer in which it happened, if the message does not name it.
    """

    kind: str
    message: str
    frame: Frame | None = None
    layer: str | None = None

    @property
    def sentence(self) -> str:
        """The first line of the message, without the full stop at its end."""
        return next(iter(self.message.strip().splitlines()), "").rstrip(".")

    def place(self, *more: str) -> str:
        """Returns the place in brackets, after a space; an empty text if it is not known.

        Args:
            *more: Further information on the place.
        """
        layer = f"in the layer {self.layer!r}" if self.layer else ""
        known = [part for part in (layer, str(self.frame or ""), *more) if part]
        return f" ({'; '.join(known)})" if known else ""

    def text(self, *more: str) -> str:
        """Returns the whole cause as a text; the first line has the message and the place.

        Args:
            *more: Further information on the place.
        """
        first, *others = self.message.strip().splitlines() or [""]
        head = f"{self.kind}: {first}" if first else self.kind
        return "\n".join([head + self.place(*more), *others])


def of(error: BaseException) -> Cause:
    """Returns the cause of an exception, with or without wrapping."""
    *_, first = chain = list(_chain(error))
    # Keras removes its own frames when it raises an error again; AutoGraph knows the others only in that one.
    frame = _own_of(first) or next(filter(None, map(_own_of_translated, reversed(chain))), None)
    kind, message = type(first).__name__, str(first)
    if _is_a(type(first), "tensorflow.", "OpError"):
        found, message, made = _of_operation(str(getattr(first, "message", first)))
        kind, frame = found or kind, made or frame
    layer = _layer(first) if first is not error else None
    return Cause(kind, message, frame, None if layer and f"'{layer}'" in message else layer)


def origin(error: BaseException) -> BaseException:
    """Returns the exception that was raised first, which libraries have wrapped."""
    *_, first = _chain(error)
    return first


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception and those that it wraps; the one that was raised first comes last."""
    seen = {id(error)}
    yield error
    while (inner := error.__cause__ or error.__context__) is not None and id(inner) not in seen:
        if not str(error).startswith(_WRAPPED_BY) and not _is_made_of(error, inner):
            break
        seen.add(id(inner))
        error = inner
        yield error


def is_made_in(file: str) -> bool:
    """Returns whether a file is the user's: not a library's, and not looplab's (except its examples)."""
    if file.startswith(f"{_LOOPLAB}/"):
        return file.startswith(f"{_LOOPLAB}/examples/")
    return not (_is_installed(file) or _TRANSLATED in file or file.startswith((_STANDARD, "<frozen")))


def own(frames: Sequence[Frame]) -> Frame | None:
    """Returns the innermost line of the user's code, without the code that called looplab.

    Args:
        frames: The frames, outermost first.
    """
    entered = next((i for i, frame in enumerate(frames) if _is_looplabs(frame.file)), 0)
    return _innermost(frames[entered:])


def _innermost(frames: Sequence[Frame]) -> Frame | None:
    return next((frame for frame in reversed(frames) if is_made_in(frame.file)), None)


def _is_installed(file: str) -> bool:
    """Returns whether a file belongs to a library; looplab's own files never do."""
    return any(part in file for part in _INSTALLED) and not file.startswith(f"{_LOOPLAB}/")


def _is_made_of(error: BaseException, inner: BaseException) -> bool:
    """Returns whether a library raised an exception while it handled one from user code that it called."""
    raised, stack = (list(traceback.walk_tb(each.__traceback__)) for each in (error, inner))
    if not raised or not stack or not (is_made_in(_file(stack[-1])) or _TRANSLATED in _file(stack[-1])):
        return False
    if error.__cause__ is None and raised[-1] == stack[-1]:  # a new error with the other's traceback
        return True
    return _is_installed(_file(raised[-1])) and _is_installed(_file(stack[0]))


def _file(entry: tuple[FrameType, int]) -> str:
    return entry[0].f_code.co_filename


def _own_of(error: BaseException) -> Frame | None:
    """Returns the innermost line of the user's code in a traceback; translated code as in the source."""
    if _translated(error):
        return _own_of_translated(error)
    entries = traceback.extract_tb(error.__traceback__)
    return own([Frame(each.filename, each.lineno or 0, each.name) for each in entries])


def _own_of_translated(error: BaseException) -> Frame | None:
    """Returns the innermost line of translated code. It starts in a step, so none of it called looplab."""
    return _innermost([Frame(each.filename, each.lineno, each.function_name) for each in _translated(error)])


def _translated(error: BaseException) -> list[Any]:
    """Returns the running lines of translated code as in the source, the outermost first."""
    stack = getattr(getattr(error, "ag_error_metadata", None), "translated_stack", None)
    return [] if stack is None else list(reversed(stack))


def _is_looplabs(file: str) -> bool:
    return file.startswith(f"{_LOOPLAB}/") and not file.startswith(f"{_LOOPLAB}/examples/")


def _layer(error: BaseException) -> str | None:
    """Returns the name of the innermost Keras layer in a traceback."""
    selves = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    layers = [own for own in selves if _is_a(type(own), "keras.", "Layer")]
    return str(getattr(layers[-1], "name", "")) if layers else None


def _is_a(kind: type, package: str, name: str) -> bool:
    """Returns whether a class is, or derives from, a class of a library that is not imported here."""
    return any(each.__name__ == name and each.__module__.startswith(package) for each in kind.__mro__)


def _of_operation(message: str) -> tuple[str | None, str, Frame | None]:
    """Returns type (if Python code raised), sentence and place from the message of an `OpError`."""
    lines = message.splitlines()
    stacks = [frame for stack in _stacks(lines) if (frame := own(stack)) is not None]
    place = stacks[0] if stacks else None
    first = next((i for i, line in enumerate(lines) if not _BEFORE.match(line)), None)
    if first is None:
        return None, message.strip(), place
    behind = (i for i, line in enumerate(lines) if i > first and _BEHIND.match(line))
    last = next(behind, len(lines))
    said = "\n".join(_AROUND.sub("", line) for line in lines[first:last]).strip()
    said = re.sub(r"^assertion failed: \[(.*?)\](?= \[|$)", r"assertion failed: \1", said)
    if last < len(lines) and lines[last].startswith("Traceback"):
        kind, _, rest = said.partition(": ")
        if re.fullmatch(r"[A-Za-z_][\w.]*", kind):
            return kind.rpartition(".")[2], rest, stacks[-1] if stacks else None
    return None, said, place


def _stacks(lines: Iterable[str]) -> list[list[Frame]]:
    """Returns the stacks in a message, each the outermost frame first."""
    stacks: list[list[Frame]] = [[]]
    for line in lines:
        if found := _FRAME.search(line):
            stacks[-1].append(Frame(_whole(found[1]), int(found[2]), found[3]))
        elif line.strip() and not line.startswith("    "):  # not a line of code
            stacks.append([])
    return stacks


def _whole(file: str) -> str:
    """Returns the full path of a module's file; XLA removes the common beginning of all paths in a stack."""
    if file.startswith("/"):
        return file
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return next((path for path in files if path and path.endswith(f"/{file}")), file)
