"""TensorBoard scalars: `tensorboard/train/` and one folder for each evaluation split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tensorboard.summary import Writer

from looplab.protocols import Record, Summary

_EVENT_FILES = "*/events.out.tfevents.*"


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
        self._writers: dict[str, Writer] = {}

    def begin(self, summary: Summary) -> None:
        """See `Logger`; nothing to do."""

    def write(self, record: Record) -> None:
        """See `Logger`."""
        if record.split not in self._writers:
            self._writers[record.split] = Writer(str(self._directory / record.split))
        writer = self._writers[record.split]
        for tag, value in record.values.items():
            writer.add_scalar(tag, value, record.step)

    def offsets(self) -> dict[str, int]:
        """See `Logger`: the size of every event file of the run."""
        for writer in self._writers.values():
            writer.flush()
        files = sorted(self._directory.glob(_EVENT_FILES))
        return {str(file.relative_to(self._directory.parent)): file.stat().st_size for file in files}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """See `Logger`: shortens event files, and removes those that are younger than `offsets`.

        TensorBoard reads all files of a folder as one run, so the next attempt adds a new file.
        """
        self.close()
        for file in self._directory.glob(_EVENT_FILES):
            size = offsets.get(str(file.relative_to(self._directory.parent)))
            if size is None:
                file.unlink()
            else:
                with file.open("r+b") as content:
                    content.truncate(size)

    def close(self) -> None:
        """See `Logger`."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
