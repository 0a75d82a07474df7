"""Every second of wall time belongs to exactly one part."""

import json
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import looplab
from looplab.loggers import read_records
from looplab.runs import wall_time
from looplab.runs.wall_time import PARTS, WallTime
from tests.clock import Clock

NAMES = st.sampled_from([*PARTS, "start/import", "start/build"])
TREES = st.recursive(
    st.integers(0, 1000),  # seconds that pass
    lambda inner: st.tuples(NAMES, st.booleans(), st.lists(inner, max_size=4)),  # or a block, which may fail
    max_leaves=30,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TREES), st.integers(0, 5))
def test_the_parts_add_up_and_the_innermost_has_the_time(trees, waited):
    clock = Clock()
    kept, expected = WallTime(clock, began=clock.now - waited), dict.fromkeys(PARTS, 0.0)
    expected["start"] += waited

    def live(tree, part):
        if isinstance(tree, int):
            clock.now += tree
            expected[part.partition("/")[0]] += tree
        else:
            name, fails, inner = tree
            try:
                with kept.time(name):
                    for each in inner:
                        live(each, name)
                    if fails:
                        raise ValueError
            except ValueError:
                pass
        assert kept.parts() == expected

    for tree in trees:
        live(tree, "start")
    assert sum(kept.parts().values()) == clock.now - 100.0 + waited


def test_a_block_may_turn_out_to_be_another_part():
    clock = Clock()
    kept = WallTime(clock)
    with kept.time("step") as block:
        clock.now += 5
        with kept.time("logging"):
            clock.now += 1
        kept.move(2, block, "input")
        block.part = "trace and compile"
        clock.now += 4
    found = {part: seconds for part, seconds in kept.parts().items() if seconds}
    assert found == {"trace and compile": 7, "input": 2, "logging": 1}


def test_no_more_than_a_block_has_is_moved():
    clock = Clock()
    kept = WallTime(clock)
    with kept.time("step") as block:
        clock.now += 3
        kept.move(5, block, "input")
    assert (kept.parts()["step"], kept.parts()["input"]) == (0, 3)


def test_what_is_in_no_block_is_start_and_then_other():
    clock = Clock()
    kept = WallTime(clock, rest="start/launch")
    clock.now += 2
    kept.rest("start/compose")
    with kept.time("start/import"):
        clock.now += 3
    clock.now += 1
    kept.rest("other")
    with kept.time("trace and compile/compile"):
        clock.now += 7
        with kept.time("start/first batch"):
            clock.now += 5
    kept.first_execution_ended()
    clock.now += 11
    kept.first_execution_ended()
    assert list(kept.start_up.items()) == [
        ("launch", 2),
        ("compose", 1),
        ("import", 3),
        ("compile", 7),
        ("first batch", 5),
    ]
    assert (kept.parts()["start"], kept.parts()["other"]) == (11, 11)


def test_rates_leave_pauses_out():
    clock = Clock()
    kept = WallTime(clock)
    kept.rest("other")
    before = kept.moment()
    for part, seconds in (
        ("trace and compile", 50),
        ("step", 3),
        ("evaluation", 9),
        ("step", 2),
        ("input", 5),
    ):
        with kept.time(part):
            clock.now += seconds
    kept.count(40, 320)
    until = kept.moment()
    kept.count(1, None)
    clock.now += 1
    timing = until.timing(since=before)  # without what came after it
    assert (timing["steps_per_second"], timing["examples_per_second"]) == (4.0, 32.0)
    assert (timing["input_share"], timing["time/input"]) == (0.5, 5)
    timing = kept.moment().timing(since=until)
    assert timing["time/other"] == 1
    assert not [name for name in timing if name.endswith(("_per_second", "_share"))]  # in no time


def test_steps_that_take_no_time_have_no_rate():
    """By a clock that counts in large ticks, as some systems have."""
    kept = WallTime(Clock())
    with kept.time("step"):
        kept.count(10, 40, {"tokens": 16})
    assert kept.lines() == [("time", "0.0 s: ")]


def test_the_ledger_of_a_start_is_that_of_one_run():
    assert wall_time.taken() is not wall_time.taken()
    with wall_time.starting() as start:
        with wall_time.starting() as again:
            assert again is start
        assert wall_time.taken() is start
        assert wall_time.taken() is not start
        with wall_time.starting() as other:
            assert other is not start


def test_that_of_a_command_began_with_the_process():
    kept = wall_time.of_process()
    assert kept.parts()["start"] >= time.process_time() / 64  # of at most as many threads


def model():
    return keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])


def read(run_dir):
    return json.loads((run_dir / "outcome.json").read_text())


