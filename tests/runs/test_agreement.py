"""Every decision of the host goes through the agreement; what others decide is done."""

import signal

import keras
import numpy as np
import pytest

import looplab
from looplab.options.recording import Recording
from looplab.protocols import Agreement
from looplab.runs.agreement import Alone
from looplab.training.session import Session

X = np.linspace(-1, 1, 16, dtype="float32").reshape(8, 2)


class Notes(Alone):
    """Is alone, notes each decision, and decides some otherwise."""

    def __init__(self, decided=None, exchanged=None):
        self.names, self.decided, self.exchanged = [], decided or {}, exchanged or {}

    def decide(self, name, value):
        self.names.append(name)
        return self.decided[name](value) if name in self.decided else value

    def exchange(self, name, value):
        self.names.append(name)
        return self.exchanged[name](value) if name in self.exchanged else [value]

    def clock(self):
        self.names.append("clock")
        return super().clock()


class Worker(Notes):
    workers, index, is_chief = 2, 1, False


def make(agreement, monkeypatch, **options):
    monkeypatch.setattr("looplab.trainer.Alone", lambda: agreement)
    model = lambda: keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])  # noqa: E731
    return looplab.Trainer(model, keras.optimizers.SGD(0.1), options.pop("loss", "mse"), **options)


def fit(trainer, steps):
    return trainer.fit(X, X[:, :1], batch_size=2, steps=steps, verbose=0)


def test_alone_decides_for_itself():
    alone: Agreement = Alone()
    assert alone.decide("mode", "graph") == "graph" and alone.exchange("stop", None) == [None]
    assert (alone.workers, alone.index, alone.is_chief) == (1, 0, True)
    assert alone.clock() <= alone.clock()


def test_each_decision_of_the_host_is_asked_for(monkeypatch, tmp_path):
    def loss(y, p):  # not finite in the first step
        return keras.ops.mean(keras.ops.square(y - p), -1) + keras.ops.where(y[:, 0] < -0.9, np.inf, 0.0)

    policy = looplab.CheckpointPolicy(every="1min")
    options = {"run_dir": tmp_path, "checkpoint": policy, "on_nonfinite": "skip", "loss": loss}
    notes = Notes()
    fit(make(notes, monkeypatch, **options), 3)
    assert {
        "clock",
        "execution mode",
        "stop request",
        "checkpoint to continue from",
        "checkpoint due by the clock",
        "what becomes of a failed step",
    } <= {*notes.names}


def test_a_request_to_stop_of_any_process_is_served(monkeypatch, tmp_path):
    steps = iter(range(100))

    def others(own):
        return [own, signal.SIGTERM if next(steps) == 3 else None]

    notes = Notes(exchanged={"stop request": others})
    trainer = make(notes, monkeypatch, run_dir=tmp_path, steps_per_execution=1)
    with pytest.raises(looplab.Terminated):
        fit(trainer, 20)
    assert 0 < int(trainer.step.numpy()) < 20


def test_what_the_chief_decides_is_done(monkeypatch, tmp_path):
    fit(make(Notes(), monkeypatch, run_dir=tmp_path), 4)
    afresh = Notes(decided={"checkpoint to continue from": lambda found: None})
    assert afresh.decided["checkpoint to continue from"](1) is None
    trainer = make(afresh, monkeypatch, run_dir=tmp_path)
    assert fit(trainer, 2).epoch == [0] and int(trainer.step.numpy()) == 2  # begins again


def test_a_worker_writes_nothing(tmp_path):
    recording = Recording.read(tmp_path / "run", "auto", (), None, "10st", [looplab.loggers.Csv()], None)
    with Session(recording, Worker(), verbose=2) as session:
        assert session.role == "worker" and session.run_dir is None
        assert session.loggers == [session.console]
    assert not (tmp_path / "run").exists()
    with Session(recording, Alone(), verbose=0) as session:
        assert session.role == "chief" and session.run_dir == tmp_path / "run"
