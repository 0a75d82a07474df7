"""Checkpoints that earlier versions wrote are read, whatever the format becomes; newer ones are refused.

The fixture is one that looplab 0.1.0 wrote, with Keras 3.15 and TensorFlow 2.21 (`make_version_1`).
"""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import looplab
from looplab.checkpoint import Store, manifest, nested_arrays
from tests.checkpoint.zoo.catalogue import KERNEL, good, manifest_of, rewrite, same

VERSION_1 = Path(__file__).parent / "zoo" / "version_1" / "step-00000004"


def make_model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


KINDS = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
KINDS += ["float16", "bfloat16", "float32", "float64", "complex64"]


class Keeps(looplab.Callback):
    """Has an array of every dtype that a checkpoint holds, and what JSON has no word for."""

    def __init__(self):
        import ml_dtypes  # noqa: F401 - NumPy knows bfloat16 by it

        kept = {kind: np.arange(3).astype(kind) for kind in KINDS}
        self.kept = {**kept, "none": np.zeros((0, 3)), "one": np.array(5.0), "nan": float("nan"), "é": "ü"}
        self.was = {}

    def state(self):
        return self.kept

    def restore(self, state):
        self.was = state


def make_trainer(run_dir):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    return looplab.Trainer(make_model, optimizer, "mse", ["mae"], callbacks=[Keeps()], run_dir=run_dir)


X = np.linspace(-1, 1, 16, dtype="float32").reshape(8, 2)


def fit(trainer, epochs):
    trainer.fit((X, X[:, :1]), validation_data=(X, X[:, :1]), batch_size=4, epochs=epochs, verbose=0)


def make_version_1(folder):
    """Made the fixture, once; another version gets another one, and this stays."""
    fit(make_trainer(folder / "run"), epochs=2)
    shutil.copytree(folder / "run" / "checkpoints" / VERSION_1.name, VERSION_1)


@pytest.mark.fault(26)
def test_format_version_1_is_read():
    assert json.loads(manifest_of(VERSION_1).read_text())["format_version"] == 1
    arrays = looplab.checkpoint.read(VERSION_1)
    manifest = looplab.checkpoint.read_manifest(VERSION_1)
    assert (manifest["step"], arrays["loop/step"]) == (4, 4)
    assert arrays["models/model/dense/kernel"].shape == (2, 1)
    own, among = nested_arrays.split(arrays)
    (callback,) = nested_arrays.lower(manifest["values"], among)["callbacks"]
    expected = Keeps().kept
    assert np.isnan(callback["state"].pop("nan")) and callback["state"].pop("é") == "ü"
    assert same(callback["state"], {k: v for k, v in expected.items() if k not in ("nan", "é")})
    assert len(own) + len(among) == len(manifest["arrays"]) == len(arrays)


@pytest.mark.fault(26)
def test_a_run_goes_on_from_format_version_1(tmp_path, caplog):
    shutil.copytree(VERSION_1, tmp_path / "checkpoints" / VERSION_1.name)
    trainer = make_trainer(tmp_path)
    fit(trainer, epochs=3)
    assert Store(tmp_path / "checkpoints").steps()[-1] == 6
    assert "damaged" not in caplog.text
    after = looplab.checkpoint.read(tmp_path / "checkpoints" / "step-00000006")
    assert after["optimizers/optimizer/iteration"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_run_goes_on_from_before_rates_were_kept_as_they_were_given(precision, tmp_path, caplog):
    """Its rates were rounded to float32, also where all else was of float64."""

    def train(epochs):
        trainer = looplab.Trainer(
            make_model, lambda: keras.optimizers.SGD(0.1), "mse", precision=precision, run_dir=tmp_path
        )
        return trainer.fit((X, X[:, :1]), batch_size=4, epochs=epochs, verbose=0).history["learning_rate"]

    train(2)
    path = tmp_path / "checkpoints" / VERSION_1.name
    values = json.loads(manifest_of(path).read_text())["values"]
    assert values.pop("learning_rate_factors_before") == {}
    rewrite(path, values=values)
    assert train(3)[-1] == (0.1 if precision == "float64" else np.float32(0.1))
    assert ("rounded learning rates" in caplog.text) == (precision == "float64")
    caplog.clear()
    train(4)
    assert "rounded learning rates" not in caplog.text


def test_a_newer_format_is_refused_with_the_version_that_reads_it(tmp_path):
    path = good(tmp_path, 3).path(3)
    rewrite(path, format_version=manifest.VERSION + 1)
    with pytest.raises(
        looplab.CheckpointError, match=r"has format version 3; this looplab reads up to version 2"
    ):
        looplab.checkpoint.read_manifest(path)
    assert KERNEL in json.loads(manifest_of(path).read_text())["arrays"]  # it was left as it is