def test_a_run_says_where_its_time_went(tmp_path, capsys, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    clock = Clock(tick=2**-12)
    monkeypatch.setattr(time, "monotonic", clock)

    def passes(seconds):
        clock.now += float(seconds)
        return np.float32(0)

    def passes_in_graph(seconds):
        return {"none": tf.ensure_shape(tf.numpy_function(passes, [seconds], tf.float32), [])}

    class Slow(looplab.Trainer):
        def make_batch(self, step):
            passes(3)
            x = np.full((8, 1), step, "float32")
            return x, 2 * x

        def train_step(self, batch):
            return super().train_step(batch) | passes_in_graph(5.0)

        def test_step(self, batch):
            return super().test_step(batch) | passes_in_graph(7.0)

    class Naps(looplab.Callback):
        every = 1

        def on_step(self, event, controls):
            passes(2)

    x = np.zeros((8, 1), "float32")
    with wall_time.starting(lambda: WallTime(clock)):
        trainer = Slow(model, "sgd", "mse", callbacks=[Naps()], run_dir=tmp_path)
        trainer.fit(validation_data=(x, x), epochs=2, steps_per_epoch=5, verbose=2)
    outcome = read(tmp_path)
    spent = outcome["wall_time"]
    assert tuple(spent) == PARTS and min(spent.values()) > 0
    assert sum(spent.values()) == pytest.approx(outcome["seconds"], abs=1e-3)  # each is rounded
    assert outcome["seconds"] == pytest.approx(clock.now - 100, abs=0.1)
    # The first batch is made for its shapes. The first steps of training and evaluation are also compiled.
    expected = {"start": 3, "input": 9 * 3, "step": 9 * 5, "trace and compile": 5 + 7, "evaluation": 7}
    expected |= {"callbacks": 10 * 2}
    assert spent == pytest.approx(dict.fromkeys(PARTS, 0.0) | expected, abs=0.1)
    start = outcome["start_up"]
    assert {"build", "trace", "compile", "first batch"} <= set(start)
    assert start["build"] == pytest.approx(3, abs=0.1)
    assert start["compile"] == pytest.approx(5, abs=0.1) and 0 < start["trace"] < 0.1
    assert sum(start.values()) < outcome["seconds"]
    said = capsys.readouterr().out.splitlines()
    assert len([line for line in said if line.startswith(("time ", "start "))]) == 2
    timings = [r.timing for r in read_records(tmp_path / "metrics.jsonl") if "time/step" in r.timing]
    for each in timings:
        parts = sum(seconds for name, seconds in each.items() if name.startswith("time/"))
        assert parts == pytest.approx(each["epoch_seconds"], abs=1e-5)  # as it is rounded
    reader = EventAccumulator(str(tmp_path / "tensorboard" / "system"))
    reader.Reload()
    assert [(event.step, event.value) for event in reader.Scalars("time/input")] == [
        (step, pytest.approx(timing["time/input"], abs=1e-5))
        for step, timing in zip((5, 10), timings, strict=True)
    ]
    tags = {"time/step", "time/evaluation", "time/steps_per_second", "time/input_share"}
    assert tags <= set(reader.Tags()["scalars"])


def test_a_run_that_fails_says_so_too(tmp_path):
    class Fails(looplab.Callback):
        every = 2

        def on_step(self, event, controls):
            raise ValueError("no")

    x = np.zeros((32, 1), "float32")
    with pytest.raises(ValueError, match="no"):
        looplab.Trainer(model, "sgd", "mse", callbacks=[Fails()], run_dir=tmp_path).fit(
            x, x, verbose=0, steps=4
        )
    outcome = read(tmp_path)
    assert sum(outcome["wall_time"].values()) == pytest.approx(outcome["seconds"], abs=1e-3)


class Calls:
    """A clock that moves by one with each function that this thread calls: no other process moves it."""

    def __init__(self):
        self.number = 0

    def __call__(self):
        return self.number

    def __enter__(self):
        sys.setprofile(self.count)
        return self

    def __exit__(self, *exception):
        sys.setprofile(None)

    def count(self, frame, event, argument):
        self.number += event in ("call", "c_call")


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 16])
def test_little_that_a_run_does_is_other(tmp_path, steps):
    """Of a run that does all there is to do: a fixed number of calls for each execution, and each epoch."""
    x = np.zeros([320, 8], "float32")
    trainer = looplab.Trainer(
        lambda: keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(1)]),
        "adam", "mse", ["mae"], run_dir=tmp_path, steps_per_execution=steps, log_every=1, execution="graph",
        callbacks=[looplab.callbacks.EarlyStopping("val_loss", patience=99)],
    )  # fmt: skip
    with Calls() as calls, wall_time.starting(lambda: WallTime(calls)):
        began = calls()
        trainer.fit(x, x[:, :1], batch_size=8, validation_data=(x, x[:, :1]), epochs=3, verbose=0)
        made = calls() - began
    outcome = read(tmp_path)
    assert outcome["seconds"] == pytest.approx(made, rel=0.01)
    executions, epochs = 3 * -(-40 // steps), 3
    assert outcome["wall_time"]["other"] < 500 * executions + 5000 * epochs
