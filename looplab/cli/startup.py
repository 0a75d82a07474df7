"""Starts a command: refuses files that hide a library, and imports TensorFlow late and quietly."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NoReturn

from looplab.errors import ConfigurationError
from looplab.runs.terminal import quietly


def refuse_shadows() -> None:
    """Refuses a file of the working directory that Python would import instead of a library."""
    here = str(Path.cwd())
    elsewhere = [path for path in sys.path if path not in ("", here)]
    for name in ("keras", "numpy", "tensorflow", "looplab"):
        own, usual = (PathFinder.find_spec(name, path) for path in ([here], elsewhere))
        if own is None or own.origin is None:
            continue
        worked_on_here = Path(own.origin).resolve() == Path(__file__).resolve().parents[1] / "__init__.py"
        if not worked_on_here and (usual is None or own.origin != usual.origin):
            raise ConfigurationError(
                f"{own.origin} would be imported instead of {name}: give it another name."
            )


def import_tensorflow() -> None:
    """Imports TensorFlow without the lines that it prints at the start.

    Raises:
        KeyboardInterrupt: For a Ctrl-C during the import, even if some module's bare `except` has caught it.
    """
    with quietly(), _heeded(), _kept():
        import tensorflow as tf

        tf.config.list_physical_devices()
        import keras  # noqa: F401 - with all that it tries to import


@contextmanager
def _kept() -> Iterator[None]:
    """Excludes the objects created in the block from all later garbage collections.

    Modules stay until the end anyway. Those of TensorFlow and Keras have 400,000 objects, through which every
    collection would have to go.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _heeded() -> Iterator[None]:
    """Raises a Ctrl-C at the end of the block if code within it has swallowed it."""
    came: list[int] = []

    def interrupt(number: int, frame: Any) -> NoReturn:
        came.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
