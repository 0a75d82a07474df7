"""A signal that comes anywhere in a run: saved, flushed, ended as it should, and continued bit for bit."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest

import looplab
from looplab.checkpoint import bundle, state
from tests.process import HANGS, differing, environment, forking_python, records, wait_for, write

X = np.random.default_rng(0).normal(size=(48, 3)).astype("float32")
# The signals take the same way: each of them somewhere, and one of them everywhere.
PASSED = [
    ("a step", signal.SIGINT),
    ("an evaluation", signal.SIGHUP),
    ("the clock", signal.SIGTERM),
    ("the end of an epoch", signal.SIGTERM),
    ("a save", signal.SIGTERM),
    ("the data", signal.SIGTERM),
    *(
        pytest.param(point, number, marks=pytest.mark.slow)
        for point, number in [
            ("a step", signal.SIGTERM),
            ("a step", signal.SIGHUP),
            ("an evaluation", signal.SIGTERM),
            ("an evaluation", signal.SIGINT),
        ]
    ),
]


def model():
    layers = [keras.layers.Dense(4), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((3,)), *layers])


class Kills(looplab.Callback):
    """Sends a signal to its own process at some point."""

    every = 1

    def __init__(self, point=None, number=signal.SIGTERM):
        self.point, self.number, self.passes = point, number, 0

    def at(self, point):
        if point == self.point:
            self.point = None
            os.kill(os.getpid(), self.number)

    def on_step(self, event, controls):
        if event.step == 7:
            self.at("a step")

    def on_clock(self, event, controls):
        if event.step >= 7:
            self.at("the clock")

    def on_evaluate_begin(self, event, controls):
        if event.step == 12:
            self.at("an evaluation")

    def on_epoch_end(self, event, controls):
        if event.step == 12:
            self.at("the end of an epoch")


def trained(run_dir, killer, data):
    policy = looplab.CheckpointPolicy(every="4st", keep_last=3)
    trainer = looplab.Trainer(
        model,
        "adam",
        "mse",
        ["mae"],
        callbacks=[killer],
        checkpoint=policy,
        run_dir=run_dir,
        execution="graph",
    )
    how = {} if callable(data) else {"y": X[:, :1], "batch_size": 8}
    trainer.fit(data, **how, validation_data=(X[:20], X[:20, :1]), epochs=4, verbose=0)
    return trainer


def batches(killer):
    """Gives batches, and tells of them."""

    def generate():
        for index in range(6):
            if index == 4:
                killer.passes += 1
                if killer.passes == 2:  # after what is read before training begins
                    killer.at("the data")
            yield X[index * 8 : index * 8 + 8], X[index * 8 : index * 8 + 8, :1]

    return generate


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("unbroken")
    return state.read(trained(run_dir, Kills(), X)._engine.variables), records(run_dir)


@pytest.mark.share(2)
@pytest.mark.promise(21)
@pytest.mark.fault(34, 35)
@pytest.mark.parametrize(("point", "number"), PASSED)
def test_it_is_served_wherever_the_run_is(point, number, unbroken, tmp_path, monkeypatch):
    killer = Kills(point, number)
    if point == "a save":
        write = bundle.write
        monkeypatch.setattr(bundle, "write", lambda *a, **how: (killer.at("a save"), write(*a, **how)))
    before = signal.getsignal(number)
    error = looplab.errors.Interrupted if number == signal.SIGINT else looplab.errors.Terminated
    data = batches(killer) if point == "the data" else X
    with pytest.raises(error, match="everything is saved") as caught:
        trained(tmp_path, killer, data)
    assert caught.value.exit_code == (130 if number == signal.SIGINT else 143)
    assert signal.getsignal(number) is before and killer.point is None
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    status = "interrupted" if number == signal.SIGINT else "terminated"
    assert (outcome["status"], outcome["exit_code"]) == (status, caught.value.exit_code)
    assert outcome["last_checkpoint"] == f"step-{outcome['step']:08d}"
    if point == "the data":
        return
    again = trained(tmp_path, Kills(), data)
    variables, lines = unbroken
    assert differing(state.read(again._engine.variables), variables) == []
    assert records(tmp_path) == lines


class Told(looplab.Trainer):
    """Calls `hear` with the name of a step whenever that is traced."""

    def train_step(self, batch):
        self.hear("train_step")
        return super().train_step(batch)

    def test_step(self, batch):
        self.hear("test_step")
        return super().test_step(batch)


def told(run_dir, execution, hear=lambda name: None):
    trainer = Told(model, "adam", "mse", ["mae"], execution=execution, run_dir=run_dir)
    trainer.hear = hear
    trainer.fit(X, X[:, :1], batch_size=8, validation_data=(X[:20], X[:20, :1]), epochs=2, verbose=0)
    return state.read(trainer._engine.variables)


@pytest.fixture(scope="module")
def untold(tmp_path_factory):
    """Gives runs that nobody ends, by their execution: directory, variables and what was traced."""

    @functools.cache
    def run(execution):
        run_dir, traced = tmp_path_factory.mktemp("untold"), []
        return run_dir, told(run_dir, execution, traced.append), traced

    return run


@pytest.mark.share(1)
@pytest.mark.promise(21)
@pytest.mark.fault(34)
@pytest.mark.parametrize("where", ["train_step", "test_step", "XLA"])
def test_it_is_served_while_steps_are_traced_and_compiled(where, untold, tmp_path, monkeypatch):
    def end():
        os.kill(os.getpid(), signal.SIGTERM)

    heard, execution = [], "xla_step" if where == "XLA" else "graph"
    unbroken, expected, traced = untold(execution)

    def hear(name):
        heard.append(name)
        if name == where and heard.count(name) == traced.count(name):  # not the first look
            end()

    def compiles(self, function, *arguments):
        trace = find(self, function, *arguments)
        if function is not self._loop:
            return trace

        def called(*inputs):
            # XLA takes longer, and Python hears of nothing meanwhile.
            timer = threading.Timer(0.05, end)
            timer.start()
            output = trace(*inputs)
            timer.join()
            return output

        called.graph = trace.graph
        return called

    if where == "XLA":
        find = looplab.execution.CompiledLoop._traced
        monkeypatch.setattr(looplab.execution.CompiledLoop, "_traced", compiles)
    with pytest.raises(looplab.errors.Terminated, match="everything is saved"):
        told(tmp_path / "killed", execution, hear)
    monkeypatch.undo()
    assert 1 <= json.loads((tmp_path / "killed" / "outcome.json").read_text())["step"] <= 6  # of 12
    assert differing(told(tmp_path / "killed", execution), expected) == []
    assert records(tmp_path / "killed") == records(unbroken)


@pytest.mark.slow
def test_a_handler_that_was_there_is_called_too_and_put_back(tmp_path):
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with pytest.raises(looplab.errors.Terminated):
            trained(tmp_path, Kills("a step"), X)
        assert came == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)
        assert came == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_a_second_ctrl_c_aborts_calls_a_handler_too_and_what_was_saved_stays(tmp_path):
    came = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, Twice(), X)
        assert came == [signal.SIGINT] * 2
    finally:
        signal.signal(signal.SIGINT, before)
    last = json.loads((tmp_path / "outcome.json").read_text())["last_checkpoint"]
    assert last in ("step-00000004", "step-00000006")  # the save of the epoch's end was going on
    assert looplab.checkpoint.verify(tmp_path / "checkpoints" / last) is None


@pytest.mark.slow
def test_what_a_process_is_to_ignore_it_ignores(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        assert int(trained(tmp_path, Kills("a step", signal.SIGHUP), X).step.numpy()) == 24
    finally:
        signal.signal(signal.SIGHUP, before)


class Twice(Kills):
    """Presses Ctrl-C two times."""

    def on_step(self, event, controls):
        if event.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(3600)


def test_elsewhere_than_in_the_main_thread_nothing_is_handled(tmp_path):
    before, ended = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=lambda: ended.append(trained(tmp_path, Kills(), X)))
    thread.start()
    thread.join(HANGS)
    assert len(ended) == 1 and signal.getsignal(signal.SIGTERM) is before


class Traced(looplab.Trainer):
    """Is told to end while its step is traced."""

    def compute_loss(self, batch, training):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().compute_loss(batch, training)


def test_before_training_begins_there_is_nothing_to_save(tmp_path):
    trainer = Traced(model, "adam", "mse", run_dir=tmp_path)
    with pytest.raises(looplab.errors.Terminated, match="before training began"):
        trainer.fit(X, X[:, :1], verbose=0)
    assert not (tmp_path / "checkpoints").exists()


STUCK = """
import ctypes, os, signal, subprocess, sys, threading, time
from pathlib import Path
import numpy as np, keras, looplab, looplab.runs.signals

