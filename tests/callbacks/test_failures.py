"""What a callback that fails means: for the run, for the others, and for its outcome."""

import json

import keras
import numpy as np
import pytest

import looplab
from looplab.callbacks import Lambda

X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")


def make(*callbacks, **options):
    def model():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])

    return looplab.Trainer(model, "sgd", "mse", callbacks=callbacks, run_eagerly=True, **options)


def fit(trainer, steps):
    return trainer.fit((X, X[:, :1]), batch_size=20, steps=steps, verbose=0)


class Fragile(looplab.Callback):
    """Fails in one hook at one step, and says what it heard."""

    every = "2st"

    def __init__(self, hook, step=None, on_failure="critical"):
        self.hook, self.at, self.on_failure, self.heard = hook, step, on_failure, []

    def _hear(self, hook, event):
        self.heard.append((hook, event.step))
        if hook == self.hook and self.at in (None, event.step):
            raise ValueError("out of cheese")

    def on_train_begin(self, event, controls):
        self._hear("on_train_begin", event)

    def on_step(self, event, controls):
        self._hear("on_step", event)

    def on_epoch_end(self, event, controls):
        self._hear("on_epoch_end", event)

    def on_save(self, event, controls):
        self._hear("on_save", event)

    def on_train_end(self, event, controls):
        self._hear("on_train_end", event)

    def on_exception(self, event, error):
        self._hear("on_exception", event)

    def state(self):
        if self.hook == "state":
            raise ValueError("out of cheese")
        return {"heard": len(self.heard)}


@pytest.mark.parametrize("hook", ["on_train_begin", "on_step", "on_epoch_end", "on_save"])
def test_a_critical_callback_ends_the_run_and_is_named(hook, tmp_path):
    fragile, other = Fragile(hook), Fragile("none")
    with pytest.raises(ValueError, match="out of cheese") as caught:
        fit(make(fragile, other, run_dir=tmp_path), 4)
    (note,) = caught.value.__notes__
    assert note.startswith(f"in the callback Fragile.{hook} at step ")
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    line = Fragile._hear.__code__.co_firstlineno + 3
    reason = f"ValueError: out of cheese ({__file__}, line {line}, in _hear; {note})"
    assert (outcome["exit_code"], outcome["reason"]) == (1, reason)
    assert other.heard[-1][0] == "on_exception"


@pytest.mark.fault(42)
def test_a_failure_at_the_end_keeps_the_result_and_the_others_are_closed(tmp_path):
    first, fragile, last = Fragile("none"), Fragile("on_train_end"), Fragile("none")
    with pytest.raises(ValueError, match="out of cheese") as caught:
        fit(make(first, fragile, last, run_dir=tmp_path), 4)
    assert caught.value.__notes__ == ["in the callback Fragile.on_train_end at step 4"]
    for other in (first, last):
        assert other.heard[-1] == ("on_train_end", 4)  # once, and nothing after it
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert (outcome["exit_code"], outcome["step"]) == (1, 4)
    assert outcome["last_checkpoint"] == "step-00000004"
    assert looplab.checkpoint.read(tmp_path / "checkpoints" / "step-00000004")["loop/step"] == 4


def test_all_hear_of_an_exception_though_one_fails_at_that():
    fragile, last = Fragile("on_exception"), Fragile("none")
    with pytest.raises(ValueError, match="out of cheese"):
        fit(make(fragile, Lambda(on_step=lambda event, controls: 1 / 0), last), 4)
    assert last.heard[-1] == ("on_exception", 1)


@pytest.mark.share(1)
@pytest.mark.parametrize("hook", ["on_train_begin", "on_step", "on_epoch_end", "on_save", "on_train_end"])
def test_after_a_best_effort_training_goes_on_without_it(hook, tmp_path, caplog):
    fragile = Fragile(hook, on_failure="best_effort")
    fit(make(fragile, run_dir=tmp_path), 5)
    assert [one[0] for one in fragile.heard].count(hook) == 1 and fragile.heard[-1][0] == hook
    (record,) = caplog.records
    assert f"the callback Fragile.{hook} at step " in record.getMessage()
    assert 'raise ValueError("out of cheese")' in record.getMessage()  # the traceback
    assert "raise ValueError" in (tmp_path / "log.txt").read_text()
    assert json.loads((tmp_path / "outcome.json").read_text())["status"] == "finished"


