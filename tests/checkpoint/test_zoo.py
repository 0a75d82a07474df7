"""Every damaged or hostile checkpoint of the zoo: the one error, in little time and memory, no code run."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import looplab
from looplab.checkpoint import Store, limits, nested_arrays
from tests.checkpoint.zoo import damage, files, headers, manifests  # noqa: F401 - they enter their specimens
from tests.checkpoint.zoo.catalogue import ARRAYS, SPECIMENS, arrays_of, good, manifest_of, same
from tests.process import HANGS, environment

EVERY = [pytest.param(name, marks=pytest.mark.fault(*faults)) for name, (_, faults) in SPECIMENS.items()]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A folder for each specimen: the checkpoint of step 5 is good, that of step 8 is not."""
    folder = tmp_path_factory.mktemp("zoo")
    good(folder / "good", 5, 8)
    for name, (spoil, _) in SPECIMENS.items():
        shutil.copytree(folder / "good", folder / name)
        spoil(folder / name / "checkpoints" / "step-00000008")
    return folder


@pytest.mark.share(20)
@pytest.mark.parametrize("name", EVERY)
def test_it_is_refused_by_the_one_error_and_the_one_before_is_taken(name, zoo, caplog, monkeypatch):
    monkeypatch.chdir(zoo)
    store, began = Store(zoo / name / "checkpoints"), time.process_time()
    with pytest.raises(looplab.CheckpointError, match="step-00000008") as refused:
        looplab.checkpoint.read(store.path(8))
    assert (
        refused.value.exit_code == 3 and str(refused.value).isprintable() and len(str(refused.value)) < 1500
    )
    path, arrays, manifest = store.newest()
    assert (path, manifest["step"]) == (store.path(5), 5) and same(arrays, ARRAYS)
    (line,) = caplog.messages
    assert "step-00000008" in line and "Taking step-00000005 instead" in line
    assert time.process_time() - began < 20
    assert not (zoo / "canary").exists()


VERIFY_ALL = f"""
import json, pathlib, resource, sys, time
import looplab.checkpoint

size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + {768 * 2**20},) * 2)
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    began = time.process_time()
    said = looplab.checkpoint.verify(folder / "checkpoints" / "step-00000008")
    print(json.dumps([folder.name, said, time.process_time() - began]))
"""


@pytest.mark.slow
@pytest.mark.fault(33)
def test_all_are_verified_in_little_memory_and_time(zoo):
    done = subprocess.run(
        [sys.executable, "-c", VERIFY_ALL, zoo],
        cwd=zoo,
        env=environment(PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {name: (said, seconds) for name, said, seconds in map(json.loads, done.stdout.splitlines())}
    assert set(found) == {"good", *SPECIMENS} and found.pop("good")[0] is None
    assert [name for name, (said, _) in found.items() if not said or "MemoryError" in said] == []
    assert {name: seconds for name, (_, seconds) in found.items() if seconds > 20} == {}
    assert not (zoo / "canary").exists()


@st.composite
def changed(draw, content):
    """Some bytes replaced, left out or put in, at one place or several."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 8)))
        content[start:end] = draw(
            st.binary(max_size=8) | st.sampled_from([b"", b"0", b"9", b"[", b"}", b","])
        )
    return bytes(content)


@pytest.mark.fault(17, 18, 33)
@settings(max_examples=200)
@given(data=st.data())
def test_whatever_bytes_change_the_arrays_are_the_same_or_there_are_none(data, zoo, tmp_path):
    path = tmp_path / "step-00000008"
    path.mkdir(exist_ok=True)
    source = zoo / "good" / "checkpoints" / "step-00000008"
    spoilt = data.draw(st.sampled_from([(arrays_of,), (manifest_of,), (arrays_of, manifest_of)]))
    for file in (arrays_of, manifest_of):
        content = file(source).read_bytes()
        file(path).write_bytes(data.draw(changed(content)) if file in spoilt else content)
    try:
        arrays = looplab.checkpoint.read(path)
    except looplab.CheckpointError:
        return
    assert same(arrays, ARRAYS)


@pytest.mark.fault(20)
def test_where_all_are_bad_each_is_listed_with_what_is_wrong(tmp_path):
    store = good(tmp_path, 3, 5, 8)
    damage.the_arrays_have_a_byte_too_many(store.path(3))
    damage.there_is_no_manifest(store.path(5))
    damage.the_format_is_newer(store.path(8))
    every = (
        r"(?s)no checkpoint .* usable.*step-00000008.* version 99.*step-00000005.*No such.*step-00000003.* 59"
    )
    with pytest.raises(looplab.CheckpointError, match=every) as refused:
        store.newest()
    assert refused.value.exit_code == 3


@pytest.mark.fault(19)
def test_what_looks_like_a_pointer_points_at_nothing(tmp_path):
    store = good(tmp_path, 3, 5)
    for name in ("checkpoint", "latest", "last", "best", "step-latest", "manifest.json"):
        (store.directory / name).write_bytes(b"step-00000003\0\xff")
    for name in ("step-000000009", "step-00000009.tmp", "step-9", "step-٠٠٠٠٠٠٠٩", ".step-00000009"):
        shutil.copytree(store.path(5), store.directory / name)
    assert store.steps() == [3, 5] and store.newest()[0] == store.path(5)


@pytest.mark.fault(19)
@pytest.mark.parametrize("what", ["a file", "a pipe", "a link to a disk that is not there"])
def test_what_is_no_folder_of_checkpoints_is_not_a_run_without_any(what, tmp_path):
    path = tmp_path / "checkpoints"
    if what == "a file":
        path.write_bytes(b"")
    elif what == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "disk")
    with pytest.raises(
        looplab.CheckpointError, match=r"checkpoints cannot be read: .*; is (it a folder|the disk)"
    ):
        Store(path).newest()


def test_links_that_lead_nowhere_else_are_followed(tmp_path):
    store = good(tmp_path / "disk", 3)
    (store.directory / "mine").symlink_to("step-00000003")  # one beside it
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(store.directory)  # a larger disk
    linked = Store(tmp_path / "run" / "checkpoints")
    assert same(looplab.checkpoint.read(linked.directory / "mine"), ARRAYS)
    assert linked.newest()[2]["step"] == 3


def test_a_checkpoint_larger_than_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = good(tmp_path, 3).path(3)
    monkeypatch.setattr(limits, "memory", lambda: 57)
    assert "58 bytes of arrays; this machine has 57 bytes of memory" in looplab.checkpoint.verify(path)


@pytest.mark.fault(33)
def test_values_that_name_an_array_that_is_not_there_are_refused():
    for place in ("values/x", ["values/x"], {"a": 1}, None):
        with pytest.raises(looplab.CheckpointError, match="which is missing in it"):
            nested_arrays.lower({"a": [{"array at": place}]}, {})
