"""The policy of checkpoints: when to save, which to keep, and which one is best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from looplab.errors import ConfigurationError
from looplab.interval import Interval
from looplab.options import bounds
from looplab.options.directions import rises
from looplab.options.value_types import FREE, SAID, Every, OneOf, Switch, Text


@dataclass(frozen=True)
class Policy:
    """The policy for saving and keeping checkpoints.

    `fit` always saves a checkpoint at its end, and the last one is always kept.

    Attributes:
        every: The interval between checkpoints, such as `"1ep"`, `"500st"`, `"10min"`.
        keep_last: The number of newest checkpoints to keep, at least 1.
        keep_best: The number of best checkpoints to keep as well, at least 1; of two with equal values the
            earlier one.
        keep_every: The interval of checkpoints that are never deleted, such as `"10ep"`; they are also saved
            if `every` would not save them. None for none.
        monitor: The value that decides which is best: `val_<metric>` of an evaluation, `<set>_<metric>` of
            another set, or `<metric>` of a training epoch. Without validation data `val_loss` means the
            training loss.
        mode: `"min"`, `"max"`, or `"auto"`: the name decides. Accuracies, scores, returns and the like rise,
            and losses and errors fall. looplab warns of a name that it does not know, which falls.
        verify: Whether each checkpoint is restored into the live state after it is written, and
            compared. The run ends if one differs.
        asynchronous: Whether training continues while a checkpoint is written. `on_save` and `verify` wait
            until it is written.
        durable: Whether a checkpoint counts only when it is on the disk (`fsync`), so that a power failure
            cannot damage it.
    """

    every: Annotated[str | int, Every(clock=True), SAID] = "1ep"
    keep_last: Annotated[int, bounds.KEPT, FREE] = 2
    keep_best: Annotated[int, bounds.KEPT, FREE] = 1
    keep_every: Annotated[str | int | None, Every(), FREE] = None
    monitor: Annotated[str, Text("the name of a value"), SAID] = "val_loss"
    mode: Annotated[str, OneOf(("auto", "min", "max")), SAID] = "auto"
    verify: Annotated[bool, Switch(), FREE] = False
    asynchronous: Annotated[bool, Switch(), FREE] = True
    durable: Annotated[bool, Switch(), FREE] = True

    def __post_init__(self) -> None:
        """Checks the values that can be checked without a run.

        Raises:
            ConfigurationError: If a value is out of its range.
        """
        _ = self.interval
        if self.kept_interval is not None and self.kept_interval.wall_clock:
            raise ConfigurationError(
                f"checkpoint.keep_every: {self.keep_every!r} is wall-clock time, which does not tell later "
                "which checkpoints to keep. Use steps, epochs or examples."
            )
        for name in ("keep_last", "keep_best"):
            bounds.whole(f"checkpoint.{name}", getattr(self, name), bounds.KEPT)
        if self.mode not in ("auto", "min", "max"):
            raise ConfigurationError(f"checkpoint.mode: {self.mode!r} is not one of 'auto', 'min', 'max'.")

    @cached_property
    def interval(self) -> Interval:
        """`every` as an interval."""
        return Interval.parse(self.every, what="checkpoint.every")

    @cached_property
    def kept_interval(self) -> Interval | None:
        """`keep_every` as an interval, or None."""
        return (
            None if self.keep_every is None else Interval.parse(self.keep_every, what="checkpoint.keep_every")
        )

    def better(self, value: float, best: float | None) -> bool:
        """Returns whether `value` is better than the best so far; NaN never is."""
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value > best if rises(self.monitor, self.mode) else value < best

    def ranked(self, top: Sequence[dict[str, Any]], found: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns the best evaluations so far, best first, with a new one if it is among them.

        Args:
            top: The best evaluations before, each with its `"monitor"` and `"value"`; those of another
                monitor no longer count.
            found: The new evaluation.
        """
        value = found["value"]
        if math.isnan(value):
            return list(top)
        top = [other for other in top if other["monitor"] == found["monitor"]]
        place = next((i for i, other in enumerate(top) if self.better(value, other["value"])), len(top))
        return [*top[:place], found, *top[place:]][: self.keep_best]

    def value(self, values: Mapping[str, float], *, evaluated: bool) -> tuple[str, float] | None:
        """Returns name and value of the monitor at a step; without validation data, of the training loss.

        Args:
            values: The values of the evaluations at a step, and of the epoch that ended there.
            evaluated: Whether the run has validation data.
        """
        if self.monitor in values:
            return self.monitor, values[self.monitor]
        plain = self.monitor.removeprefix("val_")
        return (plain, values[plain]) if plain in values and not evaluated else None
