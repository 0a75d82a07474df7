"""One checkpoint on disk: complete, verifiable, and refused when it is not."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest

import looplab
from looplab.checkpoint import Store, bundle

ARRAYS = {
    "models/model/dense/kernel": np.arange(6, dtype="float32").reshape(2, 3),
    "loop/step": np.int64(7),
    "none": np.zeros((0, 3), "float64"),
    "flags": np.array([True, False]),
    "low": np.array([1.5, -2], ml_dtypes.bfloat16),
    "transposed": np.arange(6, dtype="float32").reshape(2, 3).T,
}


@pytest.fixture
def saved(tmp_path):
    store = Store(tmp_path / "checkpoints")
    for step in (3, 5, 8):
        store.save(step, {**ARRAYS, "loop/step": np.int64(step)}, {"values": {"x": step}, "logs": {}})
    return store


def test_arrays_and_facts_come_back(saved):
    path = saved.path(8)
    assert path.name == "step-00000008"
    arrays = looplab.checkpoint.read(path)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], 8 if name == "loop/step" else array)
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape
    manifest = bundle.read_manifest(path)
    assert manifest["format_version"] == 2 and manifest["step"] == 8 and manifest["values"] == {"x": 8}
    assert manifest["arrays"]["low"]["dtype"] == "bfloat16"
    assert bundle.verify(path) is None


def damage(path, how):
    arrays, manifest = path / "arrays.safetensors", path / "manifest.json"
    if how == "flipped byte":
        content = bytearray(arrays.read_bytes())
        content[-3] ^= 1
        arrays.write_bytes(content)
    elif how == "truncated":
        arrays.write_bytes(arrays.read_bytes()[:-5])
    elif how == "empty":
        arrays.write_bytes(b"")
    elif how == "no arrays":
        arrays.unlink()
    elif how == "no manifest":
        manifest.unlink()
    elif how == "half a manifest":
        manifest.write_text(manifest.read_text()[:40])
    elif how == "not a manifest":
        manifest.write_text("[1, 2]")
    elif how == "newer format":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 99}))


EVERY_DAMAGE = [
    "flipped byte", "truncated", "empty", "no arrays", "no manifest", "half a manifest", "not a manifest",
    "newer format",
]  # fmt: skip


@pytest.mark.parametrize("how", EVERY_DAMAGE)
@pytest.mark.fault(17)
def test_damage_is_always_one_kind_of_error_and_the_one_before_is_taken(saved, how, caplog):
    damage(saved.path(8), how)
    with pytest.raises(looplab.CheckpointError):
        looplab.checkpoint.read(saved.path(8))
    path, arrays, manifest = saved.newest()
    assert path == saved.path(5) and arrays["loop/step"] == 5 and manifest["step"] == 5
    assert "step-00000008" in caplog.text and "step-00000005" in caplog.text


@pytest.mark.fault(20)
def test_a_run_whose_checkpoints_are_all_bad_never_starts_from_zero(saved):
    for step in saved.steps():
        damage(saved.path(step), "truncated")
    with pytest.raises(looplab.CheckpointError, match=r"(?s)step-00000008.*step-00000005.*step-00000003"):
        saved.newest()


def test_a_save_that_was_cut_short_is_not_a_checkpoint(saved, tmp_path):
    (tmp_path / "checkpoints" / ".step-00000009.123").mkdir()
    (tmp_path / "checkpoints" / "notes").mkdir()
    assert saved.steps() == [3, 5, 8]


def test_pruning_keeps_what_it_is_told_to(saved):
    saved.prune({3, 8})
    assert saved.steps() == [3, 8]
    assert sorted(p.name for p in saved.directory.iterdir()) == ["step-00000003", "step-00000008"]


def test_what_a_killed_removal_left_is_in_nobodys_way(saved):
    left = saved.directory / ".step-00000003.deleted"
    (left / "deep").mkdir(parents=True)
    saved.prune({8})
    assert saved.steps() == [8] and not left.exists()
    left.mkdir()
    saved.sweep()
    assert not left.exists()


def test_nothing_is_an_empty_store(tmp_path):
    store = Store(tmp_path / "none")
    assert store.steps() == [] and store.newest() is None


@pytest.mark.fault(8)
@pytest.mark.parametrize("whole", [True, False])
def test_what_somebody_removes_while_it_is_saved_is_no_damage(whole, saved, monkeypatch):
    each = bundle.each

    def removing(path):
        shutil.rmtree(path) if whole else (path / "arrays.safetensors").unlink()
        return each(path)

    monkeypatch.setattr(bundle, "each", removing)
    with pytest.raises(FileNotFoundError, match="step-00000009"):
        saved.save(9, ARRAYS, {"values": {}, "logs": {}})
