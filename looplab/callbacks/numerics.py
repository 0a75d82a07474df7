"""Finds the operation that produced the first non-finite number."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from looplab.callbacks.base import Callback, Event
from looplab.errors import DivergedError
from looplab.protocols import Controls
from looplab.targets import configurable

_log = logging.getLogger("looplab")


@configurable
class CheckNumerics(Callback):
    """Ends the run at the first operation with a non-finite result, and names it and your line of code.

    The preset `debug=nan` uses it. TensorFlow then checks every result in the whole process
    (`tf.debugging.enable_check_numerics`), so steps are several times slower. XLA has no such checks. The
    checks also find values that are infinite on purpose (a mask of minus infinity).
    """

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`: TensorFlow checks all functions that are traced from here on."""
        tf.debugging.enable_check_numerics(stack_height_limit=40, path_length_limit=120)
        controls.rebuild()

    def on_train_end(self, event: Event, controls: Controls) -> None:
        """See `Callback`."""
        tf.debugging.disable_check_numerics()
        controls.rebuild()
        _log.info("every result was finite up to step %d", event.step)

    def on_exception(self, event: Event, error: BaseException) -> None:
        """See `Callback`.

        Raises:
            DivergedError: If a check raised the error. It names the operation and its line of code.
        """
        tf.debugging.disable_check_numerics()
        found = operation(error)
        if found is not None:
            raise DivergedError(
                f"in step {event.step + 1} or soon after, a non-finite number was produced by the {found}"
            ) from error


@contextmanager
def checked() -> Iterator[None]:
    """Makes TensorFlow check every result of the functions traced in the block, in the whole process."""
    tf.debugging.enable_check_numerics(stack_height_limit=40, path_length_limit=120)
    try:
        yield
    finally:
        tf.debugging.disable_check_numerics()


def operation(error: BaseException) -> str | None:
    """Returns the operation that a check has found and the lines of code that made it, as text.

    Keras names the scope of operations by model and layer. Returns None for any other error.
    """
    found = _FOUND.search(str(error)) if isinstance(error, tf.errors.InvalidArgumentError) else None
    if found is None:
        return None
    scope = _SCOPE.search(str(error))
    where = f" of layer {scope['path']!r}" if scope else ""
    lines = "\n  ".join(_own_lines(str(error)))
    return f"operation {found['name']!r}{where} ({found['dtype']}, shape {found['shape']}), in:\n  {lines}"


_FOUND = re.compile(
    r'Detected Infinity or NaN in output \d+ of (?:graph|eagerly-executing) op "(?P<name>[^"]+)".*?\n'
    r"\s*dtype: <dtype: '(?P<dtype>\w+)'>\n\s*shape: (?P<shape>[^\n]*)",
    re.DOTALL,
)
_SCOPE = re.compile(r"Detected at node (?:\S*gradient_tape/)?(?P<path>\S+)/[^/\s]+/CheckNumerics")
_FRAME = re.compile(r"\+ (?P<path>.+) \(L(?P<line>\d+)\) (?P<function>\S+)")


def _own_lines(message: str) -> list[str]:
    """Returns the lines of code that belong to neither TensorFlow nor looplab, outermost first."""
    frames = [frame for frame in _FRAME.finditer(message) if not _INNER.search(frame["path"])]
    return [f"{frame['path']}:{frame['line']} in {frame['function']}" for frame in frames[-8:]]


_INNER = re.compile(
    r"[/\\](tensorflow[/\\]python[/\\]|keras[/\\]src[/\\]((utils|backend|ops|models)[/\\]|layers[/\\]layer\.py)|looplab[/\\])"
)
