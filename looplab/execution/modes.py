"""The names of the ways to run a step."""

from __future__ import annotations

from looplab.errors import ConfigurationError, nearest

MODES = ("graph", "xla_step", "xla_loop")
CHOICES = ("auto", *MODES)  # what may be asked for


def check_mode(mode: str) -> str:
    """Returns `mode` if it is a way of execution looplab has, or `"auto"`.

    Raises:
        ConfigurationError: Otherwise, with the nearest valid name.
    """
    if mode not in CHOICES:
        raise ConfigurationError(
            f"execution: {mode!r} is not one of {', '.join(CHOICES)}." + nearest(str(mode), CHOICES)
        )
    return mode
