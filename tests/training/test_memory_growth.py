"""Memory does not grow with epochs, nor with trainers by more than bare TensorFlow's own growth."""

import subprocess
import sys

import pytest

from tests.process import HANGS

pytestmark = [pytest.mark.slow, pytest.mark.promise(27)]

COMMON = """
import sys, gc
import keras, numpy as np, psutil, looplab
x = np.linspace(-1, 1, 96 * 8, dtype="float32").reshape(96, 8)
y = x[:, :1]

def net():
    return keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(1)])

def megabytes():
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20

def grown(make, count):
    for _ in range(3):
        make()
    before = megabytes()
    for _ in range(count):
        make()
    return megabytes() - before
"""

EPOCHS = """
class Watch(looplab.Callback):
    def on_epoch_end(self, event, controls):
        if event.epoch in (200, 1000):
            print(megabytes())

trainer = looplab.Trainer(
    net, "adam", "mse", ["mae"], execution=sys.argv[1], run_dir=sys.argv[2], log_every=1,
    checkpoint=looplab.CheckpointPolicy(every="100ep"), callbacks=[Watch()],
)
trainer.fit(x, y, validation_data=(x, y), epochs=1000, batch_size=32, verbose=0)
"""

TRAINERS = """
def ours():
    trainer = looplab.Trainer(net, "adam", "mse", execution=sys.argv[1])
    trainer.fit(x, y, validation_data=(x, y), epochs=2, batch_size=32, verbose=0)

print(grown(ours, 25))
"""


def printed(code, *words):
    run = subprocess.run(
        [sys.executable, "-c", COMMON + code, *map(str, words)], capture_output=True, text=True, timeout=HANGS
    )
    assert run.returncode == 0, run.stderr
    return [float(line) for line in run.stdout.split()]


@pytest.mark.parametrize("execution", ["graph", "xla_loop"])
def test_memory_is_flat_over_a_thousand_epochs(execution, tmp_path):
    """What every step logs and the history of epochs are kept, about a kilobyte an epoch."""
    early, late = printed(EPOCHS, execution, tmp_path / "run")
    assert late - early < 5


# Megabytes that bare TensorFlow 2.21 keeps of each model that it traced, and compiled with XLA.
BARE = {"graph": 2.7, "xla_step": 11.0}


@pytest.mark.parametrize("execution", BARE)
def test_trainers_keep_no_more_than_bare_tensorflow_does(execution):
    (grown,) = printed(TRAINERS, execution)
    assert grown / 25 < BARE[execution]
