"""Ctrl-C and SIGTERM end a study too: what they raise is no `Exception`."""

import json
import os
import signal
import traceback

import keras
import numpy as np
import optuna
import pytest

import looplab
from looplab.errors import EndRequested, LooplabError, is_abort
from tests.process import run_python

X = np.ones((8, 4), "float32")
SIGNALS = [(signal.SIGINT, looplab.Interrupted, 130), (signal.SIGTERM, looplab.Terminated, 143)]


class Send(keras.callbacks.Callback):
    """Sends its own process signals at the begin of the second epoch, and tells what it went through."""

    def __init__(self, *numbers):
        super().__init__()
        self.numbers, self.went = numbers, []

    def on_epoch_begin(self, epoch, logs=None):
        try:
            if epoch == 1:
                for number in self.numbers:
                    os.kill(os.getpid(), number)
        except BaseException as error:
            self.went.append(type(error))
            raise
        finally:
            self.went.append("finally")


def fit(*callbacks, run_dir=None):
    trainer = looplab.Trainer(
        lambda: keras.Sequential([keras.layers.Dense(1)]), "sgd", "mse", run_dir=run_dir, callbacks=callbacks
    )
    return trainer.fit(X, X[:, :1], epochs=4, verbose=0)


@pytest.mark.fault(34, 35)
@pytest.mark.parametrize(("number", "kind", "code"), SIGNALS)
def test_a_loop_over_runs_does_not_go_on(number, kind, code, tmp_path):
    begun = []
    with pytest.raises(kind, match="everything is saved") as caught:
        for run in range(3):
            begun.append(run)
            try:
                fit(Send(number), run_dir=tmp_path / str(run))
            except Exception as error:
                begun.append(error)
    assert begun == [0]
    assert caught.value.exit_code == code
    modules = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(caught.tb)]
    assert modules == [__name__, __name__]  # none of looplab
    outcome = json.loads((tmp_path / "0" / "outcome.json").read_text())
    assert (outcome["exit_code"], outcome["reason"]) == (code, str(caught.value))
    assert not (tmp_path / "0" / "crash.md").exists()


@pytest.mark.parametrize(("number", "kind", "code"), SIGNALS)
def test_a_study_that_catches_what_fails_does_not_go_on(number, kind, code):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, begun = optuna.create_study(), []

    def objective(trial):
        begun.append(trial.number)
        fit(Send(number))

    with pytest.raises(kind):
        study.optimize(objective, n_trials=3, catch=(Exception,))
    assert begun == [0]


def test_of_which_kind_they_are():
    for kind in (looplab.Interrupted, looplab.Terminated):
        assert issubclass(kind, EndRequested) and not issubclass(kind, Exception | LooplabError)
    assert issubclass(looplab.Interrupted, KeyboardInterrupt)
    assert not issubclass(looplab.Interrupted, SystemExit)  # which ends Python's own prompt
    assert not issubclass(looplab.Terminated, KeyboardInterrupt)  # what a person's Ctrl-C does it need not do
    assert (str(looplab.Terminated("at 3")), looplab.Terminated("at 3").code) == ("at 3", 143)
    assert [is_abort(e) for e in (KeyboardInterrupt(), looplab.Interrupted(), None)] == [True, False, False]


def test_keras_words_for_ctrl_c_catch_it_and_a_second_one_stays_another():
    once, twice = Send(signal.SIGINT), Send(signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as first:
        fit(once)
    with pytest.raises(KeyboardInterrupt) as second:
        fit(twice)
    assert (type(first.value), type(second.value)) == (looplab.Interrupted, KeyboardInterrupt)
    assert once.went == ["finally"] * 2  # served after the execution, not in the callback
    assert twice.went == ["finally", KeyboardInterrupt, "finally"]


class Hears(looplab.Callback):
    """Notes what ended the run; one that raises it again keeps it from nobody."""

    def __init__(self, raises=False):
        self.raises, self.heard = raises, []

    def on_exception(self, event, error):
        self.heard.append(type(error))
        if self.raises:
            raise error


@pytest.mark.parametrize(("number", "kind", "code"), SIGNALS)
def test_every_callback_hears_of_it(number, kind, code):
    first, last = Hears(raises=True), Hears()
    with pytest.raises(kind):
        fit(Send(number), first, last)
    assert (first.heard, last.heard) == ([kind], [kind])


SCRIPT = """
import os, signal
import numpy as np, keras, looplab

class Send(looplab.Callback):
    def on_epoch_end(self, event, controls):
        os.kill(os.getpid(), signal.SIGTERM)

x = np.ones((8, 4), "float32")
for run in range(2):
    try:
        model = keras.Sequential([keras.layers.Dense(1)])
        looplab.Trainer(model, "sgd", "mse", callbacks=[Send()]).fit(x, x[:, :1], epochs=4)
    except Exception:
        print("swallowed")
    finally:
        print("cleaned up", run)
"""


@pytest.mark.fault(35)
def test_a_script_that_catches_nothing_ends_with_its_exit_code():
    done = run_python(SCRIPT)
    assert done.returncode == 143, done.stderr
    assert "\nstopped at step 1: terminated\n" in done.stdout and done.stdout.endswith("\ncleaned up 0\n")
    assert "swallowed" not in done.stdout
    assert "Traceback" not in done.stderr
