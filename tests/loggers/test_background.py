"""What a thread writes: the same bytes in the same order, there when it is asked for, whatever fails."""

import json
import math
import threading
import time

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

import looplab
from looplab.loggers import Background, Guarded, JsonLines, TensorBoard, read_records
from looplab.loggers.tensorboard_records import scalars
from looplab.protocols import Logger, Record, StepRecords
from tests.process import HANGS

NUMBERS = st.floats() | st.sampled_from([0.1, 1e300, -0.0, math.inf, -math.inf, math.nan])
TAGS = st.text(min_size=1, max_size=200)


@st.composite
def several(draw):
    steps = sorted(draw(st.sets(st.integers(1, 300) | st.integers(1, 2**40), min_size=1, max_size=20)))
    series = st.lists(NUMBERS, min_size=len(steps), max_size=len(steps)).map(np.float64)
    values = draw(st.dictionaries(TAGS, series, max_size=3))
    return StepRecords(steps, 3, values, {"seconds": 1.23456789, "rate": math.inf})


def steps(count, after=0, **values):
    series = {name: np.full(count, value) for name, value in values.items()}
    return StepRecords(range(after + 1, after + count + 1), 1, series, {"seconds": 1.0})


@settings(max_examples=50, deadline=None)
@given(several())
def test_lines_of_many_steps_are_those_of_each(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("lines")
    one, many = JsonLines(folder / "one"), JsonLines(folder / "many")
    for record in records:
        one.write(record)
    many.write_steps(records)
    assert (folder / "many").read_bytes() == (folder / "one").read_bytes()
    one.close()
    many.close()


class File(list):
    """Keeps what is written."""

    write = list.append


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(several().filter(lambda records: records.values), st.floats(1e-3, 1e12))
def test_events_of_many_steps_are_those_of_tensorboards_own_writer(records, wall_time):
    file = File()
    for record in records:
        value = [summary_pb2.Summary.Value(tag=tag, simple_value=v) for tag, v in record.values.items()]
        event = event_pb2.Event(
            wall_time=wall_time, step=record.step, summary=summary_pb2.Summary(value=value)
        )
        RecordWriter(file).write(event.SerializeToString())
    assert scalars(np.asarray(records.steps), wall_time, records.values) == b"".join(file)


class Slow(Logger):
    """Takes its time for each record, and remembers what came on which thread."""

    def __init__(self):
        self.came, self.threads, self.written = [], set(), threading.Event()

    def write(self, record):
        time.sleep(0.002)
        self.came.append((record.split, record.step))
        self.threads.add(threading.current_thread().name)
        if len(self.came) == 3:
            self.written.set()

    def offsets(self):
        return {"came": len(self.came)}


def test_records_come_in_order_and_all_before_a_checkpoint_asks():
    slow, wanted = Slow(), []
    background = Background([slow])
    for begin in range(0, 100, 10):
        background.write_steps(steps(10, begin, loss=0.5))
        background.write(Record(begin + 10, 1, "validation", {"loss": 0.5}))
        wanted += [("train", step) for step in range(begin + 1, begin + 11)] + [("validation", begin + 10)]
        if begin == 50:
            assert background.offsets() == {"came": len(wanted)}
            assert slow.came == wanted
    background.close()
    assert slow.came == wanted


def test_what_waits_is_written_by_the_thread():
    slow = Slow()
    background = Background([slow])
    background.write_steps(steps(3, loss=0.5))
    assert slow.written.wait(HANGS), "it never came"
    assert slow.threads == {"looplab-loggers"}
    background.close()
    assert not any(thread.name == "looplab-loggers" for thread in threading.enumerate())


def test_where_too_much_waits_training_writes_itself(monkeypatch):
    monkeypatch.setattr("looplab.loggers.background._ROOM", 5)
    monkeypatch.setattr("looplab.loggers.background._SECONDS", 3600)
    slow = Slow()
    background = Background([slow])
    for step in range(7):
        background.write(Record(step, 1, "train", {}))
    assert [step for _, step in slow.came] == [0, 1, 2, 3, 4]
    background.close()
    assert [step for _, step in slow.came] == list(range(7))


def test_one_that_fails_on_the_thread_is_left_out_with_one_warning(tmp_path, caplog):
    class Full(Slow):
        def write(self, record):
            super().write(record)
            raise OSError(28, "No space left on device")

    full = Full()
    background = Background([Guarded(full), Guarded(JsonLines(tmp_path / "metrics.jsonl"))])
    for begin in (0, 20):
        background.write_steps(steps(20, begin, loss=0.5))
    background.close()
    assert len(full.came) == 1
    said = [message for message in caplog.messages if "is disabled" in message]
    assert said == ["Full is disabled, and training continues: OSError: [Errno 28] No space left on device"]
    assert [record.step for record in read_records(tmp_path / "metrics.jsonl")] == list(range(1, 41))


def run(run_dir, **how):
    x = np.linspace(-1, 1, 160, dtype="float32").reshape(-1, 1)
    trainer = looplab.Trainer(
        lambda: keras.Sequential([keras.Input([1]), keras.layers.Dense(1)]),
        keras.optimizers.SGD(0.1),
        "mse",
        run_dir=run_dir,
        log_every=1,
        **how,
    )
    trainer.fit(x, 2 * x, validation_data=(x, 3 * x), batch_size=8, epochs=3, verbose=0)


def content(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "timing"} for line in lines]


@pytest.mark.slow
@pytest.mark.promise(28)
def test_a_slow_thread_changes_nothing_in_the_files(tmp_path, monkeypatch):
    run(tmp_path / "quick", steps_per_execution=1)
    write_steps = JsonLines.write_steps

    def slowly(self, records):
        time.sleep(0.05)
        write_steps(self, records)

    monkeypatch.setattr(JsonLines, "write_steps", slowly)
    run(tmp_path / "slow", steps_per_execution=7)
    assert content(tmp_path / "slow") == content(tmp_path / "quick")
    for split, each in (("train", 60 + 2 * 3), ("validation", 3)):
        sizes = [
            sum(file.stat().st_size for file in (tmp_path / name / "tensorboard" / split).glob("*"))
            for name in ("quick", "slow")
        ]
        assert sizes[0] == sizes[1] > 40 * each


def test_a_checkpoint_holds_the_logs_up_to_its_step(tmp_path, monkeypatch):
    monkeypatch.setattr("looplab.loggers.background._SECONDS", 3600)  # the thread never comes to it
    found = {}

    class Reader(looplab.Callback):
        def on_save(self, event, controls):
            manifest = json.loads((event.path / "manifest.json").read_text())
            text = (tmp_path / "metrics.jsonl").read_bytes()
            assert manifest["logs"]["metrics.jsonl"] == len(text)
            found[event.step] = [line["step"] for line in content(tmp_path) if "loss" in line["values"]]

    run(tmp_path, callbacks=[Reader()])
    assert found == {step: list(range(1, step + 1)) for step in (20, 40, 60)}


def test_a_few_steps_and_many_are_one_series(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoard(tmp_path)
    logger.write_steps(steps(3, loss=0.5))
    logger.write_steps(steps(200, 3, loss=0.25))
    logger.close()
    reader = EventAccumulator(str(tmp_path / "train"), size_guidance={"scalars": 0})
    reader.Reload()
    assert [event.step for event in reader.Scalars("loss")] == list(range(1, 204))
    assert [event.value for event in reader.Scalars("loss")] == [0.5] * 3 + [0.25] * 200
