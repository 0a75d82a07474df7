"""Keras' own tests of callbacks and of `fit`, with looplab in the place of `fit`, `evaluate` and `predict`.

Every test that differs stands here with the reason; whatever else fails is a fault.
"""

import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

SOURCE = Path(keras.__file__).parent / "src"
ROOT = Path(__file__).resolve().parents[2]

# What the contract decides otherwise.
CALLBACKS = {
    "BackupAndRestoreCallbackTest.*": "resume replaces BackupAndRestore",
    "TerminateOnNaNTest.test_raise_error_terminate_preserves_backup": "likewise",
    "LearningRateSchedulerTest.test_throws_when_optimizer_has_schedule": "a rate that is set is a factor",
    "ReduceLROnPlateauTest.test_throws_when_optimizer_has_schedule": "likewise",
    "ModelCheckpointTest.test_model_checkpoint_options": "a monitor that nothing produces is refused",
    "SwapEMAWeightsTest.test_swap_ema_weights": "evaluations are of the averages without the callback, too",
    "SwapEMAWeightsTest.test_swap_ema_weights_with_tf_distribute": "replicas sum in another order: 1e-7",
}
TRAINER = {
    "*steps_per_epoch*not_match_too_low_*": "no epoch is cut short where the data begins anew",
    "*unknown_data_size_not_match_but_high_enough*": "likewise, where the length of the data is not known",
    "test_steps_per_execution_steps_per_epoch_match_multi_epoch_*": "no execution goes beyond its epoch",
    "test_fit_sparse_*": "the gradient of a batch is dense",
    "test_trainer_with_raggeds_*": "a loss that is a bare scalar comes with its weight",
    "test_stop_loop_*": "an epoch without an end is refused",
    "test_recompile": "a history has the learning rate",
    "test_nested_input_predict": "a tuple has inputs, targets and weights; several inputs are a dict",
}
# Of packages that are not installed: they fail with Keras' own fit.
ABSENT = {"*_jax_*": "jax", "*_torch_*": "torch"}


def failed(*files):
    """Runs files of Keras' tests, and returns the names of those that fail."""
    options = ["-q", "-n", "0", "-W", "ignore", "-c", os.devnull, "--rootdir", str(SOURCE)]
    options += ["--import-mode=importlib", "--collect-in-virtualenv", "-p", "no:cacheprovider"]
    options += ["-p", "tests.keras_suites.through_looplab", *map(str, files)]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    counts = re.search(r"(\d+) passed", run.stdout)
    assert counts and int(counts[1]) > 50, run.stdout[-3000:] + run.stderr[-3000:]
    assert "ERROR" not in run.stdout.rpartition("short test summary")[2], run.stdout[-3000:]
    return [".".join(found) for found in re.findall(r"^FAILED .*::(\w+)::(\w+)", run.stdout, re.M)]


def unexpected(names, *lists):
    known = [pattern for each in lists for pattern in each]
    return [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in known)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_callbacks_of_keras():
    files = [f for f in SOURCE.glob("callbacks/*_test.py") if "orbax" not in f.name]  # is not installed
    names = failed(*files)
    assert unexpected(names, CALLBACKS) == []
    assert len(names) <= 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_trainer_of_keras():
    names = [name.partition(".")[2] for name in failed(SOURCE / "trainers" / "trainer_test.py")]
    assert unexpected(names, TRAINER, ABSENT) == []
    assert len(unexpected(names, ABSENT)) <= 30
