"""What was measured: a file of it, and figures drawn from it."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FORMAT = 2


@dataclass
class Results:
    """One run of the benchmark.

    Attributes:
        machine: Where it ran, and with what.
        measurements: As `runner.run` finds them.
    """

    machine: dict[str, Any]
    measurements: list[dict[str, Any]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Writes all of it; what was there before is replaced at once."""
        content = {"format": FORMAT, "machine": self.machine, "measurements": self.measurements}
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        beside.replace(path)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Reads what `write` wrote.

        Raises:
            ValueError: If it is no such file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path} is no file that this scripts/benchmark wrote: measure again")
        return cls(content["machine"], content["measurements"])

    def of(self, section: str, **where: Any) -> list[dict[str, Any]]:
        """Returns the measurements that succeeded, of a section and with these attributes."""
        wanted = {"section": section, **where}
        return [
            each
            for each in self.measurements
            if "error" not in each and all(each[key] == value for key, value in wanted.items())
        ]

    def names(self, section: str, key: str) -> list[str]:
        """Returns the workloads or ways of a section, in the order they were measured first."""
        return list(dict.fromkeys(each[key] for each in self.measurements if each["section"] == section))

    def by_round(self, section: str, what: str = "microseconds", **where: Any) -> dict[int, float]:
        """Returns a quantity by the round; by the process, if that is what each has one of."""
        found: dict[int, float] = {}
        for process, each in enumerate(self.of(section, **where), start=1):
            values = each[what] if isinstance(each[what], dict) else {process: each[what]}
            found |= {int(number): value for number, value in values.items()}  # JSON has its keys as texts
        return found

    def median(self, section: str, what: str = "microseconds", **where: Any) -> float | None:
        """Returns the median of a quantity over the rounds; None if it was not measured."""
        values = self.by_round(section, what, **where).values()
        return statistics.median(values) if values else None

    def best(self, section: str, ways: Sequence[str], **where: Any) -> str | None:
        """Returns the fastest of some ways, by the median over the rounds; None if none was measured."""
        times = {way: self.median(section, way=way, **where) for way in ways}
        return min((way for way in ways if times[way]), key=lambda way: times[way] or 0.0, default=None)


@dataclass(frozen=True)
class Ratio:
    """A quotient of two times, each pair from one round.

    Attributes:
        median: Over the rounds.
        least: Half of the rounds lie between this, their first quartile,
        most: and their third.
    """

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        """As it stands in a table: the median, and the spread where there is one."""
        return f"{self.median:.2f}" + (
            f" ({self.least:.2f}-{self.most:.2f})" if self.least < self.most else ""
        )


def ratio(over: dict[int, float], under: dict[int, float]) -> Ratio | None:
    """Divides times of the same rounds; None where no round has both."""
    found = [over[number] / under[number] for number in over if number in under]
    if len(found) < 2:
        return Ratio(found[0], found[0], found[0]) if found else None
    least, median, most = statistics.quantiles(found, n=4, method="inclusive")
    return Ratio(median, least, most)


def geometric_mean(ratios: Sequence[Ratio]) -> float:
    """Returns the geometric mean of medians."""
    return math.exp(statistics.fmean(math.log(each.median) for each in ratios))


def machine() -> dict[str, Any]:
    """Returns what a later run must share to be compared."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("describe", "--always", "--dirty", "--abbrev=12"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("tensorflow", "keras", "numpy", "looplab")},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, timeout=30)
    except OSError:
        return None
    return done.stdout.strip() or None
