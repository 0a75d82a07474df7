"""The names of the ways to run a step."""

from __future__ import annotations

from looplab.errors import ConfigurationError, nearest

MODES = ("graph", "xla_step", "xla_loop")


def check_mode(mode: str) -> str:
    """Returns `mode` if it is a way of execution looplab has.

    Raises:
        ConfigurationError: Otherwise, with the nearest valid name.
    """
    if mode not in MODES:
        raise ConfigurationError(
            f"execution: {mode!r} is not one of {', '.join(MODES)}." + nearest(str(mode), MODES)
        )
    return mode
