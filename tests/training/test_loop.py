"""Which events come, in which order, and what happens when someone stops, fails or interrupts."""

import functools
import json
import os
import signal
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import looplab
from looplab.training import checkpointing
from tests.conftest import make_strategy

X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")


def model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def make(*callbacks, **options):
    return looplab.Trainer(model, "adam", "mse", ["mae"], callbacks=callbacks, **options)


DATA = {
    "x": (X, X[:, :1]),
    "validation_data": (X, X[:, :1]),
    "batch_size": 8,
    "verbose": 0,
}  # 3 steps an epoch


class Everything(looplab.Callback):
    """Overrides every hook, and keeps a state."""

    every = "2st"

    def __init__(self):
        self.events, self.count, self.hook = [], 0, {}

    def note(self, name, event, controls=None):
        self.events.append((name, event.step, event.epoch))
        self.hook.get((name, event.step), lambda controls: None)(controls)

    def on_train_begin(self, event, controls):
        self.note("begin", event, controls)

    def on_step(self, event, controls):
        self.count += 1
        self.note("step", event, controls)

    def on_evaluate(self, event, controls):
        self.note("evaluate", event, controls)

    def on_epoch_end(self, event, controls):
        self.note("epoch", event, controls)

    def on_save(self, event, controls):
        assert (event.path / "manifest.json").exists()
        self.note("save", event, controls)

    def on_train_end(self, event, controls):
        self.note("end", event, controls)

    def on_exception(self, event, error):
        self.note(f"exception {type(error).__name__}", event)

    def state(self):
        return {"count": self.count}

    def restore(self, state):
        self.count = state["count"]


@pytest.mark.promise(33)
def test_at_one_step_evaluate_then_monitors_then_save(tmp_path):
    watcher = Everything()
    make(watcher, strategy=make_strategy(2), run_dir=tmp_path).fit(**DATA, epochs=2)
    assert watcher.events == [
        ("begin", 0, 1),
        ("step", 2, 1),
        ("evaluate", 3, 1),
        ("epoch", 3, 1),
        ("save", 3, 1),
        ("step", 4, 2),
        ("step", 6, 2),
        ("evaluate", 6, 2),
        ("epoch", 6, 2),
        ("save", 6, 2),
        ("end", 6, 2),
    ]


@pytest.mark.slow
def test_a_callback_stops_saves_and_keeps_its_state(tmp_path):
    watcher = Everything()
    watcher.hook = {
        ("step", 2): lambda controls: controls.save(),
        ("epoch", 6): lambda controls: controls.stop("enough"),
    }
    make(watcher, run_dir=tmp_path).fit(**DATA, epochs=9)
    assert ("save", 2, 1) in watcher.events and watcher.events[-1] == ("end", 6, 2)
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert (outcome["status"], outcome["reason"], outcome["step"], outcome["exit_code"]) == (
        "stopped",
        "enough",
        6,
        0,
    )
    again = Everything()
    make(again, run_dir=tmp_path).fit(**DATA, epochs=3)
    assert again.events[0] == ("begin", 6, 2)
    assert again.count == 3 + 1


def test_other_callbacks_than_were_saved_are_refused(tmp_path):
    make(Everything(), run_dir=tmp_path).fit(**DATA)
    with pytest.raises(looplab.CheckpointError, match="Everything"):
        make(run_dir=tmp_path).fit(**DATA, epochs=2)


def test_a_failing_callback_ends_the_run_as_failed(tmp_path):
    watcher = Everything()
    watcher.hook = {("step", 4): lambda controls: 1 / 0}
    with pytest.raises(ZeroDivisionError):
        make(watcher, run_dir=tmp_path).fit(**DATA, epochs=2)
    assert watcher.events[-1] == ("exception ZeroDivisionError", 4, 2)
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert (outcome["status"], outcome["exit_code"]) == ("failed", 1)
    assert "ZeroDivisionError" in outcome["reason"]


@pytest.mark.slow
@pytest.mark.promise(31)
def test_after_a_failure_the_same_trainer_goes_back_to_its_checkpoint(tmp_path):
    watcher = Everything()
    watcher.hook = {("evaluate", 6): lambda controls: 1 / 0}
    trainer = make(watcher, run_dir=tmp_path / "failed")
    with pytest.raises(ZeroDivisionError):
        trainer.fit(**DATA, epochs=3)
    watcher.hook = {}
    trainer.fit(**DATA, epochs=3)
    make(Everything(), run_dir=tmp_path / "whole").fit(**DATA, epochs=3)
    assert values(tmp_path / "failed") == values(tmp_path / "whole")


def test_after_a_failure_without_a_checkpoint_the_trainer_is_no_good(tmp_path):
    watcher = Everything()
    watcher.hook = {("step", 2): lambda controls: 1 / 0}
    trainer = make(watcher, run_dir=tmp_path)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(**DATA)
    with pytest.raises(looplab.ConfigurationError, match="Create a new trainer"):
        trainer.fit(**DATA)


