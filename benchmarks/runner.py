"""Rounds of measurements, each in a fresh process, interleaved so that noise falls on all alike."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import orbit_packages
from benchmarks.plan import Case

_ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b")


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
    """Measures every case once in each round; one that fails is not tried again.

    Args:
        cases: In their order within a round.
        rounds: How many.
        words: More arguments for each process.
        timeout: Seconds for one process, which then counts as broken.
        limit: Seconds within which all should end: nothing is started that would take longer, if it took as
            long as the longest before it. None for no limit.
        tell: Told what is going on, in lines.
        found: Given each measurement, as it is written to the file: the case, `round`, and what the process
            said, or `error`.
    """
    began, longest = time.monotonic(), 0.0
    broken: set[Case] = set()
    without_orbit = orbit_packages.install() if any("orbit" in case.way for case in cases) else None
    for number, (index, case) in itertools.product(range(1, rounds + 1), enumerate(cases, 1)):
        if case in broken:
            continue
        since = time.monotonic()
        if limit is not None and since - began + longest > limit:
            left = (rounds - number + 1) * len(cases) - index + 1
            tell(f"stopped, to end within {limit:g} s: {left} measurements are left out")
            return
        if "orbit" in case.way and without_orbit:
            result: dict[str, Any] = {"error": f"Orbit is not installed: {without_orbit}"}
        else:
            result = measure(case, words, timeout)
        seconds = time.monotonic() - since
        longest = max(longest, seconds)
        if "error" in result:
            broken.add(case)
        said = result.get("error") or f"{result['microseconds']:,.0f} µs a step"
        tell(f"round {number}/{rounds}, {index}/{len(cases)}  {case}: {said} ({seconds:.0f} s)")
        found({**case.to_json(), "round": number, **result})


def measure(case: Case, words: Sequence[str], timeout: float) -> dict[str, Any]:
    """Runs one process; returns what it said, or `error` in one line."""
    command = [sys.executable, "-m", "benchmarks.measure", *case.words(), *words]
    # What looplab finds out it finds out each time: nothing is remembered from one process to the next.
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "XDG_CACHE_HOME": cache}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
        except subprocess.TimeoutExpired:
            return {"error": f"took more than {timeout:g} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return {"error": next(filter(_ERROR.match, reversed(lines)), lines[-1])}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))
