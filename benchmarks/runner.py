"""Rounds of measurements, each in a fresh process, interleaved so that noise falls on all alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import orbit_packages
from benchmarks.plan import Case

_UNTRIED = "not tried again: it failed in an earlier round"


def run(
    cases: Sequence[Case],
    *,
    rounds: int,
    words: Sequence[str],
    timeout: float,
    limit: float | None,
    tell: Callable[[str], None],
    found: Callable[[dict[str, Any]], None],
) -> None:
    """Measures every case once in each round.

    Args:
        cases: In their order within a round.
        rounds: How many.
        words: More arguments for each process.
        timeout: Seconds for one process, which then counts as broken.
        limit: Seconds after which no further process is started; None for no limit.
        tell: Told what is going on, in lines.
        found: Given each measurement, as it is written to the file: the case, `round`, and what the process
            said, or `error`.
    """
    began = time.monotonic()
    broken: dict[Case, str] = {}
    without_orbit = orbit_packages.install() if any("orbit" in case.way for case in cases) else None
    for number in range(1, rounds + 1):
        for index, case in enumerate(cases, 1):
            if limit is not None and time.monotonic() - began > limit:
                left = len(cases) - index + 1 + (rounds - number) * len(cases)
                tell(f"stopped after {limit:g} s: {left} measurements are left out")
                return
            if "orbit" in case.way and without_orbit:
                broken[case] = f"Orbit is not installed: {without_orbit}"
            elif case not in broken:
                since = time.monotonic()
                result = measure(case, words, timeout)
                took = f"({time.monotonic() - since:.0f} s)"
                said = result.get("error") or f"{result['microseconds']:,.0f} µs a step"
                tell(f"round {number}/{rounds}, {index}/{len(cases)}  {case}: {said} {took}")
                found({**case.to_json(), "round": number, **result})
                if "error" in result:
                    broken[case] = _UNTRIED
                continue
            if broken[case] != _UNTRIED and number == 1:
                tell(f"{case}: {broken[case]}")
                found({**case.to_json(), "round": number, "error": broken[case]})


def measure(case: Case, words: Sequence[str], timeout: float) -> dict[str, Any]:
    """Runs one process; returns what it said, or `error` in one line."""
    command = [sys.executable, "-m", "benchmarks.measure", *case.words(), *words]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {timeout:g} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"ended with {done.returncode}"}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))
