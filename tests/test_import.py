"""Importing looplab, and two trainers in one process."""

import importlib
import json
import pydoc
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import looplab
from tests.conftest import on_two_replicas
from tests.process import HANGS, ROOT

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


@pytest.mark.parametrize("name", looplab.PUBLIC)
def test_public_modules_keep_their_place_and_their_names(name):
    module = importlib.import_module(f"looplab.{name}")
    names = {*looplab.PUBLIC[name].split(), *getattr(module, "__all__", ())}
    assert [each for each in sorted(names) if not hasattr(module, each)] == []


CONF = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "conf").rglob("*.yaml")))
TARGETS = set(
    re.findall(r"_target_: *['\"]?([A-Za-z_][\w.]*)", CONF)
)  # those in comments too: people copy them


def test_every_target_of_the_shipped_configuration_is_there():
    own = {target for target in TARGETS if not target.startswith("mymodule.")}  # a user's, in comments
    assert {"looplab.trainer.Trainer", "looplab.models.ConvNet", "keras.optimizers.Adam"} <= own
    assert [target for target in sorted(own) if not callable(pydoc.locate(target))] == []


# The modules without TensorFlow: whole wings, and the half of checkpoint that reads and writes files.
WITHOUT_TENSORFLOW = """
import importlib, json, pkgutil, sys

HEAVY = {"tensorflow", "keras", "jax"}
names = ["looplab.options", "looplab.runs", "looplab.config", "looplab.cli"]
for name in tuple(names):
    folders = importlib.import_module(name).__path__
    names += [found.name for found in pkgutil.walk_packages(folders, name + ".")]
names += ["looplab.checkpoint"]
disk = "bundle manifest arrays_file safe_open nested_arrays limits listing store saver __main__"
names += [f"looplab.checkpoint.{name}" for name in disk.split()]
for name in names:
    importlib.import_module(name)
    if HEAVY & set(sys.modules):
        sys.exit(f"{name} imports {', '.join(sorted(HEAVY & set(sys.modules)))}")
print(json.dumps(names))
"""


def test_what_reads_settings_and_files_imports_no_tensorflow():
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    assert {
        "looplab.options.compatibility",
        "looplab.runs.directory",
        "looplab.config.signatures.classes",
        "looplab.cli.startup",
        "looplab.cli.sweep",
        "looplab.checkpoint.__main__",
    } <= set(json.loads(done.stdout))


def model():
    layers = [keras.layers.Dense(4, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    return keras.Sequential(layers)


def trainer(strategy, **options):
    return looplab.Trainer(model, "adam", "mse", ["mae"], strategy=strategy, **options)


X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")


def weights(made):
    return np.concatenate([w.ravel() for w in made.model.get_weights()])


@pytest.mark.slow
@on_two_replicas
def test_two_trainers_in_one_process_do_not_disturb_each_other(strategy):
    alone = trainer(strategy, seed=1)
    alone.fit((X, X[:, :1]), batch_size=6, epochs=4, verbose=0)
    first, second = trainer(strategy, seed=1), trainer("auto", seed=2, precision="float64")
    for epochs in (1, 2, 3, 4):
        first.fit((X, X[:, :1]), batch_size=6, epochs=epochs, verbose=0)
        second.fit((X, X[:, :1]), batch_size=5, epochs=epochs, verbose=0)
    np.testing.assert_array_equal(weights(first), weights(alone))


@pytest.mark.share(1)
@on_two_replicas
def test_the_same_seed_gives_the_same_bits_and_another_one_others(strategy):
    runs = []
    for seed in (3, 3, 4):
        made = trainer(strategy, seed=seed)
        made.fit((X, X[:, :1]), batch_size=6, epochs=2, verbose=0)
        runs.append(weights(made))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
