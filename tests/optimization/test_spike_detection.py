"""A loss that leaps up: the step counts for nothing, and what comes is chosen as where one is not finite."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays

import looplab
from looplab import SpikeDetection
from looplab.checkpoint import state
from looplab.loggers import read_records
from looplab.optimization import spike_detection
from tests.conftest import make_strategy

ROWS = np.random.default_rng(0).normal(size=(160, 3)).astype("float32")
TARGETS = ROWS[:, :1].copy()
WILD = TARGETS.copy()
WILD[100:104] = 100.0  # step 26 of 40
FIT = {"batch_size": 4, "shuffle": False, "verbose": 0}


class Both(looplab.Trainer):
    """Two updates in a step, of which the loss that leaps is known when both are made."""

    def train_step(self, batch):
        self.minimize(self.compute_loss, batch)
        return self.minimize(self.compute_loss, batch)


def model():
    layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.1, seed=1), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((3,)), *layers])


def made(kind=looplab.Trainer, *, policy="stop", window=20, execution="graph", **more):
    how = {"run_eagerly": True} if execution == "eager" else {"execution": execution}
    spikes = SpikeDetection(policy, window=window)
    return kind(model, "adam", "mse", ["mae"], spikes=spikes, steps_per_execution=7, **how, **more)


def assert_equal(one, other):
    left, right = (state.read(trainer._engine.variables) for trainer in (one, other))
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_array_equal(left[path], right[path], err_msg=path)


@pytest.mark.slow
@pytest.mark.fault(55)
@pytest.mark.parametrize(
    ("kind", "execution", "replicas"),
    [
        (looplab.Trainer, "graph", 2),
        (Both, "graph", 1),
        *(  # BatchNormalization over replicas does not compile in XLA
            pytest.param(*cell, marks=pytest.mark.slow)
            for cell in [
                (looplab.Trainer, "graph", 1),
                (looplab.Trainer, "xla_step", 1),
                (looplab.Trainer, "eager", 1),
                (looplab.Trainer, "eager", 2),
                (looplab.Trainer, "xla_loop", 1),  # one that is skipped there, and run again, is ordinary
                (Both, "graph", 2),
                (Both, "xla_step", 1),
            ]
        ),
    ],
)
def test_nothing_remains_of_a_step_that_leaps(kind, execution, replicas, tmp_path):
    common = {"execution": execution, "strategy": make_strategy(replicas)}
    good, trainer = made(kind, **common), made(kind, **common, run_dir=tmp_path)
    good.fit(ROWS, TARGETS, **FIT, steps=25)
    with pytest.raises(
        looplab.DivergedError, match=r"in step 26: loss rises to \d+.*, above .*last 20 steps"
    ):
        trainer.fit(ROWS, WILD, **FIT, epochs=2)
    assert_equal(good, trainer)
    assert json.loads((tmp_path / "outcome.json").read_text())["exit_code"] == 4
    again = made(kind, **common, run_dir=tmp_path)
    with pytest.raises(looplab.DivergedError, match="in step 26"):
        again.fit(ROWS, WILD, **FIT, epochs=2)
    assert_equal(good, again)


@pytest.mark.share(1)
@pytest.mark.parametrize("execution", ["graph", "xla_loop"])
def test_a_skipped_one_is_passed_over(execution, tmp_path):
    trainer = made(policy="skip", execution=execution, run_dir=tmp_path, log_every=1)
    trainer.fit(ROWS, WILD, **FIT, epochs=1)
    losses = [r.values["loss"] for r in read_records(tmp_path / "metrics.jsonl") if "loss" in r.values]
    assert len(losses) == 40 and losses[25] > 100 and max(losses[26:]) < 20
    assert int(trainer._engine.step.numpy()) == 40
    seen = trainer._engine.watch.variables["loop/spikes/seen"]
    assert int(seen.numpy()) == 39


@pytest.mark.slow
def test_one_that_goes_back_trains_on_more_slowly(tmp_path, caplog):
    trainer = made(policy="rollback", run_dir=tmp_path, checkpoint=looplab.CheckpointPolicy(every="10st"))
    with pytest.raises(looplab.DivergedError, match="10 such steps failed before"):
        trainer.fit(ROWS, WILD, **FIT, epochs=1)
    assert "back at step 20, with half the learning rate" in caplog.text
    assert trainer._engine.tracked.factors["optimizer"].numpy() == 0.5**10


@pytest.mark.slow
def test_a_fit_that_is_continued_is_the_fit_that_was_not_interrupted(tmp_path):
    whole, first, second = (made(policy="skip", run_dir=tmp_path / name) for name in ("a", "b", "b"))
    whole.fit(ROWS, WILD, **FIT, epochs=1)
    first.fit(ROWS, WILD, **FIT, steps=23)
    second.fit(ROWS, WILD, **FIT, epochs=1)
    assert_equal(whole, second)


@pytest.mark.slow
def test_a_run_may_go_on_with_another_window_or_none(tmp_path):
    made(policy="skip", run_dir=tmp_path).fit(ROWS, TARGETS, **FIT, steps=23)
    wider = made(window=30, run_dir=tmp_path)
    wider.fit(ROWS, TARGETS, **FIT, steps=25)
    assert int(wider._engine.watch.variables["loop/spikes/seen"].numpy()) == 2
    without = looplab.Trainer(model, "adam", "mse", ["mae"], run_dir=tmp_path)
    without.fit(ROWS, TARGETS, **FIT, steps=27)
    assert not [path for path in without._engine.variables if "spikes" in path]


@pytest.mark.slow
def test_it_is_run_again_from_what_was_written_down(tmp_path):
    with pytest.raises(looplab.DivergedError):
        made(execution="xla_loop", run_dir=tmp_path).fit(ROWS, WILD, **FIT)
    found = made().replay(tmp_path / "bad_steps" / "step-00000026", ROWS, WILD, batch_size=4, shuffle=False)
    assert found.is_same and found.values["loss"] > found.limit and found.operation is None
    assert found.examples == [100, 101, 102, 103]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"policy": "skp"}, r"spikes\.policy: 'skp' is not one of .*did you mean 'skip'"),
        ({"window": 9}, r"spikes\.window: expected a whole number from 10 to 1000000, got 9"),
        ({"threshold": float("nan")}, r"spikes\.threshold: must be above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, said):
    with pytest.raises(looplab.ConfigurationError, match=f"(?i){said}"):
        SpikeDetection(**arguments)


def test_what_cannot_go_together_is_refused():
    with pytest.raises(looplab.ConfigurationError, match="with on_nonfinite='ignore' no step is undone"):
        made(on_nonfinite="ignore")
    with pytest.raises(looplab.ConfigurationError, match="without a run_dir there is none"):
        made(policy="rollback")
    trainer = looplab.Trainer(model, "sgd", "mse", spikes=SpikeDetection("stop", monitor="los"))
    with pytest.raises(looplab.ConfigurationError, match=r"no value 'los'; it has loss\..*'loss'"):
        trainer.fit(ROWS, TARGETS, **FIT)


@given(
    some.lists(some.floats(-1e3, 1e3, width=32), min_size=11, max_size=30),
    some.floats(0.5, 20, width=32),
)
def test_the_limit_is_the_oracles(values, threshold):
    last = np.asarray(values, "float32")
    middle = lambda numbers: np.sort(numbers)[len(numbers) // 2]  # noqa: E731
    median = middle(last)
    deviation = max(1.4826 * middle(np.abs(last - median)), 0.01 * abs(median))
    found = SpikeDetection("stop", window=len(values), threshold=threshold).limit(last)
    np.testing.assert_allclose(found, median + threshold * deviation, rtol=1e-4, atol=1e-3)


@settings(deadline=None)
@given(
    arrays(np.float32, some.integers(10, 30), elements=some.floats(-(2.0**20), 2.0**20, width=32)),
    some.floats(0.5, 30, width=32),
)
def test_the_limit_on_the_host_is_that_of_the_graph_to_the_bit(last, threshold):
    detection = looplab.SpikeDetection("skip", window=len(last), threshold=threshold)
    assert detection.limit(last) == float(spike_detection._limit(detection, tf.constant(last)))
