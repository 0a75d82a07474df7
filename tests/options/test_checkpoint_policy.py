import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import looplab
from looplab import CheckpointPolicy


@pytest.mark.fault(54)
def test_the_lowest_loss_is_best_and_nan_never_is():
    policy = CheckpointPolicy()
    best = None
    for value, better in [(float("nan"), False), (1.0, True), (1.0, False), (0.5, True), (0.7, False)]:
        assert policy.better(value, best) is better
        best = value if better else best


@pytest.mark.parametrize("monitor", ["val_accuracy", "val_auc"])
def test_accuracies_rise(monitor):
    policy = CheckpointPolicy(monitor=monitor)
    assert policy.better(0.9, 0.8) and not policy.better(0.7, 0.8)
    assert CheckpointPolicy(monitor=monitor, mode="min").better(0.7, 0.8)


def test_without_validation_the_training_loss_decides():
    assert CheckpointPolicy().value({"loss": 2.0}, evaluated=False) == ("loss", 2.0)
    assert CheckpointPolicy().value({"loss": 2.0, "val_loss": 3.0}, evaluated=True) == ("val_loss", 3.0)
    assert CheckpointPolicy(monitor="val_f1").value({"loss": 2.0, "val_loss": 3.0}, evaluated=True) is None


BAD = [{"every": "soon"}, {"keep_last": 0}, {"keep_best": 0}, {"mode": "best"}, {"keep_every": "10min"}]


@pytest.mark.parametrize("bad", BAD)
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(looplab.ConfigurationError, match=f"checkpoint.{next(iter(bad))}"):
        CheckpointPolicy(**bad)


@given(
    values=st.lists(st.sampled_from([math.nan, -1.0, 0.5, 1.0, 2.0, math.inf]), max_size=12),
    keep=st.integers(1, 4),
    mode=st.sampled_from(["min", "max"]),
)
def test_the_best_are_ranked_and_of_equals_the_earlier(values, keep, mode):
    policy = CheckpointPolicy(keep_best=keep, mode=mode)
    top = []
    for step, value in enumerate(values, start=1):
        top = policy.ranked(top, {"monitor": "loss", "value": value, "step": step})
    sign = 1 if mode == "min" else -1
    numbers = [(sign * v, step) for step, v in enumerate(values, start=1) if not math.isnan(v)]
    assert [found["step"] for found in top] == [step for _, step in sorted(numbers)[:keep]]


def test_some_are_kept_for_good_across_restarts(tmp_path):
    policy = CheckpointPolicy(every="2st", keep_last=1, keep_every="3st", monitor="loss")
    x = np.ones((4, 2), "float32")
    for steps in (7, 11):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        trainer = looplab.Trainer(model, "sgd", "mse", run_dir=tmp_path, checkpoint=policy)
        trainer.fit((x, x[:, :1]), batch_size=1, shuffle=False, steps=steps, verbose=0)
    best = json.loads((tmp_path / "outcome.json").read_text())["best"]["step"]
    there = {int(path.name[5:]) for path in (tmp_path / "checkpoints").iterdir()}
    assert there == {3, 6, 9, 11, best}
    saves = json.loads((tmp_path / "outcome.json").read_text())["saves"]
    assert saves["count"] == 4 and 0 < saves["longest_stall_seconds"] <= saves["stall_seconds"]


@pytest.mark.promise(18)
def test_the_best_checkpoints_are_kept_across_restarts(tmp_path):
    losses = [9.0, 3.0, 1.0, math.nan, 2.0, 4.0, 0.5, 5.0, 6.0]  # by step, from 0; one step is an epoch

    class Scripted(looplab.Trainer):
        def test_step(self, batch):
            return {"loss": tf.gather(tf.constant(losses), self.step)}

    data = np.ones((2, 3), "float32"), np.ones((2, 1), "float32")

    def fit(epochs, keep_best):
        policy = CheckpointPolicy(keep_last=1, keep_best=keep_best)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        options = {"run_dir": tmp_path, "checkpoint": policy, "run_eagerly": True}
        trainer = Scripted(model, "sgd", "mse", **options)
        trainer.fit(data, validation_data=data, epochs=epochs, verbose=0)
        steps = [int(path.name[5:]) for path in (tmp_path / "checkpoints").iterdir()]
        return sorted(steps), json.loads((tmp_path / "outcome.json").read_text())["best"]["step"]

    assert fit(3, 2) == ([1, 2, 3], 2)
    assert fit(5, 2) == ([2, 4, 5], 2)
    assert fit(7, 2) == ([2, 6, 7], 6)
    assert fit(8, 1) == ([6, 8], 6)
