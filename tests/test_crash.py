"""What is found of a run that an error has ended."""

import json

import keras
import numpy as np
import pytest

import looplab
from looplab import crash

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
    report = (tmp_path / crash.REPORT).read_text()
    first, *_ = report.splitlines()
    assert first == "# RuntimeError: the first cause (in the callback Breaks.on_step at step 5)" or (
        first == "# RuntimeError: the first cause"
    )
    assert "- last good checkpoint: step-00000004" in report
    assert "the same command continues the run" in report
    assert "test_crash.py" in report and "hunter2" not in report.replace('secret = "hunter2"', "")
    assert '"step": 4' in report and '"tensorflow"' in report
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    told = json.loads(crash.line(outcome))["looplab"]
    assert told["exit_code"] == 1 and told["cause"].startswith("RuntimeError: the first cause")
    assert told["last_checkpoint"] == "step-00000004" and told["restart_helps"] is False
    monkeypatch.undo()
    fit(tmp_path, 99)  # mended
    assert not (tmp_path / crash.REPORT).exists()
