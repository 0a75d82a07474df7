"""TensorBoard's event files, as its own readers see them: in this process and over HTTP."""

import math
import time

import keras
import numpy as np
import pytest
import tensorboard_data_server
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams

import looplab
from looplab.loggers import JsonLines, TensorBoard
from looplab.protocols import Media, Record, StepRecords, Summary
from looplab.runs.wall_time import WallTime
from tests.clock import Clock

YEAR = 365 * 24 * 3600


def read(folder):
    """What the slow loader finds: `{tag: [(step, value), ...]}`; without what repeats it."""
    return {tag: points for tag, points in every(folder).items() if not tag.startswith("(")}


def every(folder):
    """The same, with the repeats."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    tags = found.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


def attempt(run_dir, number, steps, offsets=None):
    """One start of a run: rewinds, writes a value for each step, and is killed."""
    logger = TensorBoard(run_dir / "tensorboard")
    if offsets is not None:
        logger.rewind(offsets)
    for step in steps:
        for split in ("train", "validation"):
            logger.write(Record(step, 1, split, {"loss": step + number / 4}))
    return logger.offsets()


def killed_twice(run_dir):
    """Steps 1 to 9; checkpoints at 3 and 6; killed at 5 and at 8. What should be there at the end."""
    offsets = attempt(run_dir, 0, range(1, 4))
    attempt(run_dir, 0.5, range(4, 6))
    for file in run_dir.glob("tensorboard/train/*"):
        with file.open("ab") as torn:
            torn.write(b"\x20\0\0\0")
    offsets = attempt(run_dir, 1, range(4, 7), offsets)
    attempt(run_dir, 1.5, range(7, 9))
    attempt(run_dir, 2, range(7, 10), offsets)
    return [
        (step, step + number / 4) for number in range(3) for step in range(3 * number + 1, 3 * number + 4)
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs that were killed and resumed, and what each should show."""
    folder = tmp_path_factory.mktemp("runs")
    expected = {"resumed": killed_twice(folder / "resumed")}

    attempt(folder / "restarted", 0, range(1, 6))  # no checkpoint yet
    attempt(folder / "restarted", 1, range(1, 4), offsets={})
    expected["restarted"] = [(step, step + 1 / 4) for step in range(1, 4)]

    offsets = attempt(folder / "clock", 0, range(1, 5))
    with pytest.MonkeyPatch.context() as patch:
        past = time.time() - YEAR
        patch.setattr("looplab.loggers.tensorboard.time.time", lambda: past)
        attempt(folder / "clock", 1, range(5, 9), offsets)
    expected["clock"] = [(step, step + (step > 4) / 4) for step in range(1, 9)]
    return folder, expected


@pytest.fixture(
    scope="module",
    params=[False, pytest.param(True, marks=pytest.mark.slow)],  # the fast one is not on every platform
    ids=["slow loader", "fast loader"],
)
def server(request, runs, tensorboard):
    if request.param and not tensorboard_data_server.server_binary():
        pytest.skip("tensorboard-data-server has no program for this platform")
    return tensorboard(runs[0], fast=request.param)


@pytest.mark.share(1)
@pytest.mark.promise(31)
@pytest.mark.fault(67)
@pytest.mark.parametrize("run", ["resumed", "restarted", pytest.param("clock", marks=pytest.mark.fault(64))])
def test_a_served_page_has_one_value_per_step(server, runs, run):
    expected = runs[1][run]
    for split in ("train", "validation"):
        assert server.points(f"{run}/tensorboard/{split}", "loss", len(expected)) == expected


@pytest.mark.promise(31)
@pytest.mark.parametrize("run", ["resumed", "restarted", "clock"])
def test_the_library_reads_one_value_per_step(runs, run):
    folder, expected = runs
    for split in ("train", "validation"):
        assert read(folder / run / "tensorboard" / split) == {"loss": expected[run]}


def test_offsets_are_the_sizes_of_all_files_relative_to_the_run(tmp_path):
    offsets = attempt(tmp_path, 0, [1])
    attempt(tmp_path, 1, [2], offsets)
    files = list(tmp_path.glob("tensorboard/*/*"))
    assert len(files) == 4
    assert TensorBoard(tmp_path / "tensorboard").offsets() == {
        str(file.relative_to(tmp_path)): file.stat().st_size for file in files
    }


