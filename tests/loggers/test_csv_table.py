"""`metrics.csv`, on real files."""

import csv
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looplab.loggers import Csv, JsonLines
from looplab.protocols import Record
from tests.faults.mutations import mutations

RECORDS = [
    Record(10, 1, "train", {"loss": 1 / 3}, {"seconds": 1.5}),
    Record(12, 1, "validation", {"epoch_loss": 0.25, "a, b": math.nan}),
    Record(20, 2, "train", {"loss": 0.125, "late": math.inf}),
]


def logger(folder):
    made = Csv()
    made.open(folder)
    return made


def write(folder, records):
    made = logger(folder)
    for record in records:
        made.write(record)
    return made


def test_a_row_is_a_record_and_a_column_a_tag(tmp_path):
    write(tmp_path / "run", RECORDS)
    assert (tmp_path / "run/metrics.csv").read_text() == (
        'step,epoch,split,loss,epoch_loss,"a, b",late\n'
        "10,1,train,0.3333333333333333,,,\n"
        "12,1,validation,,0.25,nan,\n"
        "20,2,train,0.125,,,inf\n"
    )
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["loss"]) == 1 / 3


TAGS = st.dictionaries(st.sampled_from("abcde"), st.floats(), max_size=3)


@pytest.mark.promise(31)
@given(st.lists(TAGS, min_size=1, max_size=8), st.data())
def test_a_resumed_table_equals_an_uninterrupted_one(tmp_path_factory, values, data):
    records = [Record(i + 1, 1, "train", tags) for i, tags in enumerate(values)]
    saved = data.draw(st.integers(0, len(records)))
    folder = tmp_path_factory.mktemp("run")
    write(folder / "whole", records)
    write(folder / "cut", [])
    offsets = write(folder / "cut", records[:saved]).offsets() if saved else {}
    write(folder / "cut", records[saved:])
    if (folder / "cut/metrics.csv").exists():
        with (folder / "cut/metrics.csv").open("a") as torn:
            torn.write("7,1,tr")
    resumed = logger(folder / "cut")
    resumed.rewind(offsets)
    for record in records[saved:]:
        resumed.write(record)
    assert (folder / "cut/metrics.csv").read_bytes() == (folder / "whole/metrics.csv").read_bytes()


def recorded(folder):
    """A whole table beside its `metrics.jsonl`, and what a checkpoint knows of it."""
    truth = JsonLines(folder / "metrics.jsonl")
    for record in RECORDS:
        truth.write(record)
    truth.close()
    made = write(folder, RECORDS)
    return made, made.offsets(), (folder / "metrics.csv").read_bytes()


@pytest.mark.fault(17)
def test_whatever_has_become_of_it_a_table_is_that_of_the_records_again(tmp_path):
    _, offsets, content = recorded(tmp_path)
    for broken in (b"", b"\xff\xfe", b"\0\n" * 9, *mutations(content, 60)):
        (tmp_path / "metrics.csv").write_bytes(broken)
        again = logger(tmp_path)
        again.rewind(offsets)
        assert (tmp_path / "metrics.csv").read_bytes() == content and again.offsets() == offsets


@pytest.mark.fault(8)
def test_a_table_that_is_removed_while_it_grows_is_made_again(tmp_path, caplog):
    made, _, content = recorded(tmp_path)
    (tmp_path / "metrics.csv").unlink()
    made.write(Record(30, 2, "train", {"loss": 0.5}))
    assert (tmp_path / "metrics.csv").read_bytes() == content + b"30,2,train,0.5,,,\n"
    assert "metrics.csv was removed or moved during the run; looplab writes it again" in caplog.text


def test_without_a_run_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = write(None, RECORDS)
    made.rewind({})
    assert made.offsets() == {}
    assert list(tmp_path.iterdir()) == []
