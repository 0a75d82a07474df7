"""How soon the commands answer: whole processes, and the parts of what is checked before TensorFlow's import.

Each section is a function that returns rows, in one table.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

TIMEOUT = 120  # seconds for one process, which then counts as broken


@dataclass
class Row:
    """One thing that was measured: seconds of each round, and what they should stay under."""

    section: str
    name: str
    target: float | None = None
    seconds: list[float] = field(default_factory=list)


def run(measure: Callable[[int], list[Row]], rounds: int, file: Path | None) -> None:
    """Measures so many rounds, shows the table, and writes all to a file if there is to be one."""
    rows = measure(rounds)
    show(rows)
    if file:
        content = {"machine": machine(), "rounds": rounds, "rows": [asdict(row) for row in rows]}
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def show(rows: list[Row]) -> None:
    """Prints the table."""
    numbers = [Column(name, no_wrap=True) for name in ("median", "least", "most", "target")]
    table = Table("what", *numbers)
    for row in rows:
        spread = statistics.median(row.seconds), min(row.seconds), max(row.seconds)
        target = f"under {row.target:g} s" if row.target else ""
        name = f"{row.section}: {row.name}"
        table.add_row(name, *(f"{seconds:.3f} s" for seconds in spread), target)
    console = Console()
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in machine().items()))


def machine() -> dict[str, object]:
    """Returns what else decides over these times."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"python": platform.python_version(), "cores": os.cpu_count(), "load": load}


MODULE = """
import looplab

class Mine(looplab.Trainer):
    def __init__(self, *args, depth=1, **kwargs):
        super().__init__(*args, **kwargs)

class Other:
    def __init__(self, **given):
        pass
"""
EXPERIMENT = """
# @package _global_
# the digits by a trainer of one's own
defaults:
  - override /data: digits
  - override /model: convnet
epochs: 1
loss: {_target_: keras.losses.SparseCategoricalCrossentropy, from_logits: true}
trainer: {_target_: mine.Mine}
"""
PROJECT = {"mine.py": MODULE, "conf/experiment/mine.yaml": EXPERIMENT.lstrip()}
TRAIN = ["-m", "looplab.train"]
FIVE = ["epochs=x", "seed=-1", "strategy.name=x", "checkpoint.every=x", "+optimizer.beta=1"]
PHASE_TWO = "trainer._target_=mine.Other"  # only the imported class tells that it is no looplab.Trainer
# what, words after python, the exit code, the target in seconds
STARTUP: list[tuple[str, list[str], int, float | None]] = [
    ("python -c pass", ["-c", "pass"], 0, None),
    ("import looplab", ["-c", "import looplab"], 0, None),
    ("--help", [*TRAIN, "--help"], 0, 1),
    ("--cfg job", [*TRAIN, "experiment=digits", "--cfg", "job"], 0, 1),
    ("a wrong key on the command line", [*TRAIN, "experiment=digits", "epohcs=1"], 2, 1),
    ("five errors at once", [*TRAIN, "experiment=digits", *FIVE], 2, 1),
    ("an unknown argument of one's own trainer", [*TRAIN, "experiment=mine", "+trainer.detph=2"], 2, 1),
    ("an unknown argument of Keras' Adam", [*TRAIN, "experiment=digits", "+optimizer.epsilo=1"], 2, 1),
    ("a wrong _target_", [*TRAIN, "experiment=digits", "optimizer._target_=keras.optimizers.Adm"], 2, 1),
    ("refused in phase two, after TensorFlow's import", [*TRAIN, "experiment=mine", PHASE_TWO], 2, None),
    ("python -c 'import tensorflow'", ["-c", "import tensorflow"], 0, None),
]


def startup(rounds: int) -> list[Row]:
    """Whole processes, interleaved so that what else the machine does falls on all of them alike."""
    rows = [Row("startup", name, target) for name, _, _, target in STARTUP]
    with tempfile.TemporaryDirectory() as folder:
        for path, text in PROJECT.items():
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).write_text(text, encoding="utf-8")
        for _ in range(rounds):
            for row, (name, words, code, _) in zip(rows, STARTUP, strict=True):
                row.seconds.append(process(name, words, code, folder))
        phases = [phase_one(folder) for _ in range(rounds)]
    rows += [Row("phase one", name, None, [phase[name] for phase in phases]) for name in phases[0]]
    return rows


def process(name: str, words: list[str], code: int, folder: str) -> float:
    """Returns the seconds of one process, which must end as it is due."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT
    )
    seconds = time.perf_counter() - began
    expected = "is not a looplab.Trainer" if PHASE_TWO in words else ""
    if done.returncode != code or expected not in done.stderr:
        sys.exit(f"benchmark: {name} ended with {done.returncode} where {code} was due:\n{done.stderr}")
    return seconds


def phase_one(folder: str) -> dict[str, float]:
    """What is done before TensorFlow is imported, part by part, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.startup"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    return dict(json.loads(done.stdout))


def parts_of_phase_one() -> dict[str, float]:
    """Returns the seconds of each part, measured in this process."""
    parts: dict[str, float] = {}

    def timed(name: str, act: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = act()
        parts[name] = time.perf_counter() - began
        return result

    def imports() -> None:
        import looplab.train  # noqa: F401

    timed("imports", imports)
    from looplab.config import targets
    from looplab.config.compose import compose, understood
    from looplab.config.validation import look

    sys.path.insert(0, os.getcwd())
    composition = timed("composing", lambda: compose(understood(["experiment=mine"])))
    config, problems = timed("schema", lambda: look(composition.config))
    found = timed("signatures", lambda: targets.check(config))
    assert not problems and not found, (problems, found)
    assert "tensorflow" not in sys.modules
    return parts


if __name__ == "__main__":
    print(json.dumps(parts_of_phase_one()))