def test_a_file_that_lost_its_end_is_not_filled_up(tmp_path):
    offsets = attempt(tmp_path, 0, [1, 2])
    for file in tmp_path.glob("tensorboard/*/*"):
        file.write_bytes(file.read_bytes()[:-5])
    attempt(tmp_path, 1, [3], offsets)
    assert read(tmp_path / "tensorboard/train") == {"loss": [(1, 1.0), (3, 3.25)]}


def test_values_are_there_as_soon_as_they_are_written(tmp_path):
    logger = TensorBoard(tmp_path)
    logger.write(Record(5, 1, "train", {"loss": 0.5, "generator/loss": math.inf, "bad": math.nan}))
    found = read(tmp_path / "train")
    assert math.isnan(found.pop("bad")[0][1])
    assert found == {"loss": [(5, 0.5)], "generator/loss": [(5, math.inf)]}


@pytest.mark.parametrize("at_once", [False, True])
def test_what_one_looks_at_first_is_repeated_in_the_two_groups_that_are_opened(tmp_path, at_once):
    logger, steps = TensorBoard(tmp_path), range(1, 31)
    logger.begin(Summary((), (), 0, 30, 30, of_callbacks=("evaluation_return",)))
    tags = [
        "loss",
        "kl",
        "evaluation_return",
        "d/loss",
        "gradient_norm/all",
        "gradient_norm/dense",
        "d/learning_rate",
    ]
    series = {tag: np.arange(30.0) + number for number, tag in enumerate(tags)}
    if at_once:
        logger.write_steps(StepRecords(list(steps), 1, series, {}))
    else:
        for row, step in enumerate(steps):
            logger.write(Record(step, 1, "train", {tag: values[row] for tag, values in series.items()}))
    speed = {"time/steps_per_second": 7.0, "time/step": 2.0}
    logger.write(Record(30, 1, "train", {"epoch_loss": 0.5, "epoch_d/accuracy": 0.7}, speed))
    found = every(tmp_path / "train") | every(tmp_path / "system")
    assert all(found[tag] == found[of] for tag, of in REPEATED.items())
    assert {tag for tag in found if tag.startswith("(")} == set(REPEATED)


REPEATED = {
    "(1) epochs/loss": "epoch_loss",
    "(1) epochs/d/accuracy": "epoch_d/accuracy",
    "(1) epochs/evaluation_return": "evaluation_return",
    "(2) steps/loss": "loss",
    "(2) steps/d/loss": "d/loss",
    "(2) steps/gradient_norm": "gradient_norm/all",
    "(2) steps/d/learning_rate": "d/learning_rate",
    "(2) steps/steps_per_second": "time/steps_per_second",
}


class Scores(looplab.Callback):
    produces = ("score",)

    def on_epoch_end(self, event, controls):
        controls.log({"score": 1.0, "detail": 2.0})


def test_a_monitored_value_of_a_callback_is_among_those_that_one_looks_at_first(tmp_path):
    trainer = looplab.Trainer(
        lambda: keras.Sequential([keras.layers.Dense(1)]),
        "sgd",
        "mse",
        ["mae"],
        callbacks=[Scores(), looplab.callbacks.EarlyStopping("mae", patience=9)],
        checkpoint=looplab.CheckpointPolicy(monitor="score", mode="max"),
        run_dir=tmp_path,
    )
    trainer.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=2, verbose=0)
    found = every(tmp_path / "tensorboard" / "train")
    assert found["(1) epochs/score"] == found["score"] == [(1, 1.0), (2, 1.0)]
    assert "(1) epochs/detail" not in found and len(found["(1) epochs/mae"]) == 2


@pytest.mark.promise(32)
def test_a_default_run_of_100_000_steps_logs_under_10_megabytes(tmp_path):
    loggers = [JsonLines(tmp_path / "metrics.jsonl"), TensorBoard(tmp_path / "tensorboard")]
    values = {"epoch_loss": 1 / 3, "epoch_accuracy": 1 / 3}
    for step in range(10, 1001, 10):
        for logger in loggers:
            logger.write(Record(step, 1, "train", {"loss": 1 / 3}, {"seconds": 1 / 3}))
            if step % 100 == 0:  # epochs of 100 steps
                for split in ("train", "validation"):
                    timing = {"seconds": 1 / 3, "epoch_seconds": 1 / 3}
                    if split == "train":
                        timing |= {name: 1 / 3 for name in WallTime().moment().timing(WallTime().moment())}
                    logger.write(Record(step, 1, split, values, timing))
    size = sum(size for logger in loggers for size in logger.offsets().values())
    assert 100 * size < 10e6


