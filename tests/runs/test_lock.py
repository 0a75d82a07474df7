"""One run directory, one process: real processes, real deaths."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import looplab
from looplab.errors import RunInUse, StorageError
from looplab.runs.lock import held, is_held
from tests.process import HANGS, PROJECT, ended, read_json, start, train, write
from tests.test_train import WITNESS

HOLDER = """
import sys
from pathlib import Path
from looplab.runs.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    run_dir = tmp_path / "runs" / "mine"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", HOLDER, run_dir], **pipes, text=True)
    assert process.stdout.readline() == "held\n"
    yield run_dir, process
    process.kill()
    process.wait(HANGS)


def fit(run_dir):
    model = keras.Sequential([keras.layers.Dense(1)])
    x = np.ones((4, 2), "float32")
    looplab.Trainer(model, "sgd", "mse", run_dir=run_dir).fit((x, x[:, :1]), verbose=0)


@pytest.mark.fault(61)
def test_a_second_process_is_refused_and_told_who_holds_the_directory(holder):
    run_dir, process = holder
    assert is_held(run_dir)
    for attempt in (lambda: held(run_dir).__enter__(), lambda: fit(run_dir)):
        with pytest.raises(
            RunInUse, match=rf"in use: process {process.pid} on \S+ since 20.* writes to .*mine"
        ):
            attempt()
    assert [path.name for path in run_dir.iterdir()] == [".lock"]


BOOT = Path("/proc/sys/kernel/random/boot_id")


@pytest.mark.fault(61)
@pytest.mark.skipif(not BOOT.exists(), reason="this system does not say when it was started")
def test_who_wrote_before_the_machine_was_started_again_is_not_called_the_owner(holder):
    """It is another that holds the directory, and has not said so yet."""
    run_dir, process = holder
    path = run_dir / ".lock"
    owner = read_json(path)
    assert owner["boot"] == BOOT.read_text().strip()
    gone = rf"another process \(process {process.pid} on \S+ since .*, which ended when this machine was"
    for changes, said in [
        ({"boot": "earlier"}, gone),
        (
            {"boot": "earlier", "host": "elsewhere"},
            rf"in use: process {process.pid} on elsewhere since 20",
        ),
        ({"boot": None}, rf"in use: process {process.pid} on \S+ since 20"),
    ]:
        path.write_text(json.dumps({**owner, **changes}))
        with pytest.raises(RunInUse, match=said):
            held(run_dir).__enter__()


@pytest.mark.fault(61)
def test_the_lock_of_a_process_that_was_killed_is_taken_over(holder):
    run_dir, process = holder
    process.send_signal(signal.SIGKILL)
    process.wait(HANGS)
    assert (run_dir / ".lock").exists()
    assert not is_held(run_dir)
    fit(run_dir)
    assert read_json(run_dir / "outcome.json")["status"] == "finished"
    assert not (run_dir / ".lock").exists()


def test_it_may_be_nested_and_leaves_no_empty_folder(tmp_path):
    run_dir = tmp_path / "a" / "b"
    with held(run_dir):
        with held(run_dir):
            assert (run_dir / ".lock").exists()
        assert (run_dir / ".lock").exists()
    assert list(tmp_path.iterdir()) == []
    with held(run_dir):
        (run_dir / "kept").touch()
    assert [path.name for path in run_dir.iterdir()] == ["kept"]


@pytest.mark.fault(7)
def test_where_nothing_can_be_written_is_a_matter_of_storage(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write to the run directory .*: Not a directory"):
        held(tmp_path / "file" / "run").__enter__()
    assert StorageError.exit_code == 6


@pytest.mark.fault(61)
def test_the_command_is_refused_at_once_with_code_7(holder, tmp_path):
    run_dir, _ = holder
    write(tmp_path, WITNESS)
    told = tmp_path / "told"
    words = ["+experiment=digits", f"run_dir={run_dir}"]
    code, said = train(
        *words, cwd=tmp_path, PYTHONPATH=str(tmp_path), WITNESS=str(told), served={"light": True}
    )
    assert code == 7
    assert said.startswith("looplab: run directory in use: ")
    assert told.read_text().splitlines()[0] == ""  # without TensorFlow


@pytest.mark.slow
def test_two_starts_within_one_second_have_two_directories(tmp_path):
    write(tmp_path, PROJECT)
    words = ["+experiment=mine", "epochs=1"]
    processes = [start(*words, cwd=tmp_path) for _ in range(2)]
    assert [ended(process)[0] for process in processes] == [0, 0]
    assert len(list((tmp_path / "runs" / "mine").glob("*/outcome.json"))) == 2
