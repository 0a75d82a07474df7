"""Which measurements are made, in the order of one round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.ways import FIT, HAND, ORBIT


@dataclass(frozen=True)
class Case:
    """What one process trains.

    Attributes:
        section: The table that it belongs to: `steps`, `replicas`, `log`, `keep` or `save`.
        workload: One of `workloads.WORKLOADS`.
        way: One of `ways`.
        replicas: Over how many simulated devices.
        extra: What is done besides: nothing, `log`, `keep`, `save`, or `wait`: to save and wait for it.
    """

    section: str
    workload: str
    way: str
    replicas: int = 1
    extra: str = ""

    def __str__(self) -> str:
        """What a person is told that runs."""
        extra = f" +{self.extra}" if self.extra else ""
        replicas = f" on {self.replicas} replicas" if self.replicas > 1 else ""
        return f"{self.workload}: {self.way}{extra}{replicas}"

    def words(self) -> list[str]:
        """Returns the arguments of `benchmarks.measure`."""
        options = ["--replicas", str(self.replicas), "--extra", self.extra]
        return [self.workload, self.way, *options]

    def to_json(self) -> dict[str, Any]:
        """Returns it by the names of its attributes."""
        return asdict(self)


SECTIONS = ("steps", "replicas", "log", "keep", "save")


def full(sections: Sequence[str], workloads: Sequence[str], looplab: Sequence[str]) -> list[Case]:
    """Returns every measurement of these sections.

    Args:
        sections: Of `SECTIONS`.
        workloads: Those of `steps`.
        looplab: looplab's ways, as they are today.
    """
    makers = {
        "steps": lambda: _steps(workloads, (*FIT, *ORBIT, *HAND, *looplab)),
        "replicas": lambda: _replicas(looplab),
        "log": lambda: _extra("mlp", "log", looplab),
        "keep": lambda: (case for case in _extra("mlp", "keep", looplab) if case.way in looplab),
        "save": lambda: (
            *_extra("wide", "save", looplab),
            Case("save", "wide", _usual(looplab), extra="wait"),
        ),
    }
    return [case for section in sections for case in makers[section]()]


def quick(looplab: Sequence[str]) -> list[Case]:
    """Returns a few: two workloads of unlike nature, and the cost of logging."""
    ways = ("fit", "hand_loop", "hand_xla_loop", *looplab)
    logged = [Case("log", "mlp", _usual(looplab), extra=extra) for extra in ("", "log")]
    return [*_steps(["mlp"], ways), *logged, *_steps(["lstm"], ways)]


def _steps(workloads: Sequence[str], ways: Sequence[str]) -> Iterator[Case]:
    for workload in workloads:
        for way in ways:
            yield Case("steps", workload, way)


def _replicas(looplab: Sequence[str]) -> Iterator[Case]:
    """On two; on one they are among `steps`."""
    for workload in ("mlp", "cnn"):
        for way in ("fit", "fit_graph_many", "hand_loop", *looplab):
            yield Case("replicas", workload, way, replicas=2)


def _extra(workload: str, extra: str, looplab: Sequence[str]) -> Iterator[Case]:
    """Looplab and its peer, each without and with it."""
    for way in ("fit", _usual(looplab)):
        for done in ("", extra):
            yield Case(extra, workload, way, extra=done)


def _usual(looplab: Sequence[str]) -> str:
    """What a user gets who says nothing, or the first mode while nothing is found by itself."""
    return "looplab_auto" if "looplab_auto" in looplab else looplab[0]
