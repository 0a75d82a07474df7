"""The requests of callbacks and signals to the loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

from looplab.errors import ConfigurationError, nearest
from looplab.protocols import Values
from looplab.runs.signals import Request


class RunControls:
    """The requests of callbacks and signals to the loop; see `looplab.protocols.Controls`."""

    def __init__(
        self,
        scale: Callable[[float, str | None], None],
        rebuild: Callable[[], None],
        request: Request,
        taken: Collection[str] = (),
    ) -> None:
        """Starts without requests.

        Args:
            scale: Multiplies the learning-rate factor of one optimizer, or of all.
            rebuild: Discards the traces of the steps.
            request: The request from outside.
            taken: Tags and names of the values of training and evaluations.
        """
        self.reason: str | None = None
        self.is_last = False  # whether the present step counts as the run's last
        self.request = request
        self.save_asked = False
        self.logged: dict[str, float] = {}  # until the loop passes them to the loggers
        self.shown: dict[str, tuple[str, Any]] = {}  # also: kind and data by tag
        self.stated: dict[str, Any] | None = None  # the result of the run
        self._scale, self._rebuild, self._taken = scale, rebuild, taken

    def stop(self, reason: str, *, is_last: bool = False) -> None:
        """Requests a stop after the present step, for a reason that is logged; the first reason counts."""
        self.reason = self.reason or reason
        self.is_last = self.is_last or is_last

    def save(self) -> None:
        """Requests a checkpoint of the present step."""
        self.save_asked = True

    def scale_learning_rate(self, factor: float, optimizer: str | None = None) -> None:
        """Multiplies the learning-rate factor of one optimizer, or of all."""
        self._scale(factor, optimizer)

    def log(self, values: Values) -> None:
        """Logs numbers of the present step, by tag.

        Raises:
            ConfigurationError: If one of these tags is the name of a value of training or of an evaluation.
        """
        for name in values:
            if name in self._taken:
                raise ConfigurationError(
                    f"controls.log: {name!r} is a value of training or of an evaluation already, and logs "
                    f"and history keep one value under a name. Use another name, such as "
                    f"{f'callback/{name}'!r}."
                )
        self.logged |= {name: float(value) for name, value in values.items()}

    def show(self, tag: str, kind: str, data: Any) -> None:
        """Shows an image, a histogram, a text or a curve of the present step."""
        self.shown[tag] = kind, data

    def result(self, name: str, value: float, *, baseline: float, mode: str = "max") -> None:
        """States the result of the run beside a baseline.

        Raises:
            ConfigurationError: If the baseline is not finite, or the mode is another word.
        """
        value, baseline = float(value), float(baseline)
        if mode not in ("max", "min"):
            raise ConfigurationError(
                f"controls.result: mode={mode!r} is not 'max' or 'min'.{nearest(str(mode), ('max', 'min'))}"
            )
        if not math.isfinite(baseline):
            raise ConfigurationError(
                f"controls.result: the baseline of {name!r} is {baseline}, to which nothing can be compared. "
                "Give a finite number."
            )
        is_better = value > baseline if mode == "max" else value < baseline
        met = math.isfinite(value) and is_better
        shown = value if math.isfinite(value) else None
        self.stated = {"name": name, "value": shown, "baseline": baseline, "mode": mode, "met": met}

    def take_logged(self) -> tuple[dict[str, float], dict[str, tuple[str, Any]]]:
        """Returns the requested numbers, and kind and data of requested media by tag; each once."""
        taken, self.logged, self.shown = (self.logged, self.shown), {}, {}
        return taken

    def rebuild(self) -> None:
        """Makes the steps be traced again, because values that they read from Python have changed."""
        self._rebuild()
