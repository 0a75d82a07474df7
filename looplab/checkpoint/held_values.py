"""The values of variables at one moment, to go back to."""

from __future__ import annotations

from looplab.checkpoint import state


class HeldValues:
    """The values of variables at one moment.

    Nothing is copied, on any device: TensorFlow writes to no value that somebody still holds, so a variable
    needs memory for a second value only once it changes.
    """

    def __init__(self, variables: state.Variables) -> None:
        """Holds the present values.

        Args:
            variables: By path.
        """
        self._parts = {path: state.parts(variable) for path, variable in variables.items()}
        self._values = {path: [part.read_value() for part in parts] for path, parts in self._parts.items()}

    def put_back(self) -> None:
        """Gives each variable, on each replica, the value that is held."""
        for path, parts in self._parts.items():
            for part, value in zip(parts, self._values[path], strict=True):
                part.assign(value)
