"""Files that somebody else has made: nothing in them runs, and what they must not hold is refused."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest

import looplab
from tests.checkpoint.warm_start.test_warm_start import TEN, X, fit, trainer

WIDTH = 10


def network():
    return keras.Sequential([keras.layers.Dense(WIDTH, name="head")])


@pytest.fixture
def folder(tmp_path):
    """With `good.keras` and `good.weights.h5`, and where nothing may come to be."""
    model = keras.Sequential([keras.Input((6,)), *network().layers])
    model.save(tmp_path / "good.keras")
    model.save_weights(tmp_path / "good.weights.h5")
    yield tmp_path
    assert not list(tmp_path.parent.glob("*canary*")) + list(tmp_path.glob("*canary*")), "it was run"


def remade(folder, name="bad.keras", change=lambda members: members, **more):
    """Makes the archive again with other members."""
    with zipfile.ZipFile(folder / "good.keras") as good:
        members = {each: good.read(each) for each in good.namelist()}
    with zipfile.ZipFile(folder / name, "w", **more) as bad:
        for member, content in change(members).items():
            bad.writestr(member, content)
    return folder / name


def said(path):
    one = trainer(network, initialize_from=path)
    with pytest.raises(looplab.CheckpointError) as raised:
        fit(one)
    assert raised.value.exit_code == 3 and path.name in str(raised.value)
    return str(raised.value)


def head(path):
    one = trainer(network, initialize_from=path)
    one.evaluate(X, TEN)
    return one.model.get_layer("head").kernel.numpy()


def test_a_lambda_in_the_configuration_of_a_model_is_never_built(folder, monkeypatch):
    canary = folder / "canary"
    payload = keras.layers.Lambda(lambda x, path=str(canary): (open(path, "w").close(), x)[1], name="payload")
    evil = keras.Sequential([keras.Input((6,)), payload, keras.layers.Dense(WIDTH, name="head")])
    canary.unlink(missing_ok=True)  # building it here has run it
    evil.save(folder / "evil.keras")

    def refuse(*arguments, **more):
        raise AssertionError("a model was made from its description")

    monkeypatch.setattr(keras.src.saving.saving_lib, "_model_from_config", refuse)
    monkeypatch.setattr(keras.layers.Lambda, "__init__", refuse)
    monkeypatch.setattr(keras.Sequential, "from_config", refuse)
    with zipfile.ZipFile(folder / "evil.keras") as archive:
        assert "Lambda" in archive.read("config.json").decode()
    np.testing.assert_array_equal(head(folder / "evil.keras"), evil.get_layer("head").kernel)
    assert not canary.exists()


def test_the_description_of_a_model_is_not_even_read(folder):
    hostile = {"module": "os", "class_name": "system", "config": {"command": f"touch {folder}/canary"}}
    content = {
        "config.json": json.dumps(hostile),
        "metadata.json": "\0",
        "assets/canary.py": "open('canary')",
    }
    path = remade(folder, change=lambda members: members | content)
    np.testing.assert_array_equal(head(path), head(folder / "good.weights.h5"))


@pytest.mark.parametrize("name", ["../canary", "/tmp/canary", "assets/../../canary", "..\\canary"])
def test_a_member_with_a_path_out_of_the_archive_is_refused(folder, name):
    assert "a path out of the archive" in said(remade(folder, change=lambda members: members | {name: b"x"}))


def test_a_link_in_an_archive_is_refused(folder):
    path = remade(folder)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("assets/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert "'assets/link', a link" in said(path)


def test_an_archive_that_is_packed_is_read_and_one_that_explodes_is_refused(folder):
    path = remade(folder, compression=zipfile.ZIP_DEFLATED)
    np.testing.assert_array_equal(head(path), head(folder / "good.keras"))
    bomb = {"model.weights.h5": bytes(50_000_000)}
    path = remade(folder, change=lambda members: members | bomb, compression=zipfile.ZIP_DEFLATED)
    assert "too many for weights" in said(path)


@pytest.mark.parametrize("kind", ["soft", "outside", "kept elsewhere", "virtual", "huge", "chunks", "text"])
def test_what_keras_does_not_write_into_hdf5_is_refused(folder, kind):
    (folder / "bytes").write_bytes(bytes(10_000))
    path = folder / "good.weights.h5"
    place, shape = "layers/dense/vars/0", (6, WIDTH)
    with h5py.File(path, "r+") as file:
        del file[place]
        if kind == "soft":
            file[place] = h5py.SoftLink("/layers/dense/vars/1")
        elif kind == "outside":
            file[place] = h5py.ExternalLink(str(folder / "good.keras"), "/")
        elif kind == "kept elsewhere":
            file.create_dataset(place, shape, "float32", external=[(str(folder / "bytes"), 0, 240)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape, "float32")
            layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", shape)
            file.create_virtual_dataset(place, layout)
        elif kind == "huge":  # it is nothing on the disk
            file.create_dataset(place, (10**6, 10**6), "float32", chunks=(1000, 1000))
        elif kind == "chunks":
            file.create_dataset(place, shape, "float32", maxshape=(None, WIDTH), chunks=(10**7, 10))
        else:
            file.create_dataset(place, data=np.full(shape, "x", object), dtype=h5py.string_dtype())
    expected = {
        "soft": "SoftLink",
        "outside": "ExternalLink",
        "kept elsewhere": "kept outside",
        "virtual": "kept outside",
        "huge": "(1000000, 1000000) there",
        "chunks": "chunks that are larger",
        "text": "object (6, 10) there",
    }
    assert expected[kind] in said(path)


@pytest.mark.parametrize("name", ["good.keras", "good.weights.h5"])
@pytest.mark.parametrize("left", [0, 0.5, 0.99])
def test_what_is_cut_short_is_one_error(folder, name, left):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(left * len(whole))])
    said(folder / name)


def test_files_without_weights_say_so(folder):
    path = remade(folder, change=lambda members: {"config.json": "{}"})
    assert "has no model.weights.h5" in said(path)
    with h5py.File(folder / "other.weights.h5", "w") as file:
        file["a/b"] = [1.0]
    assert "does not hold weights in the format of Keras 3" in said(folder / "other.weights.h5")


def test_groups_that_hold_themselves_end(folder):
    with h5py.File(folder / "good.weights.h5", "r+") as file:
        file["layers/again"] = file["layers"]
    assert head(folder / "good.weights.h5").shape == (6, WIDTH)


@pytest.mark.parametrize("whole", [False, True])
def test_a_checkpoint_with_links_out_of_it_is_refused(folder, whole):
    source = trainer(network, run_dir=folder / "run")
    fit(source)
    (checkpoint,) = (folder / "run/checkpoints").glob("step-*")
    moved = checkpoint if whole else checkpoint / "arrays.safetensors"
    moved.rename(folder / "elsewhere")
    moved.symlink_to(folder / "elsewhere")
    assert "it is a link to" in said(folder / "run")
    (folder / "named").symlink_to(folder / "elsewhere")  # but a person may name one
    if whole:
        head(folder / "named")
