"""How long a run takes to go on, against how far it came: whole processes, the second of each run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.startup import TIMEOUT, Row

POSITIONS = (100, 10_000, 1_000_000)  # steps
SCRIPT = """
import sys
import keras, numpy as np
import looplab

x = np.random.default_rng(0).normal(size=(100_000, 8)).astype("float32")
model = keras.Sequential([keras.Input((8,)), keras.layers.Dropout(0.1), keras.layers.Dense(1)])
trainer = looplab.Trainer(
    model, "adam", "mse", run_dir=sys.argv[1], execution="graph", log_every="1ep",
    checkpoint=looplab.CheckpointPolicy(every="20ep"),
)
trainer.fit(x, x[:, :1], batch_size=10, steps=int(sys.argv[2]), verbose=0)
"""


def resume(rounds: int) -> list[Row]:
    """Returns the seconds of restoring, and of the first batch, at each position."""
    parts = ("restore", "first batch")
    rows = {(at, part): Row("resume", f"{part} after {at:,} steps") for at in POSITIONS for part in parts}
    with tempfile.TemporaryDirectory() as folder:
        for at in POSITIONS:
            _train(f"{folder}/{at}", at)
        for number in range(1, rounds + 1):
            for at in POSITIONS:
                took = _train(f"{folder}/{at}", at + number)
                for part in parts:
                    rows[at, part].seconds.append(took.get(part, 0.0))
    return list(rows.values())


def _train(run_dir: str, steps: int) -> dict[str, float]:
    """Trains up to a step in a process of its own; returns where the time of its start went."""
    command = [sys.executable, "-c", SCRIPT, run_dir, str(steps)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment)
    if done.returncode:
        sys.exit(f"benchmark: a run up to step {steps} ended with {done.returncode}:\n{done.stderr}")
    outcome = json.loads((Path(run_dir) / "outcome.json").read_text(encoding="utf-8"))
    return dict(outcome["start_up"])
