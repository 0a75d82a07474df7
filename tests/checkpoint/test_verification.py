"""`checkpoint.verify`: every save is restored at once, and must change nothing."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
import looplab.checkpoint.state
from looplab.checkpoint import Store
from tests.conftest import on_two_replicas

X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
VERIFY = looplab.CheckpointPolicy(every="2st", keep_last=2, verify=True)


def model():
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    return keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])


def make(*callbacks, kind=looplab.Trainer, **options):
    return kind(model, "adam", "mse", ["mae"], callbacks=callbacks, **{"checkpoint": VERIFY, **options})


def fit(trainer, steps=6):
    trainer.fit((X, X[:, :1]), validation_data=(X, X[:, :1]), batch_size=8, steps=steps, verbose=0)


class Counts(looplab.Callback):
    """Keeps a number, and loses it if it is told to."""

    def __init__(self, forgets=False):
        self.count, self.forgets = 0, forgets

    def on_step(self, event, controls):
        self.count += 1

    def state(self):
        return {"count": self.count, "pair": (1, float("nan"))}

    def restore(self, state):
        self.count = 0 if self.forgets else state["count"]


@pytest.mark.slow
@on_two_replicas
def test_a_run_that_verifies_is_the_run_that_does_not(strategy, tmp_path, caplog):
    trainers = []
    for name, verify in (("trusts", False), ("verifies", True)):
        policy = looplab.CheckpointPolicy(every="2st", verify=verify)
        trainer = make(Counts(), strategy=strategy, run_dir=tmp_path / name, checkpoint=policy)
        with caplog.at_level("INFO", "looplab"):
            fit(trainer)
        trainers.append(trainer)
    left, right = (looplab.checkpoint.state.read(trainer._engine.variables) for trainer in trainers)
    assert left.keys() == right.keys()
    assert [path for path in left if left[path].tobytes() != right[path].tobytes()] == []
    assert caplog.text.count("was read back: the same bits") >= 3


@pytest.mark.share(1)
@pytest.mark.fault(17)
@pytest.mark.parametrize("name", ["arrays.safetensors", "manifest.json"])
def test_a_file_that_is_damaged_on_its_way_ends_the_run(name, tmp_path, monkeypatch):
    save = Store.save

    def damaging(store, step, *arguments, **how):
        path = save(store, step, *arguments, **how)
        if step == 4:
            content = (path / name).read_bytes()
            (path / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        return path

    monkeypatch.setattr(Store, "save", damaging)
    with pytest.raises(looplab.CheckpointError, match="step-00000004"):
        fit(make(run_dir=tmp_path))
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert (outcome["status"], outcome["exit_code"]) == ("failed", 3)
    assert looplab.checkpoint.verify(tmp_path / "checkpoints" / "step-00000002") is None  # none was dropped


def test_a_checkpoint_of_other_values_ends_the_run(tmp_path, monkeypatch):
    save = Store.save

    def other(store, step, arrays, facts, **how):
        kernel = next(path for path in arrays if path.endswith("kernel"))
        return save(store, step, {**arrays, kernel: -arrays[kernel]}, facts, **how)

    monkeypatch.setattr(Store, "save", other)
    with pytest.raises(looplab.CheckpointError, match=r"these differ: models/model/dense/kernel\."):
        fit(make(run_dir=tmp_path))


@pytest.mark.slow
def test_a_callback_that_does_not_take_its_state_back_ends_the_run(tmp_path):
    with pytest.raises(looplab.CheckpointError, match=r"these differ: callbacks\."):
        fit(make(Counts(forgets=True), run_dir=tmp_path))


@pytest.mark.slow
def test_a_variable_that_a_restore_changes_ends_the_run(tmp_path):
    class Rounds(looplab.Trainer):
        """Its variable cannot hold what was saved: it clips what it is given."""

        def setup(self):
            self.kept = tf.Variable(5.0, trainable=False, constraint=None)
            assign = self.kept.assign
            self.kept.assign = lambda value: assign(tf.minimum(value, 1.0))

    with pytest.raises(looplab.CheckpointError, match=r"these differ: trainer/kept\."):
        fit(make(kind=Rounds, run_dir=tmp_path))
