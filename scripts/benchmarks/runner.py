"""Rings of measurements: what is compared trains in turns, all of it alive at once."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil

from benchmarks import orbit_packages
from benchmarks.plan import Case
from benchmarks.ring import Failed, Member

_MEMORY = 2**30  # bytes that a process takes of its own, and some
_LONG = 5.0  # seconds of a turn; of so long ones two are enough


class Budget:
    """Seconds within which all should end: nothing is begun that took longer, when it did so last."""

    def __init__(self, seconds: float | None) -> None:
        """Begins to count; None is no limit."""
        self._end = None if seconds is None else time.monotonic() + seconds
        self._longest: dict[str, float] = {}

    def allows(self, what: str) -> bool:
        """Whether there is time for one more of a kind."""
        return self._end is None or time.monotonic() + self._longest.get(what, 0.0) < self._end

    @contextmanager
    def spending(self, what: str) -> Iterator[None]:
        """Notes what one takes, within the block."""
        began = time.monotonic()
        yield
        self._longest[what] = max(time.monotonic() - began, self._longest.get(what, 0.0))


def run(
    cases: Sequence[Case],
    *,
    rounds: int,
    generations: int,
    words: Sequence[str],
    timeout: float,
    limit: float | None,
    tell: Callable[[str], None],
    found: Callable[[dict[str, Any]], None],
) -> None:
    """Measures every case in each round; a process that fails is not asked again.

    Args:
        cases: In their order.
        rounds: How many turns each process has.
        generations: How many processes each case has, one after another: two of one case differ by up to
            a fifth for as long as they live, as their memory happens to lie.
        words: More arguments for each process.
        timeout: Seconds for the start of a process, or a turn, which then counts as broken.
        limit: Seconds within which all should end; None for no limit.
        tell: Told what is going on, in lines.
        found: Given each measurement, as it is written to the file: the case, what its turns came to, by
            round, and what else the process said; or `error`.
    """
    budget = Budget(limit)
    without_orbit = orbit_packages.install() if any("orbit" in case.way for case in cases) else None
    if without_orbit:
        reason = f"Orbit is not installed: {without_orbit}"
        for case in cases:
            if "orbit" in case.way:
                found({**case.to_json(), "error": reason})
                tell(f"{case}: {reason}")
        cases = [case for case in cases if "orbit" not in case.way]
    left = len(cases) * generations
    for some, first in itertools.product(_rings(cases), range(1, generations * rounds + 1, rounds)):
        with ExitStack() as held:
            ring = _Ring(held, tell, found)
            for case in some:
                if budget.allows("start"):
                    with budget.spending("start"):
                        ring.start(Member(case, words, timeout))
                    left -= 1
            for number in range(first, first + rounds):
                if number == first or budget.allows("round"):
                    with budget.spending("round"):
                        ring.go_round(number)
            ring.finish()
    if left:
        tell(f"to end within {limit:g} s, {left} of {len(cases) * generations} measurements are left out")


def _rings(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Gives what trains in turns, as many as there is memory for."""

    def compared(case: Case) -> tuple[Any, ...]:
        alone = case if case.section == "save" else None  # a thread writes on when the turn is over
        return case.section, case.workload, case.replicas, alone

    most = max(2, psutil.virtual_memory().available // _MEMORY)
    for _, group in itertools.groupby(cases, compared):
        ring = list(group)
        yield from (ring[first : first + most] for first in range(0, len(ring), most))


class _Ring:
    """The processes that train in turns."""

    def __init__(
        self, held: ExitStack, tell: Callable[[str], None], found: Callable[[dict[str, Any]], None]
    ) -> None:
        self._held, self._tell, self._found = held, tell, found
        self._members, self._long = list[Member](), set[Member]()

    def start(self, member: Member) -> None:
        """Starts one more, which then waits."""
        began = time.monotonic()
        with self._heeding(member):
            self._members.append(self._held.enter_context(member))
            self._tell(f"{member.case}: ready after {time.monotonic() - began:.0f} s")

    def go_round(self, number: int) -> None:
        """Gives each its turn; to and fro, so that what comes before is not always the same."""
        for member in list(self._members if number % 2 else reversed(self._members)):
            if number > 2 and member in self._long:
                continue
            began = time.monotonic()
            with self._heeding(member):
                member.turn(number)
            if time.monotonic() - began > _LONG:
                self._long.add(member)

    def finish(self) -> None:
        """Ends all, and gives away what was found."""
        for member in list(self._members):
            with self._heeding(member):
                rest = member.finish()
                self._found({**member.case.to_json(), **member.turns, **rest})
                each = statistics.median(member.turns["microseconds"].values())
                self._tell(
                    f"{member.case}: {each:,.0f} µs a step, {len(member.turns['microseconds'])} rounds"
                )

    @contextmanager
    def _heeding(self, member: Member) -> Iterator[None]:
        """Has one that fails within the block be a row, and not asked again."""
        try:
            yield
        except Failed as error:
            if member in self._members:
                self._members.remove(member)
            self._tell(f"{member.case}: {error}")
            self._found({**member.case.to_json(), "error": str(error)})
