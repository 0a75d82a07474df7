"""`metrics.jsonl` as a run finds it again: good, or brought back to what can be believed, and said."""

import pytest

from looplab.loggers import JsonLines, mend, read_records
from looplab.protocols import Record

RECORDS = [
    Record(step, 1, split, {"loss": step / 8}) for step in (1, 2, 3, 4) for split in ("train", "validation")
]
SAVED = 3  # the step of the checkpoint


@pytest.fixture
def log(tmp_path):
    """A log that goes on after its checkpoint, and what that knows of it."""
    path = tmp_path / "metrics.jsonl"
    logger = JsonLines(path)
    for record in RECORDS[:6]:
        logger.write(record)
    known = logger.offsets()[path.name], logger.digests()[path.name]
    for record in RECORDS[6:]:
        logger.write(record)
    logger.close()
    return path, *known


def resumed(path, size, digest):
    """The records that a run goes on after."""
    logger = JsonLines(path)
    logger.rewind({path.name: mend(path, size, digest, SAVED)})
    logger.close()
    return list(read_records(path))


@pytest.mark.parametrize("knows", [True, False], ids=["digest", "of version 1"])
def test_a_good_one_is_cut_back_without_a_word(knows, log, caplog):
    path, size, digest = log
    assert resumed(path, size, digest if knows else None) == RECORDS[:6]
    assert caplog.messages == [] and [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.fault(17)
def test_a_digit_that_is_another_is_said(log, caplog):
    path, size, digest = log
    path.write_bytes(path.read_bytes().replace(b"0.125", b"0.525", 1))
    assert len(resumed(path, size, digest)) == 6
    (said,) = caplog.messages
    assert f"{path} is damaged: up to step 3 its content has changed" in said


@pytest.mark.fault(17, 18)
@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines[:2], b"[]\n", *lines[3:]],
        lambda lines: [*lines[:2], b'{"step": 1}\n', *lines[3:]],
        lambda lines: [*lines[:2], b"\0" * len(lines[2]), *lines[3:]],
        lambda lines: [*lines[:2], b"\xff\xfe\n", *lines[3:]],
        lambda lines: [*lines[:2], lines[2].replace(b"0.25", b'"x"'), *lines[3:]],
    ],
)
def test_lines_that_are_no_records_are_left_out_and_the_file_is_kept(change, log, caplog):
    path, size, digest = log
    spoilt = b"".join(change(path.read_bytes().splitlines(keepends=True)))
    path.write_bytes(spoilt)
    expected = [record for record in RECORDS[:6] if record != RECORDS[2]]
    # Of zeros without a line's end the next line is lost, too.
    assert [r for r in resumed(path, size, digest) if r != RECORDS[3]] == [
        r for r in expected if r != RECORDS[3]
    ]
    (said,) = caplog.messages
    assert f"{path} has lost records" in said and "line 3 is not a record" in said
    (aside,) = path.parent.glob("*.damaged-*")
    assert aside.read_bytes() == spoilt and aside.name in said


@pytest.mark.fault(17)
@pytest.mark.parametrize("text", [b"", b"x\n", b"[]\n" * 500])
def test_where_nothing_is_left_it_begins_anew(text, log, caplog):
    path, size, digest = log
    path.write_bytes(text)
    assert resumed(path, size, digest) == []
    assert "has lost records" in caplog.text


def test_where_there_is_none_that_is_said(log, caplog):
    path, size, digest = log
    path.unlink()
    assert resumed(path, size, digest) == [] and f"{path} has lost records" in caplog.text


def test_a_line_that_was_put_in_moves_nothing_across_the_checkpoint(log, caplog):
    path, size, digest = log
    path.write_bytes(b'{"a": "note"}\n' + path.read_bytes())
    assert resumed(path, size, digest) == RECORDS[:6]
    assert "line 1 is not a record" in caplog.text


def test_a_reader_counts_what_it_leaves_out(log, caplog):
    path, *_ = log
    path.write_bytes(b"1\n2\n" + path.read_bytes() + b"3\n4\n5\n6\n")
    assert list(read_records(path)) == RECORDS
    assert "has lost records: 6 lines are not records (1, 2, 11, 12, 13, ...)" in caplog.text
