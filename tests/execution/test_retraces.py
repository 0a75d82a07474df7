"""Steps that are traced again say so, with what changed and both types; once for each."""

import json
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.data import build_feed
from looplab.execution import CompiledLoop, Result, autotune
from looplab.runs.wall_time import WallTime
from looplab.training import evaluation


def model():
    return keras.Sequential(
        [keras.Input([None, 2]), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    )


def batch(length, rows=8, dtype="float32"):
    return np.ones((rows, length, 2), "float32"), np.ones((rows, 1), dtype)


class Lengths(looplab.Trainer):
    """Makes batches of two lengths, in turn."""

    def make_batch(self, step):
        return batch(5 + 2 * (step % 2))


def run(tmp_path, caplog, trainer=looplab.Trainer, x=None, **how):
    trainer = trainer(model, "sgd", "mse", run_dir=tmp_path)
    with caplog.at_level(logging.WARNING, "looplab"):
        trainer.fit(x, verbose=0, **how)
    said = [r.getMessage() for r in caplog.records if "traced again" in r.getMessage()]
    return said, json.loads((tmp_path / "outcome.json").read_text())["retraces"]


@pytest.mark.promise(24)
def test_a_changed_length_is_said_once(tmp_path, caplog):
    said, count = run(tmp_path, caplog, Lengths, steps=6)
    (line,) = said
    assert count == 1 and line.startswith("training was traced again: the inputs were ")
    assert "float32 [?, 5, 2] and are float32 [?, 7, 2]." in line and "targets" not in line


@pytest.mark.slow
def test_sets_of_other_shapes_are_said_of_evaluation(tmp_path, caplog):
    given = {"validation": batch(5), "b": batch(5, rows=9), "c": batch(6)}
    sets = {name: looplab.Validation(data, batch_size=8) for name, data in given.items()}
    said, count = run(tmp_path, caplog, x=batch(5, rows=64), validation_data=sets, epochs=3, batch_size=8)
    (line,) = said  # "b" has batches of another size: another trace, but no change of theirs
    assert count == 1 and line.startswith("evaluation was traced again: the inputs")
    assert "[?, 6, 2]" in line


@pytest.mark.share(1)
@pytest.mark.parametrize("mode", ["graph", "xla_step", "xla_loop"])
def test_a_short_last_batch_is_no_change(tmp_path, caplog, mode):
    x, y = batch(5, rows=19)
    trainer = looplab.Trainer(model, "sgd", "mse", run_dir=tmp_path, execution=mode)
    with caplog.at_level(logging.WARNING, "looplab"):
        trainer.fit(x, y, epochs=3, batch_size=8, verbose=0)
    assert not [record for record in caplog.records if "traced" in record.getMessage()]
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["compilations"] == {"graph": 0, "xla_step": 2, "xla_loop": 1}[mode]
    assert trainer._engine.loops.of("train").traces() == (1, 1 + (mode == "xla_loop"))


def padded():
    def rows():
        for length in (5, 5, 5, 5, 3, 4, 3, 5):
            yield np.ones([2, length, 2], "float32"), np.ones([2, 1], "float32")

    signature = tf.TensorSpec([2, None, 2]), tf.TensorSpec([2, 1])
    data = tf.data.Dataset.from_generator(rows, output_signature=signature)
    return data.apply(tf.data.experimental.assert_cardinality(8))


@pytest.mark.slow
def test_the_sample_of_auto_does_not_close_an_open_axis(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    numbers = {"_FEW": 0, "_LEAST_SAVING": 0.0, "_LARGEST_SAVING": 1e9, "TIMED": 1e-4}
    for name, value in numbers.items():
        monkeypatch.setattr(autotune, name, value)
    said, count = run(tmp_path / "run", caplog, x=padded(), epochs=2)
    assert not said and count == 0
    choice = json.loads((tmp_path / "run" / "environment.json").read_text())["execution"]["choice"]
    whole = {trial["mode"]: trial["why_not"] for trial in choice["trials"]}["xla_loop"]
    assert "xla_loop needs batches of one size, but a batch is (float32 [2, ?, 2]" in whole


@pytest.mark.parametrize("stream", [False, True])
def test_an_execution_in_which_xla_compiles_for_another_size_is_no_step(stream):
    rows = np.arange(19, dtype="float32")
    data = tf.data.Dataset.from_tensor_slices(rows).batch(8) if stream else rows
    feed = build_feed(data, batch_size=None if stream else 8, shuffle=False, seed=0)
    no = tf.constant(False)

    def step(rows, examples, guard):
        return Result({"loss": tf.reduce_sum(rows)}, {"loss": examples}, no, no, {})

    execution, kept, parts = CompiledLoop(step, tf.distribute.get_strategy(), mode="xla_step"), WallTime(), []
    feed.seek(0)
    for _ in range(5):  # 8, 8, 3, 8, 8
        with evaluation.timed(execution, kept, "step") as block:
            execution.run(feed, 1)
        parts.append(block.part)
    anew = "trace and compile/compile"
    assert parts == [anew, "step", anew, "step", "step"]
    assert len(kept.compilations) == 2 and execution.compiled.keys() == {(8,), (3,)}
    assert all(seconds > 0 for seconds in kept.compilations)


@pytest.mark.slow
def test_another_length_of_sequences_is_compiled_for_anew(tmp_path):
    def rows():
        for length in (5, 3, 5, 4, 3, 5):
            yield np.ones([2, length, 2], "float32"), np.ones([2, 1], "float32")

    signature = tf.TensorSpec([2, None, 2]), tf.TensorSpec([2, 1])
    data = tf.data.Dataset.from_generator(rows, output_signature=signature)
    data = data.apply(tf.data.experimental.assert_cardinality(6))
    trainer = looplab.Trainer(model, "sgd", "mse", run_dir=tmp_path, execution="xla_step")
    trainer.fit(data, epochs=2, verbose=0)
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert trainer._engine.loops.of("train").compiled.keys() == {(2, n, 2, 2, 1) for n in (5, 3, 4)}
    assert outcome["compilations"] == 3 and 0 < outcome["compilation_seconds"] < outcome["seconds"]


@pytest.mark.slow
def test_what_is_compiled_while_ways_are_measured_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in {
        "_FEW": 0,
        "_LEAST_SAVING": 0.0,
        "_LARGEST_SAVING": 1e9,
        "TIMED": 1e-4,
        "_BUDGET": 1e9,
    }.items():
        monkeypatch.setattr(autotune, name, value)
    x, y = batch(5, rows=16)
    trainer = looplab.Trainer(model, "sgd", "mse", run_dir=tmp_path / "run")
    trainer.fit(x, y, batch_size=8, epochs=1, verbose=0)
    outcome = json.loads((tmp_path / "run" / "outcome.json").read_text())
    assert outcome["compilations"] == 2  # the step, and the loop
    assert outcome["start_up"]["measured ways"] >= outcome["compilation_seconds"]
