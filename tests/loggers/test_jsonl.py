"""`metrics.jsonl`, on real files."""

import json
import math

import pytest

from looplab.loggers import JsonLines, read_records
from looplab.protocols import Record

RECORDS = [
    Record(10, 1, "train", {"loss": 0.5}, {"seconds": 1.5}),
    Record(12, 1, "validation", {"epoch_loss": 0.25, "epoch_accuracy": 1.0}, {"seconds": 2.0}),
    Record(20, 2, "train", {"loss": 0.125}, {"seconds": 3.0}),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


def write(path, records):
    logger = JsonLines(path)
    for record in records:
        logger.write(record)
    return logger


def test_a_line_is_the_contract(path):
    record = Record(100, 2, "validation", {"epoch_loss": 0.25}, {"seconds": 1.23456789})
    write(path, [record]).close()
    assert path.read_text() == (
        '{"step": 100, "epoch": 2, "split": "validation", '
        '"values": {"epoch_loss": 0.25}, "timing": {"seconds": 1.234568}}\n'
    )


def test_every_float_is_read_back_exactly(path):
    values = {"third": 1 / 3, "tiny": 5e-324, "big": 1.7976931348623157e308, "zero": -0.0}
    write(path, [Record(1, 1, "train", values)]).close()
    (record,) = read_records(path)
    assert {name: value.hex() for name, value in record.values.items()} == {
        name: value.hex() for name, value in values.items()
    }


def test_what_is_not_finite_is_a_string(path):
    values = {"a": math.nan, "b": math.inf, "c": -math.inf}
    write(path, [Record(1, 1, "train", values, {"steps_per_second": math.inf})]).close()
    line = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert line["values"] == {"a": "nan", "b": "inf", "c": "-inf"}
    (record,) = read_records(path)
    assert math.isnan(record.values["a"])
    assert (record.values["b"], record.values["c"]) == (math.inf, -math.inf)
    assert record.timing == {"steps_per_second": math.inf}


def test_a_line_is_there_as_soon_as_it_is_written(path):
    logger = write(path, RECORDS)
    assert list(read_records(path)) == RECORDS  # somebody looks, or the process is killed now
    logger.close()


def test_an_unfinished_last_line_is_not_read(path):
    write(path, RECORDS).close()
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert list(read_records(path)) == RECORDS[: whole[:size].count(b"\n")]


def test_nothing_is_read_where_there_is_no_file(path):
    assert list(read_records(path)) == []


def test_a_resumed_log_equals_an_uninterrupted_one(path):
    write(path, RECORDS).close()
    whole = path.read_bytes()
    path.unlink()

    offsets = write(path, RECORDS[:2]).offsets()
    assert offsets == {"metrics.jsonl": path.stat().st_size}
    lost = write(path, [Record(13, 2, "train", {"loss": 9.0})])
    lost.close()
    with path.open("ab") as file:
        file.write(b'{"step": 14, "ep')

    logger = JsonLines(path)
    logger.rewind(offsets)
    logger.write(RECORDS[2])
    logger.close()
    assert path.read_bytes() == whole


def test_a_run_without_a_checkpoint_begins_an_empty_log(path):
    write(path, RECORDS).close()
    JsonLines(path).rewind({})
    assert path.read_bytes() == b""


def test_a_log_that_lost_its_end_keeps_whole_lines_and_says_so(path, caplog):
    logger = write(path, RECORDS)
    offsets = logger.offsets()
    logger.close()
    path.write_bytes(path.read_bytes()[:-5])

    logger = JsonLines(path)
    logger.rewind(offsets)
    logger.write(RECORDS[0])
    logger.close()
    assert list(read_records(path)) == [*RECORDS[:2], RECORDS[0]]
    assert f"{path} has lost records" in caplog.text


@pytest.mark.fault(33)
def test_no_memory_is_taken_for_a_size_that_only_a_checkpoint_claims(path, caplog):
    write(path, RECORDS).close()
    whole = path.read_bytes()
    JsonLines(path).rewind({"metrics.jsonl": 2**62})
    assert path.read_bytes() == whole
    assert f"{path} has lost records" in caplog.text
