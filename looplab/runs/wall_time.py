"""Measures how the wall time is spent: every second belongs to exactly one part.

The parts add up by construction: at any time one of them runs, the innermost. A part may have parts of its
own, such as `"start/import"`.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from looplab.runs.tags import PART, RATE

PARTS = (
    "start",
    "input",
    "step",
    "trace and compile",
    "evaluation",
    "checkpoint",
    "logging",
    "callbacks",
    "other",
)
_STARTS = (  # in reading order
    "launch",
    "compose",
    "import",
    "build",
    "restore",
    "measured ways",
    "trace",
    "compile",
    "first batch",
)


class Moment(NamedTuple):
    """The times and counts at one moment.

    Attributes:
        parts: Seconds by part.
        done: Counts of steps, examples and other units.
    """

    parts: Mapping[str, float]
    done: Mapping[str, int]

    def timing(self, since: Moment) -> dict[str, float]:
        """Returns rates, which pauses do not lower, and the seconds of each part, for a record.

        `input_share` is the share of the time of steps in which they waited for batches.

        Args:
            since: An earlier moment of the same run.
        """
        spent = {part: seconds - since.parts[part] for part, seconds in self.parts.items()}
        active = spent["step"] + spent["input"]
        done = {what: number - since.done.get(what, 0) for what, number in self.done.items()}
        rates = {f"{what}_{RATE}": number / active for what, number in done.items() if number and active}
        if active:
            rates["input_share"] = spent["input"] / active
        return rates | {f"{PART}{part}": seconds for part, seconds in spent.items()}


class Block:
    """A period of time, as a context manager; see `WallTime.time`.

    Attributes:
        part: The part to which it counts; may change until the block ends, when more is known.
        seconds: Its seconds so far, without those of blocks within it.
    """

    def __init__(self, part: str, wall_time: WallTime) -> None:
        """Creates a block for the time of a run."""
        self.part, self.seconds = part, 0.0
        self._wall_time = wall_time

    def __enter__(self) -> Block:
        """Begins."""
        self._wall_time.begin(self)
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the block, also after an exception."""
        self._wall_time.end()


