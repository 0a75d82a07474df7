"""Where the wall time went: every second belongs to exactly one part.

The parts add up by construction: at any instant one of them runs, the innermost. A part may have parts
of its own, `"start/import"`.
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
    """How the time stood.

    Attributes:
        parts: Seconds by part.
        done: Numbers of steps and examples, and of what else is counted.
    """

    parts: Mapping[str, float]
    done: Mapping[str, int]

    def timing(self, since: Moment) -> dict[str, float]:
        """Returns rates, which no pause makes lower, and the seconds of each part, for a record.

        `input_share` is what part of the time of steps they waited for batches.

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
    """A stretch of time, as a context manager; see `WallTime.time`.

    Attributes:
        part: What it counts as; may change until it ends, when more is known.
        seconds: Of it so far, without those of the blocks within it.
    """

    def __init__(self, part: str, wall_time: WallTime) -> None:
        """Belongs to the time of a run."""
        self.part, self.seconds = part, 0.0
        self._wall_time = wall_time

    def __enter__(self) -> Block:
        """Begins."""
        self._wall_time.begin(self)
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends, however."""
        self._wall_time.end()


class WallTime:
    """Counts the seconds of each part of a run; on the host, in one thread.

    Attributes:
        taken: Whether it is a run's; see `taken`.
        retraces: How often steps were traced again because batches, or what they read, had changed.
        stalls: Seconds for which steps waited for each checkpoint that was saved.
        compilations: Seconds of each call in which XLA has compiled steps: for each kind of batch anew.
        start_up: What the time up to the end of the first execution consists of; None before.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
        rest: str = "start/other",
    ) -> None:
        """Begins to count.

        Args:
            clock: Gives seconds, never fewer than before.
            began: What the clock said when it all began; now if not given.
            rest: What time counts as that is in no block.
        """
        self._clock = clock
        self._turned = clock() if began is None else began
        self._ended: defaultdict[str, float] = defaultdict(float)  # seconds of blocks that have ended
        self._blocks = [Block(rest, self)]
        self._done: Counter[str] = Counter()  # by what, in the seconds of steps and of input
        self.taken = False
        self.retraces = 0
        self.compilations: list[float] = []
        self.stalls: list[float] = []
        self.start_up: dict[str, float] | None = None

    def time(self, part: str) -> Block:
        """Counts a `with` block as a part; without the blocks within it, which count for themselves."""
        return Block(part, self)

    def begin(self, block: Block) -> None:
        """Counts what comes as this block's."""
        self._turn()
        self._blocks.append(block)

    def end(self) -> None:
        """Ends the innermost block."""
        self._turn()
        block = self._blocks.pop()
        self._ended[block.part] += block.seconds

    def move(self, seconds: float, block: Block, part: str) -> None:
        """Counts some of a block's seconds, at most what it has, as those of another part."""
        self._turn()
        some = min(seconds, block.seconds)
        block.seconds -= some
        self._ended[part] += some

    def rest(self, part: str) -> None:
        """Says what time counts as from now on that is in no block."""
        self._turn()
        self._ended[self._blocks[0].part] += self._blocks[0].seconds
        self._blocks[0] = Block(part, self)

    def first_execution_ended(self) -> None:
        """Notes where the time went before; the second time nothing happens."""
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
            steps: How many.
            examples: How many examples these steps had; None if that is not known.
            each: What else is counted of an example, by name: tokens, FLOPs.
        """
        examples = examples or 0
        self._done += Counter(steps=steps, examples=examples, **{k: n * examples for k, n in each.items()})

    def moment(self) -> Moment:
        """Returns how things stand."""
        return Moment(self.parts(), dict(self._done))

    def parts(self) -> dict[str, float]:
        """Returns the seconds so far of every part in `PARTS`; they add up to all the time."""
        found = dict.fromkeys(PARTS, 0.0)
        for part, seconds in self._all().items():
            found[part.partition("/")[0]] += seconds
        return found

    def lines(self) -> list[tuple[str, str]]:
        """Returns what a person is told of it, as `(label, text)`."""
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
        """Returns what `outcome.json` says of it: `wall_time` adds up to `seconds`."""
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
    """Keeps the time for the run that comes of the block, which `taken` finds.

    Args:
        make: Where none is kept yet that no run has taken.
    """
    kept = _starting.get()
    wall_time = make() if kept is None or kept.taken else kept
    token = _starting.set(wall_time)
    try:
        yield wall_time
    finally:
        _starting.reset(token)


def taken() -> WallTime:
    """Returns the time of the start that is under way, or a new one; it is a run's from now on."""
    kept = _starting.get()
    wall_time = WallTime() if kept is None or kept.taken else kept
    wall_time.taken = True
    return wall_time


def of_process() -> WallTime:
    """Returns one that began with this process; what was before now counts as launch.

    That is Python, what a command imports at once, and the script that became this process.
    """
    now = time.monotonic()
    wall_time = WallTime(began=now - _age(), rest="start/launch")
    wall_time.rest("start/compose")
    return wall_time


def _age() -> float:
    """Returns for how many seconds this process has run; 0 where the system does not say."""
    try:
        # Not psutil's, which on Linux counts from a time of boot in whole seconds.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, AttributeError, IndexError):
        return 0.0


def _in_words(parts: Mapping[str, float], notes: Mapping[str, str] = MappingProxyType({})) -> str:
    """Returns what is long enough to be said, each with its note."""
    said = {part: f"{part} {seconds:.1f}" for part, seconds in parts.items() if seconds >= 0.05}
    return ", ".join(f"{text} ({notes[part]})" if part in notes else text for part, text in said.items())


def _rounded(parts: Mapping[str, float]) -> dict[str, float]:
    return {part: round(seconds, 4) for part, seconds in parts.items()}
