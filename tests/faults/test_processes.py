"""Processes beside the run, and one too large: workers that read data, forks, a step without memory."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from tests.process import HANGS, environment, read_json, steps

WORKERS = """
import os, signal, time
import numpy as np, keras, looplab


class Slow(keras.utils.PyDataset):
    def __len__(self):
        return 2000

    def __getitem__(self, index):
        time.sleep(0.01)
        return np.ones((4, 3), "float32"), np.ones((4, 1), "float32")


class Kills(looplab.Callback):
    every = 20

    def on_step(self, event, controls):
        if event.step == 40:
            os.killpg(0, signal.SIGTERM)


model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
trainer = looplab.Trainer(model, "sgd", "mse", run_dir="run", callbacks=[Kills()], steps_per_execution=5)
trainer.fit(Slow(workers=2, use_multiprocessing=True), verbose=0)
"""


@pytest.mark.fault(37)
def test_a_whole_process_group_is_told_to_end(tmp_path):
    (tmp_path / "workers.py").write_text(WORKERS)
    process = subprocess.Popen(
        [sys.executable, "workers.py"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=os.pathsep.join(sys.path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=HANGS)  # also its workers have ended: they hold the pipe too
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    outcome = read_json(tmp_path / "run" / "outcome.json")
    assert (outcome["status"], outcome["exit_code"]) == ("terminated", 143), said
    assert "terminated at step 4" in said and 40 <= outcome["step"] < 50
    assert steps(tmp_path / "run") == [outcome["step"]]


def net():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


@pytest.mark.fault(51)
@pytest.mark.parametrize("made", ["before", "after"])
def test_a_fork_is_told_that_it_cannot_train(made):
    trainer = looplab.Trainer(net, "sgd", "mse")
    heard, says = multiprocessing.Pipe(duplex=False)

    def child():
        try:
            own = trainer if made == "before" else looplab.Trainer(net, "sgd", "mse")
            own.fit(np.ones((8, 3), "float32"), np.ones((8, 1), "float32"), verbose=0)
        except looplab.ConfigurationError as error:
            says.send(str(error))
        finally:
            os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    try:
        assert heard.poll(HANGS), "it waits for ever"
        assert f"forked from process {os.getpid()}" in heard.recv()
    finally:
        process.kill()
        process.join(HANGS)


def test_a_worker_that_is_forked_ends_by_itself_and_the_run_goes_on(tmp_path, monkeypatch):
    """Not only is it ended: what it was told must not be taken for something that the run was told."""

    class Forks(looplab.Callback):
        every = 4

        def on_step(self, event, controls):
            if event.step == 4:
                process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,))
                process.start()
                process.terminate()
                process.join(HANGS)
                self.code = process.exitcode

    monkeypatch.setattr("looplab.runs.signals._HEARING", 0.2)
    forks = Forks()
    trainer = looplab.Trainer(net, "sgd", "mse", callbacks=[forks], run_dir=tmp_path)
    x = np.ones((32, 3), "float32")
    trainer.fit(x, x[:, :1], batch_size=4, verbose=0)
    assert forks.code == -signal.SIGTERM
    assert read_json(tmp_path / "outcome.json")["status"] == "finished"


class Huge(looplab.Trainer):
    """Asks for 32 terabytes in its fourth step."""

    def compute_loss(self, batch, training):
        x, y = batch
        rows = tf.cast(tf.reduce_max(x), tf.int32)
        many = tf.random.uniform([rows, 1_000_000])
        return tf.square(self.model(x) - y)[:, 0] + tf.reduce_mean(many)


@pytest.mark.fault(60)
def test_where_no_memory_is_left_it_is_said_for_what(tmp_path):
    x = np.ones((32, 3), "float32")
    x[12:16] = 8_000_000
    policy = looplab.CheckpointPolicy(every="1st", keep_last=1)
    trainer = Huge(net, "sgd", run_dir=tmp_path, checkpoint=policy, execution="graph")
    with pytest.raises(
        looplab.LooplabError, match=r"(?s)no memory for a step: .*\[8000000,1000000\]"
    ) as caught:
        trainer.fit(x, x[:, :1], batch_size=4, shuffle=False, verbose=0)
    said = str(caught.value)
    assert "test_processes.py" in said and "in compute_loss" in said and "batch 3 " in said
    assert "GB, of which" in said and "micro_batches=2" in said and "batch 4" in said
    assert read_json(tmp_path / "outcome.json")["exit_code"] == 1
    assert looplab.checkpoint.verify(tmp_path / "checkpoints" / "step-00000003") is None
