"""The phases of a training that freezes layers for a time: in each of them another step trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from looplab.callbacks import Callback, Freeze

_ORDER = ("st", "ex", "ep", "min")  # of units, where two cannot be compared


@dataclass(frozen=True)
class Phase:
    """What is frozen while a step trains.

    Attributes:
        name: In words; empty where nothing is frozen by a callback.
        held: Those that freeze now.
    """

    name: str = ""
    held: tuple[Freeze, ...] = ()


def phases(callbacks: Sequence[Callback]) -> list[Phase]:
    """Returns the phases that the `Freeze`s among callbacks make: at first, and after each thaw."""
    freezes = [callback for callback in callbacks if isinstance(callback, Freeze)]
    if not freezes:
        return [Phase()]
    untils = {freeze.until for freeze in freezes if freeze.until is not None}
    found = [Phase(_name(freezes), tuple(freezes))]
    for until in sorted(untils, key=lambda each: (_ORDER.index(each.unit), each.count)):
        held = [freeze for freeze in found[-1].held if freeze.until != until]
        found.append(Phase(f"after {until}{f', {_name(held)}' if held else ''}", tuple(held)))
    return found


def _name(held: Sequence[Freeze]) -> str:
    patterns = dict.fromkeys(pattern for freeze in held for pattern in freeze.patterns)
    return f"{', '.join(patterns)} frozen"
