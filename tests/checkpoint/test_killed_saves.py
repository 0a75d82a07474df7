"""A save that is killed at any of its calls leaves the checkpoint before, or the new one, to the bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from looplab.checkpoint import Store, bundle
from tests.process import HANGS, ROOT, environment

SCRIPT = Path(__file__).with_name("killed_saves.py")


def run(*words, prefix=(), timeout=HANGS):
    command = [*prefix, sys.executable, str(SCRIPT), *map(str, words)]
    path = os.pathsep.join([str(ROOT), *sys.path])
    env = environment(PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1")
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)


@pytest.mark.share(2)
@pytest.mark.promise(19)
@pytest.mark.fault(1, 2, 3, 4)
@pytest.mark.parametrize("replaces", [False, True], ids=["another step", "the same step again"])
@pytest.mark.parametrize("how", ["synchronous", "asynchronous"])
def test_every_call_in_turn(how, replaces, tmp_path):
    done = run(tmp_path / "runs", how, *(["replaces"] if replaces else []))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) > 2 * 12 and [line["ended"] for line in lines].count(True) == 2
    for line in lines:
        assert line["same"] and line["whole"], line
        assert line["after"] == [f"step-0000000{step}" for step in (line["step"], 4)], line
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps)  # once the new one counts it counts for ever
    assert set(steps) == ({3} if replaces else {2, 3})


CALLS = ("write", "fsync", "rename", "unlink", "unlinkat", "rmdir", "mkdir", "ftruncate")


@pytest.mark.slow
@pytest.mark.promise(19)
@pytest.mark.fault(1, 2, 3, 4)
@pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace, which kills at system calls, is not there"
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_every_system_call_in_turn(asynchronous, tmp_path):
    """The same by the system's own count, with whatever libraries call."""
    save = f"import killed_saves, pathlib; killed_saves.save(pathlib.Path('{{}}'), {{}}, {asynchronous})"
    env = environment(
        PYTHONPATH=os.pathsep.join([str(ROOT), str(SCRIPT.parent), *sys.path]), PYTHONDONTWRITEBYTECODE="1"
    )

    def saved(folder, step, *prefix):
        command = [*prefix, sys.executable, "-c", save.format(folder, step)]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=HANGS)

    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "metrics.jsonl").write_text("{}\n")
    for step in (1, 2):
        assert saved(begun, step).returncode == 0
    kills = 0
    for call in CALLS:
        for count in range(1, 100):
            copy = tmp_path / f"{call}{count}"
            shutil.copytree(begun, copy)
            inject = f"inject={call}:signal=SIGKILL:when={count}"
            done = saved(
                copy, 3, "strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject
            )
            store = Store(copy / "checkpoints")
            store.recover()
            path, _, manifest = store.newest()
            assert manifest["step"] in (2, 3) and bundle.verify(path) is None, (call, count)
            store.sweep()
            assert all(entry.name.startswith("step-") for entry in store.directory.iterdir())
            if done.returncode == 0:
                assert manifest["step"] == 3
                break
            assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
            kills += 1
    assert kills > 12
