"""The callbacks that looplab ships: what they say, and what they leave when a run ends otherwise."""

import math
import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.callbacks import Overfit, Profile
from tests.conftest import make_strategy

X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")


def make(*callbacks, **options):
    def model():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])

    optimizer = options.pop("optimizer", lambda: keras.optimizers.SGD(0.1))
    return looplab.Trainer(model, optimizer, "mse", callbacks=callbacks, **options)


def fit(trainer, steps, y=X[:, :1]):
    return trainer.fit((X, y), batch_size=20, steps=steps, verbose=0)


class At(looplab.Callback):
    """Does something at one step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step(self, event, controls):
        if event.step == self.step:
            self.act(controls)


# --- Overfit --------------------------------------------------------------------------------------


@pytest.mark.share(4)
@pytest.mark.parametrize(
    ("losses", "level", "words"),
    [
        ([2.31, 1.0, 0.004], "INFO", "the loss fell from 2.31 to 0.004 in 3 steps: this model can learn"),
        ([2.0, 0.19], "INFO", "fell from 2 to 0.19"),
        ([2.0, 0.21], "WARNING", "fell only from 2 to 0.21"),
        ([-3.0, -5.75], "INFO", "fell from -3 to -5.75"),
        ([2.31, 2.10], "WARNING", "fell only from 2.31 to 2.1 in 2 steps: suspect the labels"),
        ([-3.0, -3.1], "WARNING", "fell only from -3 to -3.1"),
        ([2.0, 3.0], "WARNING", "did not fall, from 2 to 3"),
        ([0.0, 0.0], "WARNING", "did not fall, from 0 to 0"),
        ([2.0, math.nan], "WARNING", "not finite"),
        ([math.inf, 1.0], "WARNING", "not finite"),
    ],
    ids=str,
)
def test_overfit_judges_the_fall(losses, level, words, caplog):
    class Given(looplab.Trainer):
        def train_step(self, batch):
            self.minimize(self.compute_loss, batch)
            return {"loss": tf.gather(tf.constant(losses), self.step)}

    dense = lambda: keras.Sequential([keras.layers.Dense(1)])  # noqa: E731
    trainer = Given(dense, "sgd", "mse", callbacks=[Overfit()], run_eagerly=True)
    with caplog.at_level("INFO", "looplab"):
        fit(trainer, len(losses))
    assert words in caplog.records[-1].getMessage()
    assert caplog.records[-1].levelname == level


@pytest.mark.slow
def test_overfit_remembers_the_first_loss_in_a_run_that_continues(tmp_path, caplog):
    whole, (first, second) = Overfit(), (Overfit(), Overfit())
    fit(make(whole, run_dir=tmp_path / "whole"), 30)
    with pytest.raises(looplab.Interrupted):
        stop = At(4, lambda controls: os.kill(os.getpid(), signal.SIGINT))
        fit(make(first, stop, run_dir=tmp_path / "cut"), 30)
    fit(make(second, run_dir=tmp_path / "cut"), 30)
    assert second.state() == whole.state()
    verdicts = [r.getMessage() for r in caplog.records if "30 steps" in r.getMessage()]
    assert len(verdicts) == 2 and len(set(verdicts)) == 1


@pytest.mark.slow
def test_overfit_forgets_with_a_new_run():
    overfit = Overfit()
    for targets in (X[:, :1], 100 * X[:, :1]):
        fit(make(overfit), 2, targets)
    fresh = Overfit()
    fit(make(fresh), 2, 100 * X[:, :1])
    assert overfit.state() == fresh.state()


def test_overfit_refuses_what_it_cannot_judge():
    with pytest.raises(looplab.ConfigurationError, match=r"Overfit\.enough: must be above 0, got 0"):
        Overfit(enough=0)
    with pytest.raises(looplab.ConfigurationError, match=r"no 'los'; it returns \['loss'\].*mean 'loss'"):
        fit(make(Overfit(loss="los")), 2)


# --- Profile --------------------------------------------------------------------------------------


def profiles(run_dir):
    return list((run_dir / "tensorboard" / "train" / "plugins" / "profile").glob("*/*.xplane.pb"))


def assert_no_profiler_runs(tmp_path):
    tf.profiler.experimental.start(str(tmp_path / "free"))  # AlreadyExistsError if one did
    tf.profiler.experimental.stop(save=False)


@pytest.mark.slow
def test_a_profile_begins_and_ends_on_its_steps(tmp_path, caplog):
    strategy = make_strategy(2)
    with caplog.at_level("INFO", "looplab"):
        fit(make(Profile("3st"), run_dir=tmp_path / "run", strategy=strategy), 20)
    assert len(profiles(tmp_path / "run")) == 1
    assert [r.getMessage().split(" is in")[0] for r in caplog.records] == ["a profile of steps 4 to 6"]
    assert "pip install xprof" in caplog.text
    assert_no_profiler_runs(tmp_path)


def interrupt(controls):
    os.kill(os.getpid(), signal.SIGINT)


def abort(controls):
    interrupt(controls)
    interrupt(controls)


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("act", "error", "last"),
    [
        (lambda controls: controls.stop("enough"), None, 5),
        (lambda controls: 1 / 0, ZeroDivisionError, 5),
        (interrupt, looplab.Interrupted, 5),
        (abort, KeyboardInterrupt, 5),
    ],
    ids=["stopped", "failed", "interrupted", "aborted"],
)
def test_a_run_that_ends_early_keeps_what_was_profiled(act, error, last, tmp_path, caplog):
    trainer = make(Profile("3st"), At(5, act), run_dir=tmp_path / "run")
    with caplog.at_level("INFO", "looplab"):
        if error is None:
            fit(trainer, 20)
        else:
            with pytest.raises(error):
                fit(trainer, 20)
    assert len(profiles(tmp_path / "run")) == 1
    assert f"a profile of steps 4 to {last} is in" in caplog.text
    assert_no_profiler_runs(tmp_path)


@pytest.mark.slow
def test_a_run_that_continues_is_profiled_anew(tmp_path, caplog):
    with caplog.at_level("INFO", "looplab"), pytest.raises(ZeroDivisionError):
        fit(make(Profile("3st"), At(5, lambda controls: 1 / 0), run_dir=tmp_path / "run"), 20)
    with caplog.at_level("INFO", "looplab"):
        fit(make(run_dir=tmp_path / "run"), 7)  # without it: it has no state
        fit(make(Profile("3st"), run_dir=tmp_path / "run"), 20)
    found = [r.getMessage().split(" is in")[0] for r in caplog.records if "a profile" in r.getMessage()]
    assert found == ["a profile of steps 4 to 5", "a profile of steps 10 to 12"]
    assert_no_profiler_runs(tmp_path)


def test_a_run_that_is_too_short_says_so(tmp_path, caplog):
    fit(make(Profile("9st"), run_dir=tmp_path / "run"), 9)
    assert "no profile: the run ended at step 9" in caplog.text
    assert profiles(tmp_path / "run") == []
    assert_no_profiler_runs(tmp_path)


def test_a_run_that_is_not_recorded_cannot_be_profiled(tmp_path):
    with pytest.raises(looplab.ConfigurationError, match="run_dir"):
        fit(make(Profile("2st")), 5)
    assert_no_profiler_runs(tmp_path)
