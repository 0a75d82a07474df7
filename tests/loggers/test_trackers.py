"""Weights & Biases and MLflow without a network: what they were sent is read back from their files."""

import json
import logging
import struct
import threading

import keras
import numpy as np
import pytest

import looplab
from looplab.loggers import MLflow, WandB, read_records
from looplab.loggers.queued import Queued
from tests.process import HANGS

pytest.importorskip("wandb")
pytest.importorskip("mlflow")
HYPERPARAMETERS = {"optimizer": {"learning_rate": 0.1}, "seed": 0, "api_key": "hush"}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    import wandb

    wandb.teardown()  # it reads its environment once in a process
    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts of a sqlite store into the working directory


class Pictures(looplab.Callback):
    every = "4st"

    def on_step(self, event, controls):
        controls.show("noise", "image", np.zeros((2, 2, 2, 3), "uint8"))
        controls.show("note", "text", "as it **was**")


class Killed(looplab.Callback):
    every = "6st"

    def on_step(self, event, controls):
        if event.step == 6:
            raise RuntimeError("killed")


def train(run_dir, logger, *callbacks, epochs=2):
    x = np.linspace(-1, 1, 32, dtype="float32").reshape(-1, 1)
    trainer = looplab.Trainer(
        lambda: keras.Sequential([keras.Input([1]), keras.layers.Dense(1)]),
        keras.optimizers.SGD(0.1),
        "mse",
        run_dir=run_dir,
        loggers=[logger],
        hyperparameters=HYPERPARAMETERS,
        callbacks=[Pictures(), *callbacks],
        log_every="1st",
    )
    trainer.fit(x, 2 * x, validation_data=(x, 3 * x), batch_size=8, epochs=epochs, verbose=0)


def disturbed(run_dir, make):
    """Ends by an exception at step 6, after the checkpoint of step 4; then goes on."""
    with pytest.raises(RuntimeError, match="killed"):
        train(run_dir, make(), Killed())
    train(run_dir, make())


def expected(run_dir):
    found = {}
    for record in read_records(run_dir / "metrics.jsonl"):
        for tag, value in record.values.items():
            found.setdefault(f"{record.split}/{tag}", []).append((record.step, value))
    return found


@pytest.mark.promise(30, 31)
def test_mlflow_has_every_value_once_at_the_trainers_step(tmp_path):
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    disturbed(tmp_path / "run", lambda: MLflow("lines", store))
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("lines").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"optimizer.learning_rate": "0.1", "seed": "0", "api_key": "***"}
    found = {
        tag: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, tag)]
        for tag in run.data.metrics
    }
    assert found == expected(tmp_path / "run")
    files = [file.path for file in client.list_artifacts(run.info.run_id, "train/noise")]
    assert files == [f"train/noise/{step:08d}-{index}.png" for step in (4, 8) for index in (0, 1)]


def entries(file):
    """What a .wandb file holds: LevelDB's log, pieces of entries in blocks of 32 kB, after 7 bytes."""
    content, place, entry = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768  # no room for a heading: zeros up to the next block
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        entry += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield entry
            entry = b""


@pytest.mark.slow
@pytest.mark.promise(30, 31)
def test_wandb_has_every_value_once_at_the_trainers_step(tmp_path):
    from wandb.proto import wandb_internal_pb2

    disturbed(tmp_path / "run", lambda: WandB(project="lines"))
    files = sorted(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # one run, two starts
    found, config, codes = {}, {}, []
    for file in files:
        for entry in map(wandb_internal_pb2.Record.FromString, entries(file)):
            items = [item for item in entry.history.item if len(item.nested_key) < 2]  # numbers, not media
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
            for tag, value in row.items():
                if "/" in tag and isinstance(value, float | int):
                    found.setdefault(tag, []).append((row["step"], value))
            config |= {item.key: json.loads(item.value_json) for item in entry.run.config.update}
            codes += [entry.exit.exit_code] if entry.HasField("exit") else []
    assert found == expected(tmp_path / "run")
    assert config["optimizer"] == {"learning_rate": 0.1} and config["api_key"] == "***"
    assert codes == [1, 0]


class Slow(Queued):
    """A tracker that does not answer."""

    def __init__(self, answers):
        super().__init__("json")
        self.answers = answers

    def start(self, summary, run_dir):
        assert self.answers.wait(HANGS)
        raise ConnectionError("no route to host")

    def send(self, record):
        raise AssertionError


@pytest.mark.slow
@pytest.mark.fault(65)
def test_a_tracker_out_of_reach_neither_stops_nor_slows_training(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("looplab.loggers.queued._PATIENCE", 0.01)
    monkeypatch.setattr("looplab.loggers.queued._ROOM", 5)
    answers = threading.Event()
    train(tmp_path / "run", Slow(answers))
    assert len(expected(tmp_path / "run")["train/loss"]) == 8
    assert [message for message in caplog.messages if "not sent in time" in message]
    answers.set()


@pytest.mark.fault(65)
def test_a_tracker_that_refuses_is_named_once(tmp_path, caplog):
    answers = threading.Event()
    answers.set()
    train(tmp_path / "run", Slow(answers))
    said = [message for message in caplog.messages if "is disabled" in message]
    assert said == ["Slow is disabled, and training continues: ConnectionError: no route to host"]


def test_a_package_that_is_missing_is_said_at_once():
    class Other(Queued):
        pass

    with pytest.raises(looplab.ConfigurationError, match=r"Other needs nowhere.*looplab\[trackers\]"):
        Other("nowhere")


def test_what_comes_from_the_run_is_no_setting():
    with pytest.raises(looplab.ConfigurationError, match="WandB: looplab sets config, id itself"):
        WandB(project="x", id="y", config={})
