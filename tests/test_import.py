"""Importing looplab, and two trainers in one process."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import looplab
from tests.process import HANGS

COUNTED = """
import json, sys
before, calls = set(sys.modules), 0

def count(frame, event, argument):
    global calls
    calls += event in ("call", "c_call")

sys.setprofile(count)
import looplab
sys.setprofile(None)
print(json.dumps([sorted(set(sys.modules) - before), calls]))
"""


def test_importing_looplab_is_cheap_and_loads_no_tensorflow():
    """In calls and modules, which no other process makes more: some ten thousand calls take 10 ms."""
    command = [sys.executable, "-c", COUNTED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, check=True)
    modules, calls = json.loads(done.stdout)
    assert [name for name in modules if name.startswith("looplab")] == ["looplab"]
    assert {name.partition(".")[0] for name in modules} <= {"looplab", *sys.stdlib_module_names}
    assert len(modules) < 60 and calls < 50_000


def test_every_public_name_loads():
    for name in looplab.__all__:
        assert getattr(looplab, name) is not None
    assert set(looplab.__all__) <= set(dir(looplab))
    with pytest.raises(AttributeError, match="no attribute 'Trainr'"):
        looplab.Trainr  # noqa: B018


def model():
    layers = [keras.layers.Dense(4, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    return keras.Sequential(layers)


def trainer(strategy, **options):
    return looplab.Trainer(model, "adam", "mse", ["mae"], strategy=strategy, **options)


X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")


def weights(made):
    return np.concatenate([w.ravel() for w in made.model.get_weights()])


def test_two_trainers_in_one_process_do_not_disturb_each_other(strategy):
    alone = trainer(strategy, seed=1)
    alone.fit((X, X[:, :1]), batch_size=6, epochs=4, verbose=0)
    first, second = trainer(strategy, seed=1), trainer("auto", seed=2, precision="float64")
    for epochs in (1, 2, 3, 4):
        first.fit((X, X[:, :1]), batch_size=6, epochs=epochs, verbose=0)
        second.fit((X, X[:, :1]), batch_size=5, epochs=epochs, verbose=0)
    np.testing.assert_array_equal(weights(first), weights(alone))


def test_the_same_seed_gives_the_same_bits_and_another_one_others(strategy):
    runs = []
    for seed in (3, 3, 4):
        made = trainer(strategy, seed=seed)
        made.fit((X, X[:, :1]), batch_size=6, epochs=2, verbose=0)
        runs.append(weights(made))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
