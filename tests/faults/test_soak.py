"""Hundreds of kills: the run that comes out is the run that nobody disturbed, to the bit.

scripts/test -n 0 -m slow tests/faults/test_soak.py                200 kills; 11 took 3.5 minutes with -n 2
LOOPLAB_KILLS=1000 scripts/test -n 2 -m slow tests/faults/test_soak.py
"""

import os
import random
import signal
import time

import pytest

from tests.process import assert_same_run, ended, start, steps, trained, wait_for, write

KILLS = int(os.environ.get("LOOPLAB_KILLS", "200"))

PROJECT = {
    "soaked.py": '''
import time
import keras
import numpy as np
import tensorflow as tf
import looplab


def net():
    layers = [keras.layers.Dense(16, "relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    return keras.Sequential([*layers, keras.layers.Dense(2)])


def points():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(330, 4)).astype("float32")
    y = (x.sum(axis=1) > 0).astype("int64")
    return {"train": (x, y), "validation": (x[:50], y[:50])}


def stream():
    (x, y), held = points().values()
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(100, seed=3).batch(10, drop_remainder=True)
    return {"train": data, "validation": held}


class Slowly(looplab.Callback):
    """Leaves time for a signal to come between executions."""

    every = None

    def on_clock(self, event, controls):
        time.sleep(0.01)
''',
    "conf/experiment/soaked.yaml": """
# @package _global_
# every kind of state, in little
epochs: 6
model: {_target_: soaked.net}
optimizer: {use_ema: true, ema_momentum: 0.9}
data:
  source: {_target_: soaked.points}
  batch_size: 10
loss: {_target_: keras.losses.SparseCategoricalCrossentropy, from_logits: true}
metrics: [accuracy]
checkpoint: {every: 5st}
callbacks:
  slowly: {_target_: soaked.Slowly}
  stopping: {_target_: looplab.callbacks.EarlyStopping, monitor: val_loss, patience: 4}
""",
}
TWO = ["strategy=simulated", "strategy.replicas=2"]
STREAM = ["data.source._target_=soaked.stream", "data.batch_size=null"]
CASES = {
    "step by step": ["execution=graph", "execution.steps_per_execution=1"],
    "loop of seven": ["execution=graph", "execution.steps_per_execution=7"],
    "in pieces": ["execution=graph", "execution.micro_batches=2", "checkpoint.asynchronous=false"],
    "xla step": ["execution=xla_step"],
    "xla loop": ["execution=xla_loop", "execution.steps_per_execution=7"],
    "stream": ["execution=graph", "execution.steps_per_execution=7", *STREAM],
    "stream in xla": ["execution=xla_loop", *STREAM],
    "two replicas": ["execution=graph", "execution.steps_per_execution=7", *TWO],
    "two replicas in pieces": ["execution=graph", "execution.micro_batches=2", *TWO],
    "two replicas, stream": ["execution=graph", *TWO, *STREAM],
    "two replicas, xla": ["execution=xla_step", "strategy.batch_norm=local", *TWO],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("soak")
    write(path, PROJECT)
    return path


def disturb(words, run_dir, folder):
    """Starts the run, and sends it a signal at some instant; returns which, and what it came to."""
    number = random.choice([signal.SIGKILL, signal.SIGTERM])
    process = start(*words, f"run_dir={run_dir.name}", cwd=folder)
    before = steps(run_dir)[-1:]
    try:
        if random.random() < 0.8:  # once it trains; else whenever it may be
            wait_for(
                process, lambda: process.poll() is not None or steps(run_dir)[-1:] != before, timeout=120
            )
            time.sleep(random.uniform(0, 0.4))
        else:
            time.sleep(random.uniform(0, 12))
        process.send_signal(number)
        code, said = ended(process)
    finally:
        process.kill()
    assert code in (0, -number, 143), f"{signal.Signals(number).name} after {before}: {code}\n{said}"
    return code


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
@pytest.mark.promise(10, 13, 14, 15)
@pytest.mark.fault(1, 2, 3, 4, 34, 39, 67)
@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_killed_again_and_again(case, folder):
    words = ["experiment=soaked", *CASES[case]]
    name = case.replace(" ", "_").replace(",", "")
    reference, run_dir, kills, rounds = folder / f"{name}_whole", folder / name, 0, 0
    trained(*words, f"run_dir={reference.name}", cwd=folder)
    while kills < -(-KILLS // len(CASES)):
        code = disturb(words, run_dir, folder)
        kills += code != 0
        if code == 0:  # it came to its end before
            assert_same_run(run_dir, reference)
            rounds += 1
            run_dir = folder / f"{name}_{rounds}"
    trained(*words, f"run_dir={run_dir.name}", cwd=folder)
    assert_same_run(run_dir, reference)
