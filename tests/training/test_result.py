"""A callback states the result of a run beside a baseline."""

import json
import math

import keras
import numpy as np
import pytest

import looplab
from looplab.errors import ConfigurationError
from looplab.training.controls import RunControls

X = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")


class States(looplab.Callback):
    """States a result when training ends."""

    def __init__(self, *results):
        self.results = results

    def on_train_end(self, event, controls):
        for name, value, options in self.results:
            controls.result(name, value, **options)


def run(run_dir, *results, epochs=1, **options):
    trainer = looplab.Trainer(
        lambda: keras.Sequential([keras.layers.Dense(1)]),
        "sgd",
        "mse",
        callbacks=[States(*results)],
        run_dir=run_dir,
        **options,
    )
    trainer.fit(X, X[:, :1], batch_size=8, epochs=epochs, verbose=1)
    return json.loads((run_dir / "outcome.json").read_text())


def test_it_stands_in_the_outcome_and_in_the_last_lines(tmp_path, capsys):
    outcome = run(tmp_path / "run", ("early", 0.0, {"baseline": 1}), ("AUC", 0.9, {"baseline": 0.8}))
    stated = {"name": "AUC", "value": 0.9, "baseline": 0.8, "mode": "max", "met": True}
    assert outcome["result"] == stated  # the last one
    assert "result   AUC 0.9 (above the baseline 0.8)" in capsys.readouterr().out
    again = run(tmp_path / "run", ("AUC", 0.1, {"baseline": 0.8}))  # has nothing to do
    assert again["result"] == stated
    more = run(tmp_path / "run", ("error", 0.9, {"baseline": 0.8, "mode": "min"}), epochs=2)
    assert more["result"]["met"] is False
    assert "result   error 0.9 (not below the baseline 0.8)" in capsys.readouterr().out


def test_a_run_without_one_has_none(tmp_path):
    assert "result" not in run(tmp_path / "run")


@pytest.mark.parametrize(
    ("value", "options", "met"),
    [
        (0.8, {"baseline": 0.8}, False),
        (0.8, {"baseline": 0.8, "mode": "min"}, False),
        (np.float32(0.9), {"baseline": 0.8}, True),
        (math.nan, {"baseline": 0.8}, False),
        (math.nan, {"baseline": 0.8, "mode": "min"}, False),
        (math.inf, {"baseline": 0.8}, False),
        (-math.inf, {"baseline": 0.8, "mode": "min"}, False),
    ],
)
def test_only_what_is_better_meets_it(value, options, met):
    controls = RunControls(lambda *_: None, lambda: None, None)
    controls.result("x", value, **options)
    assert controls.stated["met"] is met
    json.dumps(controls.stated, allow_nan=False)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"baseline": math.nan}, "the baseline of 'x' is nan"),
        ({"baseline": 1, "mode": "mx"}, r"mode='mx' is not 'max' or 'min'. Did you mean 'max'\?"),
    ],
)
def test_what_nothing_can_be_compared_to_is_refused(options, says):
    controls = RunControls(lambda *_: None, lambda: None, None)
    with pytest.raises(ConfigurationError, match=says):
        controls.result("x", 1.0, **options)