def test_a_state_that_cannot_be_told_is_none_and_the_next_start_begins_afresh(tmp_path, caplog):
    fit(make(Fragile("state", on_failure="best_effort"), run_dir=tmp_path), 2)
    assert "Fragile.state failed" in caplog.text and len(caplog.records) == 1
    fit(make(Fragile("none"), run_dir=tmp_path), 4)


def test_mistakes_are_refused_whatever_a_failure_means():
    def refuse(event, controls):
        raise looplab.ConfigurationError("no such thing")

    with pytest.raises(looplab.ConfigurationError, match="no such thing"):
        fit(make(Lambda(on_train_begin=refuse, on_failure="best_effort")), 2)
    with pytest.raises(looplab.ConfigurationError, match=r"Fragile\.on_failure: 'shrug' is not one of"):
        make(Fragile("none", on_failure="shrug"))


def test_lambda_calls_what_it_is_given_and_nothing_else():
    told = []
    trainer = make(
        Lambda(
            "3st",
            on_step=lambda event, controls: told.append(("step", event.step)),
            on_epoch_end=lambda event, controls: told.append(("epoch", event.step)),
        ),
        Lambda(on_train_end=lambda event, controls: told.append(("end", event.step))),  # never every step
    )
    everyone = looplab.callbacks.CallbackList(trainer._preparation.callbacks)
    assert [occasion.interval for occasion in everyone.occasions() if occasion.interval] == [
        looplab.Interval.parse("3st")
    ]
    trainer.fit((X, X[:, :1]), batch_size=4, epochs=1, verbose=0)
    assert told == [("step", 3), ("epoch", 5), ("end", 5)]


def test_lambda_has_every_hook_that_a_callback_has():
    hooks = [name for name, own in vars(looplab.Callback).items() if callable(own) and name.startswith("on_")]
    assert {"on_epoch_begin", "on_evaluate_begin", "on_clock", "on_check"} <= set(hooks)
    told = []

    def tell(hook):
        return lambda *_: told.append(hook)

    trainer = make(Lambda(**{hook: tell(hook) for hook in hooks}))
    data = X, X[:, :1]
    trainer.fit(data, validation_data=data, batch_size=20, epochs=1, verbose=0)
    assert [hook for hook in hooks if hook not in told] == ["on_save", "on_exception"]
    with pytest.raises(looplab.ConfigurationError, match=r"no hook 'on_stp'.*mean 'on_step'"):
        Lambda(on_stp=print)
    with pytest.raises(looplab.ConfigurationError, match=r"Lambda\.on_step: expected a function, got 3"):
        Lambda(on_step=3)


class Moody(looplab.Callback):
    """Fails at the second step, and says a new state each time it is asked."""

    every, on_failure = 1, "best_effort"

    def __init__(self, fails=True):
        self.fails, self.asked, self.heard, self.restored = fails, 0, [], None

    def on_step(self, event, controls):
        if self.fails and event.step == 2:
            raise ValueError("out of cheese")
        self.heard.append(event.step)

    def state(self):
        self.asked += 1
        return {"asked": self.asked, "heard": list(self.heard)}

    def restore(self, state):
        self.restored = state


def test_the_state_of_one_that_failed_is_kept_as_it_was_and_a_later_fit_gives_it_back(tmp_path):
    policy = looplab.CheckpointPolicy(every="1st")
    moody = Moody()
    fit(make(moody, run_dir=tmp_path, checkpoint=policy), 4)
    # Before the first step, at a save before it failed, and once after that.
    assert moody.heard == [1] and moody.asked == 3
    later = Moody(fails=False)
    fit(make(later, run_dir=tmp_path), 6)
    assert later.restored == {"asked": 3, "heard": [1]} and later.heard == [5, 6]


def test_the_state_that_one_could_not_take_back_is_kept_too(tmp_path):
    class Forgetful(Moody):
        def restore(self, state):
            raise ValueError("what was it again?")

    Forgetful.__name__ = "Moody"
    fit(make(Moody(fails=False), run_dir=tmp_path), 2)
    fit(make(Forgetful(), run_dir=tmp_path), 4)
    later = Moody(fails=False)
    fit(make(later, run_dir=tmp_path), 5)
    assert later.restored["heard"] == [1, 2]
