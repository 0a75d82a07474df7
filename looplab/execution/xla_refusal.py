"""Explains why XLA cannot compile a step: the operation, where it was created, and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import tensorflow as tf

from looplab.errors import ConfigurationError
from looplab.execution.loop_bounds import NotForXla, without_bound
from looplab.runs import cause

# The functions that users write, by the types of the operations that they create.
_WRITTEN_AS = {
    "StringFormat": "tf.print (or tf.strings.format)",
    "PrintV2": "tf.print",
    "Print": "tf.print",
    "EagerPyFunc": "tf.py_function",
    "PyFunc": "tf.numpy_function",
    "PyFuncStateless": "tf.numpy_function",
}
_NO_BOUND = "requires a fixed tensor list size"
_NO_CONSTANT = re.compile(
    r"Input \d+ to (?:node|operator) [`']([^`']+)[`'] with op (\w+) must be a compile-time"
)
_SIGNS = (
    "tf2xla conversion failed",
    "trying to compile graph",
    "XLA compilation requires",
    "must be a compile-time",
)


class Refusal(NamedTuple):
    """Why XLA does not compile a step.

    Attributes:
        what: The part that XLA cannot compile, and where it was created.
        remedy: What to write instead: a sentence without its end, to which alternatives are added.
    """

    what: str
    remedy: str


def refusal(error: Exception) -> Refusal | None:
    """Returns the part that XLA refuses to compile, or None for any other error."""
    if isinstance(error, NotForXla):
        return Refusal(error.what, error.remedy)
    message = str(getattr(error, "message", error))
    if not isinstance(error, tf.errors.OpError) or not any(sign in message for sign in _SIGNS):
        return None
    found = cause.of(error)
    nodes = re.findall(r"\{\{node ([^}]+)\}\}", message)
    node = f", node {nodes[0]}" if nodes else ""
    made = f", made in {found.frame}" if found.frame else ""
    if listed := re.search(r"Detected unsupported operations.*?: (.*?)(?:\n|$)", message):
        kinds = list(dict.fromkeys(re.findall(r"(\w+) \(No registered", listed[1])))
        written = [_WRITTEN_AS.get(kind) or ("strings" if _is_of_strings(kind) else "") for kind in kinds]
        names = [f"{kind}, from {text}" if text else kind for kind, text in zip(kinds, written, strict=True)]
        return Refusal(
            f"it has no operation {'; '.join(names)} ({(node + made)[2:]})", "Use another operation"
        )
    if _NO_BOUND in message:
        error = without_bound((node + made)[2:])
        return Refusal(error.what, error.remedy)
    if constant := _NO_CONSTANT.search(message):
        return Refusal(
            f"a shape depends on values: an argument of {constant[2]} is not known before the step runs "
            f"(node {constant[1]}{made})",
            "Give that tensor a size that does not depend on values",
        )
    return Refusal(found.sentence + found.place(), "Use another operation")


def why_not(error: Exception) -> str:
    """Returns why a step does not run, in one line of at most 120 characters."""
    found = refusal(error)
    return (found.what if found else cause.of(error).sentence)[:120]


@contextmanager
def explained(mode: str) -> Iterator[None]:
    """Explains XLA's refusals within the block, with the remedy.

    Args:
        mode: The execution mode, one of `looplab.options.execution.MODES`.

    Raises:
        ConfigurationError: In place of an error that says that XLA cannot compile a step.
    """
    try:
        yield
    except tf.errors.OpError as error:
        found = refusal(error) if mode.startswith("xla") else None
        if found is None:
            raise
        raise ConfigurationError(
            f"execution={mode}: XLA cannot compile the step: {found.what}. {found.remedy}, or run the "
            "step without XLA: execution='graph'."
        ) from error


def _is_of_strings(kind: str) -> bool:
    return "String" in kind
