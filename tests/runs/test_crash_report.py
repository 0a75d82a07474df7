"""What is found of a run that an error has ended."""

import errno
import json
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

import looplab
from looplab.runs import crash_report
from tests.process import (
    HANGS,
    PROJECT,
    environment,
    forking_python,
    read_json,
    snapshot,
    steps,
    trained,
    write,
)

X = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")


class Breaks(looplab.Callback):
    every = 1
    on_failure = "critical"

    def __init__(self, step):
        self.step = step

    def on_step(self, event, controls):
        if event.step == self.step:
            secret = "hunter2"  # noqa: F841 - locals are nobody's business
            raise RuntimeError("the first cause\nand more of it")


def fit(run_dir, step):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    policy = looplab.CheckpointPolicy(every="2st")
    trainer = looplab.Trainer(
        model, "sgd", "mse", callbacks=[Breaks(step)], checkpoint=policy, log_every=1, run_dir=run_dir
    )
    trainer.fit(X, X[:, :1], batch_size=8, epochs=2, verbose=0)


@pytest.mark.fault(43)
def test_the_report_names_the_first_cause_and_what_is_left(tmp_path, monkeypatch):
    write = looplab.checkpoint.bundle.write

    def fails_later(directory, *arguments, **how):
        if directory.name > "step-00000004":
            raise OSError(5, "Input/output error")
        write(directory, *arguments, **how)

    monkeypatch.setattr(looplab.checkpoint.bundle, "write", fails_later)
    with pytest.raises(RuntimeError, match="the first cause"):
        fit(tmp_path, 5)
    report = (tmp_path / crash_report.REPORT).read_text()
    first, *_ = report.splitlines()
    line = Breaks.on_step.__code__.co_firstlineno + 3
    place = f"{__file__}, line {line}, in on_step; in the callback Breaks.on_step at step 5"
    assert first == f"# RuntimeError: the first cause ({place})"
    assert "\nand more of it\n" in report
    assert "- last good checkpoint: step-00000004" in report
    assert "the same command continues the run" in report
    assert "test_crash_report.py" in report and "hunter2" not in report.replace('secret = "hunter2"', "")
    assert '"step": 4' in report and '"tensorflow"' in report
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    told = json.loads(crash_report.line(outcome))["looplab"]
    assert told["exit_code"] == 1 and told["cause"].startswith("RuntimeError: the first cause")
    assert told["last_checkpoint"] == "step-00000004" and told["restart_helps"] is False
    monkeypatch.undo()
    fit(tmp_path, 99)  # mended
    assert not (tmp_path / crash_report.REPORT).exists()


@pytest.fixture
def no_room_at_the_end(monkeypatch):
    """Lets exactly the files that a run ends with fail."""
    write_text = Path.write_text

    def full(path, *arguments, **how):
        if any(name in path.name for name in ("outcome.json", crash_report.REPORT)):
            path.touch()
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(path, *arguments, **how)

    monkeypatch.setattr(Path, "write_text", full)


@pytest.mark.fault(5, 43)
def test_a_report_that_finds_no_room_does_not_hide_the_first_error(tmp_path, no_room_at_the_end, caplog):
    with pytest.raises(RuntimeError, match="the first cause"):
        fit(tmp_path, 5)
    for name in ("outcome.json", crash_report.REPORT):
        assert f"{tmp_path / name} could not be written: No space left on device" in caplog.text
        assert name not in " ".join(snapshot(tmp_path))


@pytest.mark.fault(5)
def test_a_run_whose_outcome_finds_no_room_has_not_ended_well(tmp_path, no_room_at_the_end):
    with pytest.raises(looplab.errors.StorageError, match=r"has ended, but .*outcome.json could not be"):
        fit(tmp_path, 99)
    assert steps(tmp_path)[-1] == 10


FILLS = """


class Fills(looplab.Callback):
    every = 3

    def on_step(self, event, controls):
        with open("full", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1024))
            except OSError:
                pass
"""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def told(*words, cwd):
    """Runs the command; returns its exit code, what it said, and the last line on standard error."""
    command = [forking_python(), "-m", "looplab.train", "experiment=mine", "run_dir=run", *words]
    done = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=HANGS, check=False
    )
    *said, last = done.stderr.splitlines()
    assert '{"looplab"' not in done.stdout + "".join(said)
    return done.returncode, done.stdout + done.stderr, json.loads(last)["looplab"]


@pytest.mark.slow
@pytest.mark.fault(5)
def test_a_disk_that_is_full_to_the_end_is_what_the_run_ends_with(small_disk):
    write(small_disk, {**PROJECT, "mine.py": PROJECT["mine.py"] + FILLS})
    more = ["checkpoint.every=1st", "+callbacks.fills._target_=mine.Fills"]
    code, said, last = told(*more, cwd=small_disk)
    assert code == 6 and "Traceback" not in said, said
    assert "outcome.json could not be written: No space left on device" in said
    assert last["exit_code"] == 6 and "could not be saved" in last["cause"]
    assert last["last_checkpoint"] == f"step-{steps(small_disk / 'run')[-1]:08d}"


@pytest.mark.slow
@pytest.mark.fault(17, 20)
def test_a_start_that_fails_before_it_begins_says_so_in_both_ways(tmp_path):
    write(tmp_path, PROJECT)
    trained("experiment=mine", "run_dir=run", cwd=tmp_path)
    run = tmp_path / "run"
    ended = (run / "outcome.json").read_bytes()

    code, said, last = told("epochs=3", "+data.source.fail=true", "allow_change=[data]", cwd=tmp_path)
    assert (code, last["exit_code"]) == (1, 1) and "a mistake in the data" in last["cause"], said
    assert "a mistake in the data" in (run / crash_report.REPORT).read_text()

    for manifest in run.glob("checkpoints/*/manifest.json"):
        manifest.write_text("{")
    code, said, last = told("epochs=3", cwd=tmp_path)
    assert (code, last["exit_code"], last["restart_helps"]) == (3, 3, False), said
    assert last["cause"].startswith("no checkpoint in ")
    report = (run / crash_report.REPORT).read_text()
    assert report.startswith(f"# {last['cause']}") and "- exit code: 3" in report
    assert (run / "outcome.json").read_bytes() == ended and read_json(run / "outcome.json")["step"] == 10
