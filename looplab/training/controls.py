"""What callbacks and signals ask of the loop."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from looplab.errors import ConfigurationError
from looplab.protocols import Values
from looplab.runs.signals import Request


class RunControls:
    """What callbacks and signals ask of the loop; see `looplab.protocols.Controls`."""

    def __init__(
        self,
        scale: Callable[[float, str | None], None],
        rebuild: Callable[[], None],
        request: Request,
        taken: Collection[str] = (),
    ) -> None:
        """Starts with nothing asked.

        Args:
            scale: Multiplies the learning-rate factor of one optimizer, or of all.
            rebuild: Forgets the traces of the steps.
            request: What is asked from outside.
            taken: Tags and names of the values of training and evaluations.
        """
        self.reason: str | None = None
        self.is_last = False  # whether the present step is to be as the run's last
        self.request = request
        self.save_asked = False
        self.logged: dict[str, float] = {}  # until the loop hands them to the loggers
        self.shown: dict[str, tuple[str, Any]] = {}  # likewise: kind and data by tag
        self._scale, self._rebuild, self._taken = scale, rebuild, taken

    def stop(self, reason: str, *, is_last: bool = False) -> None:
        """Asks to stop after the present step, for a reason that is logged; the first one counts."""
        self.reason = self.reason or reason
        self.is_last = self.is_last or is_last

    def save(self) -> None:
        """Asks for a checkpoint of the present step."""
        self.save_asked = True

    def scale_learning_rate(self, factor: float, optimizer: str | None = None) -> None:
        """Multiplies the learning-rate factor of one optimizer, or of all."""
        self._scale(factor, optimizer)

    def log(self, values: Values) -> None:
        """Asks the loggers for numbers of the present step, by tag.

        Raises:
            ConfigurationError: If one of these tags is the name of a value of training or of an evaluation.
        """
        for name in values:
            if name in self._taken:
                raise ConfigurationError(
                    f"controls.log: {name!r} is the name of a value of training or of an evaluation, and "
                    f"logs and history keep one value under a name. Choose another name, such as "
                    f"{f'callback/{name}'!r}."
                )
        self.logged |= {name: float(value) for name, value in values.items()}

    def show(self, tag: str, kind: str, data: Any) -> None:
        """Asks the loggers to show something richer than a number."""
        self.shown[tag] = kind, data

    def take_logged(self) -> tuple[dict[str, float], dict[str, tuple[str, Any]]]:
        """Returns the numbers, and kind and data of what else, that were asked to be logged; once each."""
        taken, self.logged, self.shown = (self.logged, self.shown), {}, {}
        return taken

    def rebuild(self) -> None:
        """Has the steps traced anew, since what they read from Python has changed."""
        self._rebuild()
