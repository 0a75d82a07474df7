"""The start of a command: no file in a library's place, TensorFlow imported late and quietly."""

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
    """Keeps a file of the working directory from being imported in the place of a library."""
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
    """Imports TensorFlow, late and without its greetings.

    Raises:
        KeyboardInterrupt: For a Ctrl-C meanwhile, also one that some module's bare `except` has caught.
    """
    with quietly(), _heeded(), _kept():
        import tensorflow as tf

        tf.config.list_physical_devices()
        import keras  # noqa: F401 - with all that it tries to import


@contextmanager
def _kept() -> Iterator[None]:
    """Leaves what is made within to the end of the process: no garbage collection walks over it.

    Modules stay anyhow, and those of TensorFlow and Keras are 400,000 objects, which tracing would have
    walked over again and again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _heeded() -> Iterator[None]:
    """Raises at the end what somebody within has swallowed of Ctrl-C."""
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
