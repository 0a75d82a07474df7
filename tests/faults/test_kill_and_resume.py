"""Runs that are killed or interrupted at any instant, and started again with the same command.

The finished run must be the one that was never disturbed: final weights bit by bit, what the last checkpoint
says of callbacks, progress and data, every value of the log once, one point per tag and step in TensorBoard.
"""

import contextlib
import json
import random
import signal
import time

import pytest

import looplab
from looplab.cli import startup
from tests.faults.soaked import PROJECT as SOAKED
from tests.faults.soaked import words_of
from tests.process import (
    PROJECT,
    arrays,
    assert_same_run,
    ended,
    read_json,
    start,
    steps,
    train,
    trained,
    wait_for,
    write,
)

DIGITS = ["+experiment=digits", "epochs=6", "checkpoint.every=7st", "model.filters=[4]"]
DIGITS += ["+callbacks.slowly={_target_: soaked.Slowly}"]
# Every kind of state, two replicas, and a stream whose pipeline's state is saved.
TWO = [*words_of(2, "step by step", "stream", 1), "epochs=20", "callbacks.stopping.patience=12"]
# The gradients of each replica in XLA.
XLA = [*words_of(2, "xla step", "stream", 1), "epochs=20", "callbacks.stopping.patience=12"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    write(path, PROJECT | SOAKED)
    return path


@pytest.fixture(scope="module")
def unbroken(folder):
    """Gives the runs that nobody disturbs, by their words; each runs once, beside the others."""
    started = {}

    def begin(words):
        if str(words) not in started:
            run_dir = folder / f"unbroken{len(started)}"
            started[str(words)] = run_dir, start(*words, f"run_dir={run_dir.name}", cwd=folder)

        def end():
            run_dir, process = started[str(words)]
            if process.returncode is None:
                code, said = ended(process)
                assert code == 0, said
            return run_dir

        return end

    yield begin
    for _, process in started.values():
        process.kill()


def struck(process, number, within, wait=lambda: None):
    """Sends a signal at some moment after a wait; returns which moment, and what it came to."""
    try:
        wait()
        pause = random.uniform(0, within)
        time.sleep(pause)
        process.send_signal(number)
        return pause, *ended(process)
    finally:
        process.kill()


def kill_early(words, run_dir, cwd, number):
    """Starts the command and sends it a signal, most likely before it trains; returns when."""
    process = start(*words, f"run_dir={run_dir.name}", cwd=cwd)
    pause, code, said = struck(process, number, 3)
    assert code in (-number, 128 + number), said
    return f"{number.name} {pause:.1f} s after the start"


def kill_some_time(words, run_dir, cwd, number, moment):
    """Starts the command, sends a signal some time after it has saved `moment` times; returns when."""
    last = "100" if words is DIGITS else "350"  # of 138, and of 429
    process = start(*words, f"run_dir={run_dir.name}", cwd=cwd, STANDS_FROM=last)
    before = steps(run_dir)[-1:]
    saved = [before]

    def reached():
        now = steps(run_dir)[-1:]
        if now != saved[-1]:
            saved.append(now)
        return len(saved) > moment

    pause, code, said = struck(process, number, 0.08, lambda: wait_for(process, reached))
    assert code == (143 if number == signal.SIGTERM else -number), said
    assert (run_dir / "outcome.json").exists() == (number == signal.SIGTERM)
    return f"{number.name} {before} -> {steps(run_dir)[-1:]} and {pause * 1000:.0f} ms"


@pytest.mark.share(1)
@pytest.mark.promise(10, 13, 14, 17, 21, 31)
@pytest.mark.fault(1, 2, 3, 4, 34, 39, 67)
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(DIGITS, id="one device"),
        pytest.param(TWO, id="two replicas"),
        pytest.param(XLA, id="two replicas in XLA", marks=pytest.mark.slow),  # compiles at each start
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(folder, unbroken, words):
    """Each signal as a run starts, or starts again, and while it trains."""
    reference = unbroken(words)  # meanwhile
    run_dir, moments = folder / f"killed{[DIGITS, TWO, XLA].index(words)}", []
    for early in (signal.SIGKILL, signal.SIGTERM):
        later = signal.SIGTERM if early == signal.SIGKILL else signal.SIGKILL
        moments.append(kill_early(words, run_dir, folder, early))
        moments.append(kill_some_time(words, run_dir, folder, later, random.randint(1, 3)))
    print("killed at", *moments, sep="\n  ")  # shown if something is wrong
    said = trained(*words, f"run_dir={run_dir.name}", cwd=folder)
    assert "continues after step" in said
    assert_same_run(run_dir, reference())


@pytest.mark.fault(38)
def test_ctrl_c_saves_and_the_same_command_continues(folder, unbroken):
    run_dir = folder / "interrupted"
    process = start(*DIGITS, f"run_dir={run_dir.name}", cwd=folder)
    wait_for(process, lambda: steps(run_dir))
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    assert code == 130, said
    assert "Traceback" not in said
    *_, line, record = said.splitlines()
    assert line.endswith("everything is saved: run_dir=interrupted continues it")
    outcome = read_json(run_dir / "outcome.json")
    assert (outcome["status"], outcome["exit_code"]) == ("interrupted", 130)
    told = json.loads(record)["looplab"]
    assert (told["exit_code"], told["step"], told["restart_helps"]) == (130, outcome["step"], True)
    assert told["last_checkpoint"] == outcome["last_checkpoint"]
    assert outcome["last_checkpoint"] == f"step-{outcome['step']:08d}"
    assert 7 <= outcome["step"] == steps(run_dir)[-1] < 138
    assert int(arrays(run_dir)["loop/step"]) == outcome["step"]
    said = trained(*DIGITS, f"run_dir={run_dir.name}", cwd=folder)
    assert f"continues after step {outcome['step']}" in said
    assert_same_run(run_dir, unbroken(DIGITS)())


@pytest.fixture(scope="module")
def aborted(folder):
    """A run with a callback that hangs at step 8, and Ctrl-C pressed twice meanwhile."""
    run_dir = folder / "aborted"
    words = ["experiment=mine", "checkpoint.every=5st", "+callbacks.slow={_target_: mine.Slow, step: 8}"]
    process = start(*words, f"run_dir={run_dir.name}", cwd=folder)
    wait_for(process, lambda: process.stdout.readline() == "sleeping\n")
    process.send_signal(signal.SIGINT)
    wait_for(process, lambda: "Ctrl-C again aborts" in process.stdout.readline())
    process.send_signal(signal.SIGINT)
    return run_dir, *ended(process)


@pytest.mark.fault(38)
def test_a_second_ctrl_c_aborts_at_once_and_the_checkpoint_before_stays_good(aborted):
    run_dir, code, said = aborted
    assert code == 130
    assert "Traceback" not in said
    outcome = read_json(run_dir / "outcome.json")
    assert (outcome["status"], outcome["exit_code"]) == ("interrupted", 130)
    assert outcome["reason"] == "aborted by a second Ctrl-C"  # the callback would sleep for an hour
    assert outcome["last_checkpoint"] == "step-00000005"
    assert steps(run_dir) == [5]
    assert looplab.checkpoint.verify(run_dir / "checkpoints" / "step-00000005") is None


@pytest.mark.fault(38)
def test_ctrl_c_that_a_module_swallows_while_it_is_imported_is_heeded():
    before = signal.getsignal(signal.SIGINT)
    swallowed = contextlib.suppress(BaseException)  # as modules do around what they import on trial
    with pytest.raises(KeyboardInterrupt), startup._heeded(), swallowed:
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# Presses Ctrl-C amid the import of TensorFlow.
PRESSES = """
import os, signal, sys, threading

class Presses:
    def find_spec(name, path=None, target=None):
        if name == "tensorflow.python.ops":
            sys.meta_path.remove(Presses)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Presses)
"""


@pytest.mark.fault(38)
def test_ctrl_c_before_training_leaves_nothing(folder):
    write(folder, {"amid/sitecustomize.py": PRESSES})
    code, said = train("experiment=mine", "run_dir=never", cwd=folder, PYTHONPATH=str(folder / "amid"))
    # Where the signal came inside an exec(), as dataclasses use it, CPython ends itself by the signal
    # even though it was handled; a shell reports that as 130 too.
    assert code in (130, -signal.SIGINT)
    assert said == "looplab: interrupted\n"
    assert not (folder / "never").exists()


def test_a_damaged_last_checkpoint_is_passed_over(folder, unbroken, aborted):
    """More of this in tests/checkpoint; here: the command says so and goes on."""
    run_dir, *_ = aborted
    path = run_dir / "checkpoints" / "step-00000005" / "arrays.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    code, said = train("experiment=mine", f"run_dir={run_dir.name}", cwd=folder)
    assert code == 3
    assert "Traceback" not in said
    assert "step-00000005" in said