class WallTime:
    """Counts the seconds of each part of a run; on the host, in one thread.

    Attributes:
        taken: Whether it belongs to a run; see `taken`.
        retraces: How often steps were traced again because batches, or values that they read, had changed.
        stalls: Seconds for which steps waited for each checkpoint.
        compilations: Seconds of each call in which XLA compiled steps, which it does for each kind of batch.
        start_up: The parts of the time up to the end of the first execution; None before that.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
        rest: str = "start/other",
    ) -> None:
        """Begins to count.

        Args:
            clock: Returns seconds, which never decrease.
            began: The time of the clock at the beginning; now if None.
            rest: The part to which time outside of blocks counts.
        """
        self._clock = clock
        self._turned = clock() if began is None else began
        self._ended: defaultdict[str, float] = defaultdict(float)  # seconds of blocks that have ended
        self._blocks = [Block(rest, self)]
        self._done: Counter[str] = Counter()  # counts by unit, within the time of steps and of input
        self.taken = False
        self.retraces = 0
        self.compilations: list[float] = []
        self.stalls: list[float] = []
        self.start_up: dict[str, float] | None = None

    def time(self, part: str) -> Block:
        """Returns a `with` block that counts as a part, without the blocks within it."""
        return Block(part, self)

    def begin(self, block: Block) -> None:
        """Counts the following time as this block's."""
        self._turn()
        self._blocks.append(block)

    def end(self) -> None:
        """Ends the innermost block."""
        self._turn()
        block = self._blocks.pop()
        self._ended[block.part] += block.seconds

    def move(self, seconds: float, block: Block, part: str) -> None:
        """Moves some of a block's seconds, at most all of them, to another part."""
        self._turn()
        some = min(seconds, block.seconds)
        block.seconds -= some
        self._ended[part] += some

    def rest(self, part: str) -> None:
        """Sets the part to which time outside of blocks counts from now on."""
        self._turn()
        self._ended[self._blocks[0].part] += self._blocks[0].seconds
        self._blocks[0] = Block(part, self)

    def first_execution_ended(self) -> None:
        """Stores how the time before was spent; does nothing when called again."""
        if self.start_up is None:
            found: defaultdict[str, float] = defaultdict(float)
            for part, seconds in self._all().items():
                if seconds > 0:
                    found[part.rpartition("/")[2]] += seconds
            known = [part for part in _STARTS if part in found]
            self.start_up = {part: found[part] for part in dict.fromkeys([*known, *found])}

    def count(self, steps: int, examples: int | None, each: Mapping[str, int] = MappingProxyType({})) -> None:
        """Counts what was done in the time of steps.

        Args:
            steps: The number of steps.
            examples: The number of examples in these steps; None if it is not known.
            each: Other units per example, by name: tokens, FLOPs.
        """
        examples = examples or 0
        self._done += Counter(steps=steps, examples=examples, **{k: n * examples for k, n in each.items()})

    def moment(self) -> Moment:
        """Returns the current times and counts."""
        return Moment(self.parts(), dict(self._done))

    def parts(self) -> dict[str, float]:
        """Returns the seconds so far of every part in `PARTS`; they add up to the whole time."""
        found = dict.fromkeys(PARTS, 0.0)
        for part, seconds in self._all().items():
            found[part.partition("/")[0]] += seconds
        return found

    def lines(self) -> list[tuple[str, str]]:
        """Returns the lines for the end of the run, as `(label, text)`."""
        parts = self.parts()
        active = parts["step"] + parts["input"]
        notes = {"step": self._speed(active)} if self._done["steps"] and active else {}
        if self.stalls:
            count, longest = len(self.stalls), 1000 * max(self.stalls)
            notes["checkpoint"] = f"{count} save{'s' * (count > 1)}; steps waited at most {longest:.0f} ms"
        lines = [("time", f"{sum(parts.values()):.1f} s: {_in_words(parts, notes)}")]
        if self.start_up is not None:
            total = sum(self.start_up.values())
            lines.append(("start", f"{total:.1f} s until after the first step: {_in_words(self.start_up)}"))
        return lines

    def _speed(self, active: float) -> str:
        rate = self._done["steps"] / active
        said = [f"{rate:,.0f} steps/s" if rate >= 1 else f"{1 / rate:,.1f} s/step"]
        if tokens := self._done["tokens"]:
            said.append(f"{tokens / active:,.0f} tokens/s")
        if flops := self._done["flops"]:
            said.append(f"{flops / active / 1e9:,.3g} GFLOP/s")
        return ", ".join(said)

    def facts(self) -> dict[str, Any]:
        """Returns the facts for `outcome.json`: `wall_time` adds up to `seconds`."""
        parts = self.parts()
        return {
            "seconds": round(sum(parts.values()), 3),
            "wall_time": _rounded(parts),
            "saves": {
                "count": len(self.stalls),
                "stall_seconds": round(sum(self.stalls), 4),
                "longest_stall_seconds": round(max(self.stalls, default=0.0), 4),
            },
            "retraces": self.retraces,
            "compilations": len(self.compilations),
            "compilation_seconds": round(sum(self.compilations), 3),
            "start_up": self.start_up and _rounded(self.start_up),
        }

    def _all(self) -> dict[str, float]:
        self._turn()
        found = self._ended.copy()
        for block in self._blocks:
            found[block.part] += block.seconds
        return found

    def _turn(self) -> None:
        now = self._clock()
        self._blocks[-1].seconds += now - self._turned
        self._turned = now


_starting: ContextVar[WallTime | None] = ContextVar("_starting", default=None)


@contextmanager
def starting(make: Callable[[], WallTime] = WallTime) -> Iterator[WallTime]:
    """Provides the time for the run that starts in the block; `taken` returns it.

    Args:
        make: Creates it, if there is none yet that no run has taken.
    """
    kept = _starting.get()
    wall_time = make() if kept is None or kept.taken else kept
    token = _starting.set(wall_time)
    try:
        yield wall_time
    finally:
        _starting.reset(token)


def taken() -> WallTime:
    """Returns the time of the current start, or a new one; from now on it belongs to a run."""
    kept = _starting.get()
    wall_time = WallTime() if kept is None or kept.taken else kept
    wall_time.taken = True
    return wall_time


def of_process() -> WallTime:
    """Returns a time that began with this process; the time until now counts as launch.

    That is the time of Python, of a command's first imports, and of the script that became this process.
    """
    now = time.monotonic()
    wall_time = WallTime(began=now - _age(), rest="start/launch")
    wall_time.rest("start/compose")
    return wall_time


def _age() -> float:
    """Returns the age of this process in seconds; 0 if the system does not tell it."""
    try:
        # psutil would not do: on Linux it counts from a boot time in whole seconds.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, AttributeError, IndexError):
        return 0.0


def _in_words(parts: Mapping[str, float], notes: Mapping[str, str] = MappingProxyType({})) -> str:
    """Returns the parts that are long enough to show, each with its note."""
    said = {part: f"{part} {seconds:.1f}" for part, seconds in parts.items() if seconds >= 0.05}
    return ", ".join(f"{text} ({notes[part]})" if part in notes else text for part, text in said.items())


def _rounded(parts: Mapping[str, float]) -> dict[str, float]:
    return {part: round(seconds, 4) for part, seconds in parts.items()}
