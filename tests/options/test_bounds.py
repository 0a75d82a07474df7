"""Numbers that no run can have are refused by their range and its reason, in files and in Python alike."""

from __future__ import annotations

import numpy as np
import pytest
from omegaconf import OmegaConf

import looplab
from looplab.config import validation
from looplab.errors import ConfigurationError
from looplab.interval import Interval
from looplab.options import bounds

BOUNDED = [
    "epochs",
    "steps",
    "seed",
    "data.batch_size",
    "data.steps_per_epoch",
    "data.validation_steps",
    "data.limit",
    "data.limit_epochs",
    "strategy.replicas",
    "devices.intra_threads",
    "devices.inter_threads",
    "execution.steps_per_execution",
    "execution.micro_batches",
    "checkpoint.keep_last",
    "checkpoint.keep_best",
    "spikes.window",
]


@pytest.mark.parametrize("value", [1e30, 10**30, 10**400, "1e30", float("inf"), "inf"])
@pytest.mark.parametrize("key", BOUNDED)
def test_a_file_learns_the_range_and_its_reason(key, value):
    config = OmegaConf.create({})
    OmegaConf.update(config, key, value)
    (problem,) = validation.look(config)[1]
    assert problem.key == key
    assert "a whole number " in problem.message
    assert problem.message.endswith(".") and len(problem.message) < 400
    assert any(
        kind.why in problem.message
        for kind in (
            bounds.COUNT,
            bounds.BATCH_SIZE,
            bounds.CHUNK.number,
            bounds.MICRO_BATCHES.number,
            bounds.SEED,
            bounds.KEPT,
            bounds.WINDOW,
            bounds.THREADS,
            bounds.REPLICAS,
        )
    )


@pytest.mark.parametrize("value", ["1e30st", "1e999999999st", "1e30ep", "1e30ex", 10**400])
@pytest.mark.parametrize("key", ["checkpoint.every", "checkpoint.keep_every", "loggers.every"])
def test_an_interval_that_no_run_lasts_is_refused_at_once(key, value):
    config = OmegaConf.create({})
    OmegaConf.update(config, key, value)
    (problem,) = validation.look(config)[1]
    assert problem.key == key
    assert "is too long: at most 9,007,199,254,740,992" in problem.message


def test_a_time_that_no_run_lasts_is_refused():
    (problem,) = validation.look(OmegaConf.create({"hang_timeout": "1e30min"}))[1]
    assert "too long: at most 10,000,000 minutes, since that is 19 years" in problem.message
    with pytest.raises(ConfigurationError, match="every: '1e400min' is too long"):
        Interval.parse("1e400min", what="every")


def trainer(**options):
    return looplab.Trainer("model", "sgd", "mse", **options)


@pytest.mark.parametrize("value", [1e30, 10**400, 0, -1, 1.5, True, "3", None, float("nan")])
@pytest.mark.parametrize(
    "act",
    [
        lambda value: trainer(seed=-1 if value == 0 else value),
        lambda value: trainer(micro_batches=value),
        lambda value: trainer(steps_per_execution=value),
        lambda value: looplab.strategy.simulated(value),
        lambda value: looplab.devices.configure(intra_threads=0 if value is None else value),
        lambda value: looplab.devices.configure(inter_threads=0 if value is None else value),
        lambda value: looplab.checkpoint.Policy(keep_last=value),
        lambda value: looplab.checkpoint.Policy(keep_best=value),
        lambda value: looplab.Validation([1], steps=0 if value is None else value),
        lambda value: looplab.Validation([1], batch_size=0 if value is None else value),
        lambda value: looplab.SpikeDetection(window=value),
    ],
    ids=range(11),
)
def test_a_program_learns_them_too(act, value):
    with pytest.raises(ConfigurationError, match=r"\w: expected .*a whole number (of|from) .*\d, got"):
        act(value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"batch_size": 1e30}, r"batch_size: expected a whole number from 1 to 2147483647, got 1e\+30\. "),
        ({"batch_size": 1.5}, r"batch_size: expected a whole number from 1 to 2147483647, got 1\.5\."),
        ({"epochs": 10**30}, "epochs: expected a whole number of at least 1, got"),
        ({"steps": 10**30}, "steps: expected a whole number of at least 1, got"),
        ({"steps_per_epoch": 10**30}, "steps_per_epoch: expected a whole number of at least 1, got"),
        ({"epochs": 2**50, "steps_per_epoch": 2**50}, f"epochs={2**50} of {2**50} steps: expected a whole"),
        (
            {"validation_data": [[1.0]], "validation_steps": 2**60},
            "validation_steps: expected a whole number",
        ),
    ],
)
def test_fit_learns_them(arguments, says):
    import keras

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    made = looplab.Trainer(model, "sgd", "mse")
    ones = np.ones((4, 1), "float32")
    with pytest.raises(ConfigurationError, match=says):
        made.fit(ones, ones, **arguments)


def test_the_largest_that_are_taken_train():
    import keras

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    made = looplab.Trainer(
        model, "sgd", "mse", steps_per_execution=2**31 - 1, seed=np.uint32(2**32 - 1), execution="graph"
    )
    ones = np.ones((4, 1), "float32")
    made.fit(ones, ones, batch_size=2**31 - 1, epochs=np.int64(2), validation_data=(ones, ones), verbose=0)
    assert made.evaluate(ones, ones, steps=np.int64(3), batch_size=np.int32(2))["loss"] >= 0.0
