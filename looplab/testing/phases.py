"""The phases of training with callbacks that freeze layers: each phase trains another step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from looplab.callbacks import Callback, Freeze

_ORDER = ("st", "ex", "ep", "min")  # of units, if two intervals cannot be compared


@dataclass(frozen=True)
class Phase:
    """The callbacks that freeze layers while a step trains.

    Attributes:
        name: Its name; empty if no callback freezes anything.
        held: The callbacks that freeze in this phase.
    """

    name: str = ""
    held: tuple[Freeze, ...] = ()


def phases(callbacks: Sequence[Callback]) -> list[Phase]:
    """Returns the phases that `Freeze` callbacks create: the first one, and one after each thaw."""
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
