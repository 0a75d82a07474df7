"""One way in a fresh process: trains a workload in turns, and prints what each came to as a line of JSON.

python -m benchmarks.measure WORKLOAD WAY [--seconds S] [--replicas N] [--extra EXTRA] [--epoch STEPS]

Before each turn it waits for a line, `go`, or `stop` if there is none; see `benchmarks.ring`.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks import ways
from benchmarks.clock import Clock
from benchmarks.workloads import WORKLOADS


def main() -> int:
    """Trains as it is told on standard input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measure", description=__doc__.splitlines()[0])
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("way")
    parser.add_argument("--seconds", type=float, default=0.3, help="of the epochs of a turn (0.3)")
    parser.add_argument("--replicas", type=int, default=1, help="simulated on the CPU, above 1 (1)")
    extras = ("", "log", "keep", "save", "wait")
    parser.add_argument("--extra", choices=extras, default="", help="what is done besides")
    parser.add_argument("--epoch", type=int, help="steps of an epoch, for trying things out")

    told = sys.stdout  # a way may send elsewhere what it prints

    def wait(clock: Clock) -> bool:
        print(json.dumps(_last(clock)), file=told, flush=True)
        return sys.stdin.readline().strip() == "go"

    print(json.dumps(measured(**vars(parser.parse_args()), wait=wait)), flush=True)
    return 0


def _last(clock: Clock) -> dict[str, Any]:
    """Returns what the last turn came to; nothing before the first."""
    if not clock.turns:
        return {}
    turn = clock.turns[-1]
    processor = 1e6 * turn.processor / turn.steps
    return {"microseconds": round(turn.microseconds, 2), "processor": round(processor, 2)}


def measured(
    workload: str,
    way: str,
    *,
    seconds: float,
    wait: Callable[[Clock], bool],
    replicas: int = 1,
    extra: str = "",
    epoch: int | None = None,
) -> dict[str, Any]:
    """Trains turn by turn.

    Returns:
        `loss`, of the first epoch; `startup`, seconds from the start of the process to the end of the first
        execution; `preparing`, those of it that the way itself took, without the steps' own time (networks,
        tracing, compiling, the first batch, and what looplab spends on finding its mode); `stall`,
        milliseconds for which steps waited for a checkpoint, the mean, where looplab saved some; `peak`, MiB
        of resident memory at most; `grown`, those of it that came after TensorFlow's import.
    """
    train = ways.find(way)
    import keras  # noqa: F401 - with TensorFlow: what every way needs
    import tensorflow  # noqa: F401 - likewise

    process = psutil.Process()
    before = process.memory_info().rss
    chosen = WORKLOADS[workload] if epoch is None else WORKLOADS[workload].shortened(epoch)
    strategy = _strategy(replicas)
    clock = Clock(seconds, wait)
    with tempfile.TemporaryDirectory() as folder:
        train(chosen, clock, strategy=strategy, extra=extra, folder=folder)
        outcome = Path(folder) / "run" / "outcome.json"
        saves = json.loads(outcome.read_text(encoding="utf-8"))["saves"] if outcome.exists() else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    assert clock.first_at is not None
    return {
        "loss": clock.losses[0],
        "startup": round(clock.first_at - process.create_time(), 3),
        "preparing": round(clock.preparing(), 3),
        "stall": saves and saves["count"] and round(1000 * saves["stall_seconds"] / saves["count"], 2),
        "peak": round(peak / 2**20, 1),
        "grown": round((peak - before) / 2**20, 1),
    }


def _strategy(replicas: int) -> Any:
    if replicas == 1:
        return None
    import looplab

    return looplab.strategy.simulated(replicas)


if __name__ == "__main__":
    sys.exit(main())
