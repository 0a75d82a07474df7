"""A logger that fails ends itself, with one warning, and never the run."""

import logging

import keras
import numpy as np
import pytest

import looplab
from looplab.loggers import Guarded, JsonLines, read_records
from looplab.protocols import Logger, Record

METHODS = ["open", "begin", "write", "show", "offsets", "rewind", "end", "close"]


class Broken(Logger):
    """Raises in one of its methods, and remembers what was called."""

    def __init__(self, method):
        self.called = []

        def fail(*arguments):
            self.called.append(method)
            raise OSError(28, "No space left on device")

        setattr(self, method, fail)

    def close(self):
        self.called.append("close")


class Pictures(looplab.Callback):
    every = "2st"

    def on_step(self, event, controls):
        controls.show("noise", "image", np.zeros((1, 2, 2, 3)))


def train(run_dir, *loggers, **how):
    x = np.linspace(-1, 1, 32, dtype="float32").reshape(-1, 1)
    trainer = looplab.Trainer(
        lambda: keras.Sequential([keras.Input([1]), keras.layers.Dense(1)]),
        keras.optimizers.SGD(0.1),
        "mse",
        run_dir=run_dir,
        loggers=loggers,
        callbacks=[Pictures()],
    )
    trainer.fit(x, 2 * x, validation_data=(x, 3 * x), batch_size=8, epochs=2, verbose=0, **how)
    return [variable.numpy() for variable in trainer.model.weights]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    return train(run_dir), list(read_records(run_dir / "metrics.jsonl"))


@pytest.mark.fault(66)
def test_a_run_does_not_notice_loggers_that_fail(tmp_path, caplog, undisturbed):
    (tmp_path / "checkpoints").mkdir()  # of an earlier start, so that logs are cut back
    broken = {method: Broken(method) for method in METHODS}
    weights = train(tmp_path, *broken.values())
    for mine, expected in zip(weights, undisturbed[0], strict=True):
        np.testing.assert_array_equal(mine, expected)
    records = list(read_records(tmp_path / "metrics.jsonl"))
    assert [record.values for record in records] == [record.values for record in undisturbed[1]]
    said = [message for message in caplog.messages if "is disabled" in message]
    each = "Broken is disabled, and training continues: OSError: [Errno 28] No space left on device"
    assert said == [each] * len(METHODS)
    for method, logger in broken.items():
        if method not in ("offsets", "close"):
            assert logger.called == [method, "close"]


@pytest.mark.fault(66)
def test_a_disk_that_is_full_of_logs_does_not_stop_training(tmp_path, monkeypatch, caplog, undisturbed):
    caplog.set_level(logging.WARNING)
    for name in ("tensorboard", "log.txt"):
        (tmp_path / name).symlink_to("/dev/full")
    weights = train(tmp_path)
    for mine, expected in zip(weights, undisturbed[0], strict=True):
        np.testing.assert_array_equal(mine, expected)
    assert [message.split(" ")[0] for message in caplog.messages] == ["log.txt", "TensorBoard"]


def test_a_checkpoint_knows_how_far_a_failed_log_came(tmp_path):
    path = tmp_path / "metrics.jsonl"
    guarded = Guarded(JsonLines(path))
    guarded.write(Record(1, 1, "train", {"loss": 0.5}))
    guarded.write(Record(2, 1, "train", {"loss": "no number"}))
    guarded.write(Record(3, 1, "train", {"loss": 0.5}))
    assert guarded.offsets() == {"metrics.jsonl": path.stat().st_size}
    assert [record.step for record in read_records(path)] == [1]


def test_what_is_no_logger_is_refused_at_the_start(tmp_path):
    with pytest.raises(looplab.ConfigurationError, match=r"loggers: Sequential is not a looplab\.Logger\."):
        looplab.Trainer(loggers=[keras.Sequential()])
