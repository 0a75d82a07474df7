"""TensorBoard scalars: `tensorboard/train/` and one folder for each evaluation split."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from looplab.protocols import Record, Summary

_EVENT_FILES = "events.out.tfevents.*"


class TensorBoard:
    """Writes every value of a record at its step; see `looplab.protocols.Logger`.

    The same tag in every split puts training and validation on one chart.
    """

    def __init__(self, directory: Path) -> None:
        """Names the folder, in which files appear when the first record comes.

        Args:
            directory: `<run_dir>/tensorboard`.
        """
        self._directory = directory
        self._writers: dict[str, RecordWriter] = {}

    def begin(self, summary: Summary) -> None:
        """See `Logger`; nothing to do."""

    def write(self, record: Record) -> None:
        """See `Logger`; a page that is open shows it at its next reload."""
        if record.split not in self._writers:
            self._writers[record.split] = _open(self._directory / record.split)
        values = [
            summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in record.values.items()
        ]
        event = event_pb2.Event(
            wall_time=time.time(), step=record.step, summary=summary_pb2.Summary(value=values)
        )
        self._writers[record.split].write(event.SerializeToString())
        self._writers[record.split].flush()

    def offsets(self) -> dict[str, int]:
        """See `Logger`: the size of every event file of the run."""
        files = sorted(self._directory.glob(f"*/{_EVENT_FILES}"))
        return {str(file.relative_to(self._directory.parent)): file.stat().st_size for file in files}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """See `Logger`: shortens event files, and removes those that are younger than `offsets`.

        TensorBoard reads all files of a folder as one run, so the next attempt adds a new file.
        """
        self.close()
        for file in self._directory.glob(f"*/{_EVENT_FILES}"):
            size = offsets.get(str(file.relative_to(self._directory.parent)))
            if size is None:
                file.unlink()
            elif size < file.stat().st_size:
                with file.open("r+b") as content:
                    content.truncate(size)

    def close(self) -> None:
        """See `Logger`."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def _open(folder: Path) -> RecordWriter:
    """Begins an event file that readers, who go by name, take up after all that are there.

    The number in the name is the time, as TensorBoard's own writers have it, unless the clock went
    back between two attempts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [file.name.split(".")[3] for file in folder.glob(_EVENT_FILES)]
    last = max((int(number) for number in numbers if number.isdigit()), default=0)
    number = max(int(time.time()), last + 1)
    writer = RecordWriter((folder / f"events.out.tfevents.{number:010d}.looplab").open("xb"))
    event = event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2")
    writer.write(event.SerializeToString())
    return writer