def test_a_rate_that_a_step_logs_itself_has_its_own_tag(tmp_path):
    class Rates(looplab.Trainer):
        def train_step(self, batch):
            return {**self.minimize(self.compute_loss, batch), "learning_rate": 7.0}

    Rates(model, "adam", "mse", run_dir=tmp_path, log_every=1).fit(X, X[:, :1], batch_size=8, verbose=0)
    seen = [(line["step"], line["split"], tag) for line in values(tmp_path) for tag in line["values"]]
    assert len(seen) == len(set(seen)) and (3, "train", "epoch_learning_rate") in seen


def values(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "timing"} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupts, by the number of replicas; each is made once."""

    @functools.cache
    def made(replicas):
        folder = tmp_path_factory.mktemp("whole")
        make(Everything(), strategy=make_strategy(replicas), run_dir=folder).fit(**DATA, epochs=3)
        return folder

    return made


WHERE = [("step", 2), ("step", 6), ("evaluate", 3), ("epoch", 3), ("save", 3)]


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("where", "replicas"),
    [
        pytest.param(where, replicas, marks=pytest.mark.slow if at % 2 == replicas % 2 else ())
        for at, where in enumerate(WHERE)
        for replicas in (1, 2)
    ],
)
def test_an_interrupt_anywhere_is_served_and_the_run_continues_exactly(where, replicas, whole, tmp_path):
    strategy, whole = make_strategy(replicas), whole(replicas)
    before = signal.getsignal(signal.SIGINT)
    watcher = Everything()
    watcher.hook = {where: lambda controls: os.kill(os.getpid(), signal.SIGINT)}
    with pytest.raises(looplab.Interrupted, match=f"step {where[1]}"):
        make(watcher, strategy=strategy, run_dir=tmp_path / "cut").fit(**DATA, epochs=3)
    assert signal.getsignal(signal.SIGINT) is before
    outcome = json.loads((tmp_path / "cut" / "outcome.json").read_text())
    assert (outcome["status"], outcome["exit_code"], outcome["step"]) == ("interrupted", 130, where[1])
    make(Everything(), strategy=strategy, run_dir=tmp_path / "cut").fit(**DATA, epochs=3)
    assert values(tmp_path / "cut") == values(whole)
    last = "checkpoints/step-00000009"
    left, right = (looplab.checkpoint.read(run / last) for run in (tmp_path / "cut", whole))
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_array_equal(left[path], right[path])


def test_the_second_interrupt_aborts_at_once(tmp_path):
    watcher = Everything()

    def twice(controls):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    watcher.hook = {("step", 4): twice}
    with pytest.raises(KeyboardInterrupt):
        make(watcher, run_dir=tmp_path).fit(**DATA, epochs=3)
    assert json.loads((tmp_path / "outcome.json").read_text())["exit_code"] == 130
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


def test_a_clock_cannot_decide_when_a_step_is_told():
    class Clocked(looplab.Callback):
        every = "5min"

        def on_step(self, event, controls):
            pass

    with pytest.raises(looplab.ConfigurationError, match=r"Clocked\.every.*clock"):
        make(Clocked())


def test_saves_by_the_clock_come_when_it_is_time(tmp_path, monkeypatch):
    """Counted from the save before, and looked at whenever the loop comes to the host."""
    passed = [0.0]

    class Slow(looplab.Callback):
        every = "2st"

        def __init__(self):
            self.saved = []

        def on_step(self, event, controls):
            passed[0] += 25 * 60
            if event.step == 12:
                controls.save()

        def on_save(self, event, controls):
            self.saved.append(event.step)

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0])
    monkeypatch.setattr(checkpointing, "time", clock)
    slow = Slow()
    policy = looplab.CheckpointPolicy(every="60min", monitor="loss", mode="max")
    trainer = make(slow, run_dir=tmp_path, checkpoint=policy)
    trainer.fit((X, X[:, :1]), batch_size=8, verbose=0, steps=19)
    # The first is that of the best epoch, the third was asked for, the last is the end's.
    assert slow.saved == [3, 8, 12, 18, 19]


def test_a_loss_that_is_not_finite_is_said_with_its_step(caplog, tmp_path):
    x = X.copy()
    x[17] = np.nan  # in the third batch, unshuffled
    make(run_dir=tmp_path, on_nonfinite="ignore").fit((x, X[:, :1]), batch_size=8, shuffle=False, verbose=0)
    assert "not finite at step 3" in caplog.text
    assert values(tmp_path)[-1]["values"]["epoch_loss"] == "nan"


@pytest.mark.slow
def test_a_step_callback_hears_that_steps_own_values():
    class Collect(looplab.Callback):
        def __init__(self):
            self.seen = []

        def on_step(self, event, controls):
            self.seen.append(event.values["loss"])

    collect, strategy = Collect(), make_strategy(2)
    trainer = make(collect, strategy=strategy)
    first = make(strategy=strategy).evaluate(X[:8], X[:8, :1])["loss"]
    trainer.fit((X, X[:, :1]), batch_size=8, shuffle=False, verbose=0)
    assert len(collect.seen) == 3
    assert collect.seen[0] == pytest.approx(first, rel=1e-6)
