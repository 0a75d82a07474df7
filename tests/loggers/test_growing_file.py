"""A log that somebody takes away while it grows: noticed, said, and made again as it was written."""

import os
import shutil

import pytest

from looplab.errors import StorageError
from looplab.loggers.growing_file import GrowingFile

LINES = [b"one\n", b"two\n", b"three\n"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


@pytest.fixture
def grown(path):
    file = GrowingFile(path)
    for line in LINES[:2]:
        file.write(line)
    return file


def removed(path):
    path.unlink()


def removed_with_its_folder(path):
    shutil.rmtree(path.parent)


def moved(path):
    path.rename(path.with_name("elsewhere"))


def moved_with_its_folder(path):
    path.parent.rename(path.parent.with_name("elsewhere"))


def replaced(path):
    other = path.with_name("other")
    other.write_text("somebody else's\n")
    os.replace(other, path)


def added_to(path):
    with path.open("a") as file:
        file.write("somebody else's\n")


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    "take", [removed, removed_with_its_folder, moved, moved_with_its_folder, replaced, added_to]
)
def test_it_is_made_again_with_a_warning(take, path, grown, caplog):
    take(path)
    assert grown.look() and not grown.look()
    assert path.read_bytes() == b"".join(LINES[:2])
    (said,) = caplog.messages
    assert str(path) in said and "during the run; looplab writes it again" in said
    grown.write(LINES[2])
    grown.close()
    assert path.read_bytes() == b"".join(LINES)
    others = [file for file in path.parent.iterdir() if ".other-" in file.name]
    assert len(others) == (take in (replaced, added_to)) and all(other.name in said for other in others)


@pytest.mark.fault(8)
def test_it_is_noticed_at_a_write_but_not_at_each(path, grown, caplog, monkeypatch):
    path.unlink()
    grown.write(LINES[2])
    assert not path.exists()
    monkeypatch.setattr("looplab.loggers.growing_file.time.monotonic", lambda: 1e9)
    grown.write(b"four\n")
    assert path.read_bytes() == b"".join([*LINES, b"four\n"])


@pytest.mark.fault(8)
@pytest.mark.parametrize("text", ["", "onE\ntwo\nthree\n"])
def test_what_is_changed_in_place_cannot_be_made_again(text, path, grown, caplog):
    path.write_text(text)
    with pytest.raises(
        StorageError, match=r"was written to .* cannot be written again: it no longer has"
    ) as end:
        grown.look()
    assert end.value.exit_code == 6
    grown.close()
    assert "cannot be written again" in caplog.text and path.read_text() == text


@pytest.mark.fault(8)
def test_where_it_cannot_be_made_again_the_error_says_why(path, grown):
    shutil.rmtree(path.parent)
    path.parent.write_text("a file")
    with pytest.raises(
        StorageError, match=r"was removed or moved .* cannot be written again: .*\. Put it back"
    ):
        grown.look()


def test_what_was_there_counts_as_written(path, grown):
    grown.close()
    again = GrowingFile(path)
    assert (again.size, again.digest) == (grown.size, grown.digest)
    again.close()


def test_a_file_that_others_write_too_is_compared_by_its_name_alone(path, caplog):
    file = GrowingFile(path, alone=False)
    file.write(LINES[0])
    added_to(path)
    assert not file.look()
    path.unlink()
    assert file.look() and path.read_text() == "one\nsomebody else's\n"
    file.close()


def test_half_a_line_does_not_stay_where_the_disk_is_full(path, grown, monkeypatch):
    def full(file, content):
        file.write(content[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("looplab.loggers.growing_file._write", full)
    with pytest.raises(OSError, match="No space"):
        grown.write(LINES[2])
    assert path.read_bytes() == b"".join(LINES[:2])
    grown.close()
