"""One measurement in a fresh process: trains a workload one way, and prints one line of JSON.

python -m benchmarks.measure WORKLOAD WAY [--seconds S] [--replicas N] [--extra EXTRA] [--epoch STEPS]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from benchmarks import ways
from benchmarks.clock import Clock
from benchmarks.workloads import WORKLOADS


def main() -> int:
    """Measures, and prints what was found as the last line of standard output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measure", description=__doc__.splitlines()[0])
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("way")
    parser.add_argument("--seconds", type=float, default=3.0, help="of the epochs that count (3)")
    parser.add_argument("--replicas", type=int, default=1, help="simulated on the CPU, above 1 (1)")
    parser.add_argument(
        "--extra", choices=("", "log", "keep", "save", "wait"), default="", help="what is done besides"
    )
    parser.add_argument("--epoch", type=int, help="steps of an epoch, for trying things out")
    args = parser.parse_args()
    print(json.dumps(measured(**vars(args))))
    return 0


def measured(
    workload: str, way: str, *, seconds: float, replicas: int = 1, extra: str = "", epoch: int | None = None
) -> dict[str, Any]:
    """Trains until the clock has seen enough.

    Returns:
        `microseconds`, of a step, the median over epochs; `epochs`, each epoch's; `processor`,
        likewise of processor time, which others on the machine disturb less; `loss`, of the first epoch;
        `startup`, seconds from the start of the process to the end of the first execution; `preparing`,
        those of it that the way itself took, without the steps' own time (networks, tracing, compiling,
        the first batch, and what looplab spends on finding its mode); `stall`, milliseconds for which
        steps waited for a checkpoint, the mean, where looplab saved some; `peak`, MiB of resident memory
        at most; `grown`, those of it that came after TensorFlow's import.
    """
    train = ways.find(way)
    import keras  # noqa: F401 - with TensorFlow: what every way needs
    import tensorflow  # noqa: F401 - likewise

    process = psutil.Process()
    before = process.memory_info().rss
    chosen = WORKLOADS[workload] if epoch is None else WORKLOADS[workload].shortened(epoch)
    strategy = _strategy(replicas)
    clock = Clock(seconds)
    with tempfile.TemporaryDirectory() as folder:
        train(chosen, clock, strategy=strategy, extra=extra, folder=folder)
        outcome = Path(folder) / "run" / "outcome.json"
        saves = json.loads(outcome.read_text(encoding="utf-8"))["saves"] if outcome.exists() else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    epochs = clock.epochs()
    assert clock.first_at is not None
    return {
        "microseconds": round(statistics.median(epochs), 2),
        "epochs": [round(each, 2) for each in epochs],
        "processor": round(statistics.median(clock.processor()), 2),
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
