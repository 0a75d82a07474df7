"""Validation sets: one or several, each at its own steps, and what monitors may be called."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import looplab
from looplab import Validation
from looplab.loggers import read_records

X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
DATA = {"x": (X, X[:, :1]), "batch_size": 8, "verbose": 0}  # 3 steps an epoch


class Watch(looplab.Callback):
    def __init__(self, interrupt_at=None):
        self.seen, self.epochs = [], {}

    def on_evaluate(self, event, controls):
        self.seen.append((event.step, event.split))
        assert set(event.monitors) == {
            f"val_{n}" if event.split == "validation" else f"{event.split}_{n}" for n in event.values
        }

    def on_epoch_end(self, event, controls):
        self.epochs[event.step] = set(event.values)


def trainer(*callbacks, **more):
    model = lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])  # noqa: E731
    return looplab.Trainer(model, "sgd", "mse", callbacks=callbacks, **more)


@pytest.mark.slow
def test_each_set_is_evaluated_at_its_own_steps(tmp_path):
    watch = Watch()
    sets = {
        "validation": Validation((X, X[:, :1]), every="2ep"),
        "shifted": Validation((X + 1, X[:, :1]), every="2st", steps=1, batch_size=4),
    }
    made = trainer(watch, run_dir=tmp_path)
    history = made.fit(**DATA, epochs=3, validation_data=sets)
    assert watch.seen == [
        (2, "shifted"),
        (4, "shifted"),
        (6, "validation"),
        (6, "shifted"),
        (8, "shifted"),
        (9, "validation"),
        (9, "shifted"),
    ]
    assert watch.epochs[3] == {"loss", "learning_rate"}
    assert watch.epochs[6] == {"loss", "learning_rate", "val_loss", "shifted_loss"}
    assert [len(history.history[name]) for name in ("loss", "val_loss", "shifted_loss")] == [3, 2, 3]
    written = [(r.step, r.split) for r in read_records(tmp_path / "metrics.jsonl") if r.split != "train"]
    assert written == watch.seen
    assert (tmp_path / "tensorboard" / "shifted").is_dir()
    shifted = made.evaluate((X[:4] + 1, X[:4, :1]))
    last = [r for r in read_records(tmp_path / "metrics.jsonl") if r.split == "shifted"][-1]
    assert last.values["epoch_loss"] == pytest.approx(shifted["loss"], rel=1e-6)  # its first 4 rows only


@pytest.mark.share(1)
@pytest.mark.parametrize("length", [{"epochs": 5}, {"steps": 11}, {"steps": 10}, {"epochs": 1}], ids=str)
def test_a_number_of_epochs_is_the_validation_freq_of_keras(length):
    watch = Watch()
    trainer(watch).fit(**DATA, **length, validation_data=(X, X[:, :1]), validation_freq=2)
    ends = {"{'epochs': 5}": [6, 12], "{'steps': 11}": [6, 11], "{'steps': 10}": [6, 10], "{'epochs': 1}": []}
    assert [step for step, _ in watch.seen] == ends[str(length)]


def test_keras_limits_of_a_length_count(caplog):
    keras.config.set_max_epochs(2)
    keras.config.set_max_steps_per_epoch(1)
    try:
        history = trainer().fit(**DATA, epochs=5, validation_data=(X, X[:, :1]))
    finally:
        keras.config.set_max_epochs(None)
        keras.config.set_max_steps_per_epoch(None)
    assert history.params == {"epochs": 2, "steps": 1}
    assert len(history.history["val_loss"]) == 2


def test_the_first_set_decides_which_is_best_where_none_has_the_name_of_the_default(tmp_path, caplog):
    caplog.set_level("INFO", "looplab")
    sets = {"clean": Validation((X, X[:, :1])), "noisy": Validation((X + 1, X[:, :1]))}
    trainer(run_dir=tmp_path).fit(**DATA, epochs=2, validation_data=sets)
    assert json.loads((tmp_path / "outcome.json").read_text())["best"]["monitor"] == "clean_loss"
    assert "checkpoint.monitor: clean_loss, since no validation set" in caplog.text


@pytest.mark.slow
def test_the_best_checkpoint_may_follow_another_set_between_epochs(tmp_path):
    sets = {"shifted": Validation((X + 1, X[:, :1]), every="4st")}
    policy = looplab.CheckpointPolicy(every="1st", monitor="shifted_loss", mode="max")
    made = trainer(run_dir=tmp_path, checkpoint=policy)
    made.fit(**DATA, epochs=2, validation_data=sets)
    best = json.loads((tmp_path / "outcome.json").read_text())["best"]
    assert (best["step"], best["monitor"]) == (4, "shifted_loss")
    assert looplab.checkpoint.Store(tmp_path / "checkpoints").steps() == [4, 5, 6]  # 5, 6: the last two
    records = {
        r.step: r.values["epoch_loss"]
        for r in read_records(tmp_path / "metrics.jsonl")
        if r.split == "shifted"
    }
    assert max(records, key=records.get) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_freq": "10min"}, "wall-clock"),
        ({"validation_freq": 0}, "positive"),
        ({"validation_data": {"a": Validation(X), "b": X}}, r"validation_data\['b'\]"),
        ({"validation_data": {"train": Validation(X)}}, "'train'"),
        ({"validation_data": {"a/b": Validation(X)}}, "letters"),
        ({"validation_data": {"a": Validation(X)}, "validation_freq": 2}, "for one set"),
        ({"validation_freq": {"validation": 2}}, "for one set.*looplab.Validation"),
        ({"validation_steps": {"validation": 2}}, "for one set"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message):
    given = {"validation_data": (X, X[:, :1]), **arguments}
    with pytest.raises(looplab.ConfigurationError, match=message):
        trainer().fit(**DATA, **given)


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(
    freq=st.one_of(st.integers(1, 3), st.integers(1, 5).map(lambda n: f"{n}st"), st.just("20ex")),
    steps=st.integers(3, 10),
    loop=st.integers(1, 4),
)
def test_evaluations_come_at_the_steps_the_interval_says(freq, steps, loop):
    watch = Watch()
    trainer(watch, steps_per_execution=loop).fit(
        **DATA, steps=steps, validation_data=(X, X[:, :1]), validation_freq=freq
    )
    seen = [0]
    for step in range(1, steps + 1):
        seen.append(seen[-1] + (8, 8, 4)[(step - 1) % 3])
    if isinstance(freq, int):
        due = {s for s in range(1, steps + 1) if s % (3 * freq) == 0}
    elif freq.endswith("st"):
        due = {s for s in range(1, steps + 1) if s % int(freq[:-2]) == 0}
    else:
        due = {s for s in range(1, steps + 1) if seen[s] // 20 > seen[s - 1] // 20}
    assert [step for step, _ in watch.seen] == sorted(due | {steps})


class Named(looplab.Trainer):
    """Its steps return no value called `loss`."""

    def train_step(self, batch):
        return {"own": self.minimize(self.compute_loss, batch)["loss"]}

    def test_step(self, batch):
        return {"own": self.measure(self.compute_loss, batch)["loss"]}


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("kind", "validation", "policy", "says"),
    [
        (Named, True, {}, "nothing produces 'val_loss'; there are val_own, own, learning_rate"),
        (Named, False, {}, "nothing produces 'val_loss'; there are own, learning_rate"),
        (Named, True, {"monitor": "val_own"}, None),
        (looplab.Trainer, False, {}, None),
    ],
)
def test_a_run_that_can_have_no_best_checkpoint_says_so_once(
    kind, validation, policy, says, tmp_path, caplog
):
    x = np.ones((8, 2), "float32")
    trainer = kind(
        lambda: keras.Sequential([keras.layers.Dense(1)]), "sgd", "mse",
        run_dir=tmp_path, checkpoint=looplab.CheckpointPolicy(**policy), execution="graph",
    )  # fmt: skip
    trainer.fit(x, x[:, :1], validation_data=(x, x[:, :1]) if validation else None, epochs=2, verbose=0)
    found = [r.getMessage() for r in caplog.records if "becomes the best" in r.getMessage()]
    assert len(found) == (says is not None) and all(says in each for each in found)
    best = json.loads((tmp_path / "outcome.json").read_text())["best"]
    assert (best is None) == (says is not None)