looplab.runs.signals.GRACE, looplab.runs.signals._STUCK, looplab.runs.signals._ABORT = 1.5, 0.2, 1.0
how, done = sys.argv[1], 0

def within_a_call():
    "Gives the innermost frame of the main thread, if that has called the execution after step 40."
    frame = inner = sys._current_frames()[threading.main_thread().ident]
    while frame is not None and frame.f_code.co_name != "_called":
        frame = frame.f_back
    return inner if done == 40 and frame is not None else None

def wait_until_it_waits():
    looks = [None]
    while looks[-1] is None or looks[-3:].count(looks[-1]) < 3:
        time.sleep(0.1)
        looks.append(within_a_call())

def batches():
    for index in range(100):
        if index == 40:
            wait_until_it_waits()
            if how == "stalled":
                os.kill(os.getpid(), signal.SIGTERM)
            Path("an hour has passed").touch()
            print("waits", flush=True)
            time.sleep(3600)
        yield np.ones((4, 3), "float32"), np.ones((4, 1), "float32")

class Holds(looplab.Callback):
    every = 1

    def on_step(self, event, controls):
        global done
        done = event.step
        if how == "hung" and event.step == 6:
            while not Path("hung/checkpoints/step-00000004").exists():
                time.sleep(0.01)
            subprocess.Popen(["sh", "-c", "sleep 0.2; touch 'an hour has passed'"])
            ctypes.PyDLL(None).sleep(3600)  # and keeps the interpreter's lock

model = lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
policy = looplab.CheckpointPolicy(every="4st")
trainer = looplab.Trainer(
    model, "sgd", "mse", run_dir=how, checkpoint=policy, callbacks=[Holds()],
    hang_timeout=None if how in ("stalled", "waits long") else "60min", steps_per_execution=1,
)
trainer.fit(batches, steps_per_epoch=100, verbose=0)
"""

# In the watching process time passes when the run says so: on a busy machine a run that is not stuck may not
# move for as long as a test could wait.
PASSES = """
import os, select, sys

if "looplab.runs.watchdog" in sys.orig_argv:
    look = select.select

    def passes(readers, writers, others, seconds):
        while True:
            ready = look(readers, writers, others, 0.02)
            if ready[0] or os.path.exists("an hour has passed"):
                return ready

    select.select = passes
"""


def stuck(how, folder):
    """Starts a run that comes to stand still; it is forked, and the process that watches it is not."""
    write(folder, {"stuck.py": STUCK, "clock/sitecustomize.py": PASSES})
    return subprocess.Popen(
        [forking_python(), "stuck.py", how],
        cwd=folder,
        env=environment(PYTHONPATH=os.pathsep.join([str(folder / "clock"), *sys.path])),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.fault(34, 35)
def test_ctrl_c_is_answered_where_data_never_comes(tmp_path):
    """The first is said to have been heard; the second ends the run, whose checkpoint stays."""
    process = stuck("waits long", tmp_path)
    run_dir = tmp_path / "waits long"
    try:
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGINT)
        wait_for(process, lambda: "received Ctrl-C" in (run_dir / "log.txt").read_text())
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=HANGS)
    finally:
        process.kill()
    assert process.returncode == 130, said
    outcome = json.loads((run_dir / "outcome.json").read_text())
    assert outcome["exit_code"] == 130
    assert looplab.checkpoint.verify(run_dir / "checkpoints" / outcome["last_checkpoint"]) is None


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("how", "code", "status", "why"),
    [
        pytest.param(
            "stalled", 143, "terminated", "within 1.5 s of the request", marks=pytest.mark.fault(35)
        ),
        pytest.param(
            "hung",
            -signal.SIGUSR1,
            "failed",
            "made no progress for 3600 s, since about",
            marks=pytest.mark.fault(52),
        ),
        pytest.param(
            "waits",
            -signal.SIGUSR1,
            "failed",
            "made no progress for 3600 s, since about",
            marks=pytest.mark.fault(57),
        ),
    ],
)
def test_a_run_that_is_stuck_is_ended_with_its_stacks(how, code, status, why, tmp_path):
    process = stuck(how, tmp_path)
    try:
        _, said = process.communicate(timeout=HANGS)
    finally:
        process.kill()
    assert process.returncode == code, said
    outcome = json.loads((tmp_path / how / "outcome.json").read_text())
    assert (outcome["status"], outcome["exit_code"]) == (status, code if code > 0 else 138)
    assert why in outcome["reason"] and "the last checkpoint is step-0000" in outcome["reason"]
    stacks = (tmp_path / how / "log.txt").read_text()
    assert "stuck.py" in stacks and "most recent call first" in stacks
    path = tmp_path / how / "checkpoints" / outcome["last_checkpoint"]
    assert looplab.checkpoint.verify(path) is None