def media(step, kind="image", data=None):
    data = np.zeros((1, 64, 64, 3)) if data is None else data
    return Media(step, 1, "train", f"a {kind}", kind, data)


@pytest.mark.promise(32)
def test_what_is_large_lies_apart_from_the_scalars(tmp_path):
    logger = TensorBoard(tmp_path)
    logger.write(Record(1, 1, "train", {"loss": 0.5}))
    before = logger.offsets()
    for step in range(1, 4):
        logger.show(media(step, data=np.random.default_rng(0).random((4, 64, 64, 3))))
        logger.show(media(step, "text", "*said*"))
        logger.show(media(step, "histogram", [1.0, math.nan, 3.0]))
        logger.show(media(step, "pr_curve", np.ones((6, 5))))
        logger.show(media(step, "video", b"which it cannot show"))
    after = logger.offsets()
    assert {name: after[name] for name in before} == before
    (name,) = set(after) - set(before)
    assert name.startswith(f"{tmp_path.name}/train/media/") and after[name] > 10_000
    found = EventAccumulator(str(tmp_path / "train/media"), size_guidance={"images": 0, "tensors": 0})
    found.Reload()
    assert {tag: [event.step for event in found.Tensors(tag)] for tag in found.Tags()["tensors"]} == {
        tag: [1, 2, 3] for tag in ("(2) steps/a image", "a text", "a histogram", "a pr_curve")
    }
    logger.rewind(before)
    assert logger.offsets() == before


def test_what_the_run_is_takes_the_place_of_what_an_earlier_start_said(tmp_path):
    for rate in (0.1, 0.2):
        logger = TensorBoard(tmp_path)
        logger.begin(Summary((), (), 0, 1, 1, {"optimizer": {"rate": rate, "nothing": None}}))
        logger.write(Record(1, 1, "train", {"epoch_loss": 0.5}))
        logger.end({"status": "finished"})
        logger.close()
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    (text,) = found.Tensors("configuration")
    assert text.tensor_proto.string_val[0].decode() == (
        "```yaml\noptimizer:\n  rate: 0.2\n  nothing: null\n```"
    )
    content = found.PluginTagToContent("hparams")
    start = hparams.parse_session_start_info_plugin_data(content["_hparams_/session_start_info"])
    assert start.hparams["optimizer.rate"].number_value == 0.2
    assert start.hparams["optimizer.nothing"].string_value == "None"
    end = hparams.parse_session_end_info_plugin_data(content["_hparams_/session_end_info"])
    assert end.status == 1  # well


def test_the_machine_is_looked_at_every_ten_seconds_at_most(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("looplab.loggers.system.time.monotonic", clock)
    logger = TensorBoard(tmp_path)
    for step, seconds in enumerate((1, 10, 1, 18), start=1):
        clock.now += seconds
        logger.write(Record(step, 1, "train", {"loss": 0.5}))
    found = read(tmp_path / "system")
    assert {tag: [step for step, _ in points] for tag, points in found.items()} == {
        f"system/{name}": [2, 4]
        for name in ("cpu_percent", "process_cpu_percent", "memory_percent", "process_memory_gigabytes")
    }
    assert 0.01 < found["system/process_memory_gigabytes"][0][1] < 100


@pytest.mark.slow
def test_a_graph_is_cut_to_what_a_page_can_show(tmp_path):
    def step(x):
        return tf.reduce_sum(x @ tf.constant(np.arange(10_000.0).reshape(100, 100)))

    graph = tf.function(step).get_concrete_function(tf.TensorSpec([1, 100], tf.float64)).graph
    logger = TensorBoard(tmp_path)
    logger.begin(Summary((), (), 0, 1, 1, graph=graph))
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert "MatMul" in {node.op for node in found.Graph().node}
    assert sum(file.stat().st_size for file in tmp_path.glob("*tfevents*")) < 5000
