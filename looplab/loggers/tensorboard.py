"""Writes a run for TensorBoard: its settings, the scalars of each split, and large data in other folders.

tensorboard/                  hyperparameters, configuration, graph, layout; rewritten at each start
tensorboard/<split>/          scalars
tensorboard/<split>/media/    images, histograms, texts, curves: charts load faster without them
tensorboard/system/           CPU, memory, GPU; how the time of each epoch was spent
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from looplab.loggers import tensorboard_overview as overview
from looplab.loggers import tensorboard_records as in_bulk
from looplab.loggers import tensorboard_values as values
from looplab.loggers.growing_file import GrowingFile
from looplab.loggers.records_file import METRICS, read_records
from looplab.loggers.system import System
from looplab.protocols import Logger, Media, Record, StepRecords, Summary

_log = logging.getLogger("looplab")

_MANY = 16  # from this number of steps on, it is faster to write them at once
_EVENT_FILES = "events.out.tfevents.*"


class TensorBoard(Logger):
    """Writes every value of a record at its step; see `looplab.protocols.Logger`.

    Training and validation share one chart, because a tag is the same in every split. The most important
    values are repeated in two groups of charts, which TensorBoard opens by itself; see
    `tensorboard_overview`.
    """

    def __init__(self, directory: Path) -> None:
        """Takes the path of the folder, in which the first record creates files.

        Args:
            directory: `<run_dir>/tensorboard`.
        """
        self._directory = directory
        self._open: dict[str, GrowingFile] = {}  # event files by folder
        self._earlier: list[Path] = []  # event files of earlier starts that still count
        self._first_step = 0
        self._system = System()
        self._charts: dict[str, None] = {}  # tags of the layout, in order
        self._of_callbacks: tuple[str, ...] = ()  # their tags among the most important values
        self._compared = False  # whether the run has a row in the table of hyperparameters

    def begin(self, summary: Summary) -> None:
        """See `Logger`: replaces the description of the run that an earlier start wrote."""
        for file in self._directory.glob(_EVENT_FILES):
            file.unlink()
        self._earlier, self._first_step = [file for _, file in self._files()], summary.first_step
        self._charts.clear()
        self._of_callbacks = summary.of_callbacks
        self._compared = bool(summary.hyperparameters)
        if self._compared:
            self._add("", 0, *values.hyperparameters(summary.hyperparameters))
        graph = None if summary.graph is None else values.graph(summary.graph)
        if graph is not None:
            self._event("", event_pb2.Event(graph_def=graph))

    def write(self, record: Record) -> None:
        """See `Logger`; an open page shows it at its next reload."""
        self._add(record.split, record.step, *self._scalars(record.values))
        told = {
            f"time/{name.removeprefix('time/')}": seconds
            for name, seconds in record.timing.items()
            if name.startswith("time/") or name.endswith(("_per_second", "_share"))
        }
        self._add_usage(record.step, told)
        self._go_on(record.step, [*record.values, *told])

    def write_steps(self, records: StepRecords) -> None:
        """See `Logger`: writes many steps at once."""
        if len(records) < _MANY or not records.values:
            super().write_steps(records)
            return
        steps = np.asarray(records.steps, np.int64)
        shown = {**records.values, **overview.repeated(records.values, self._of_callbacks)}
        self._append(records.split, in_bulk.scalars(steps, time.time(), shown))
        self._go_on(records.steps[-1], records.values)

    def _go_on(self, step: int, tags: Iterable[str]) -> None:
        """Adds further data of a step: the machine's load, and charts of new tags."""
        self._add_usage(step, self._system.sample())
        own = self._of_callbacks
        new = {tag: None for tag in tags if overview.place(tag, own) and tag not in self._charts}
        if new:
            self._charts |= new
            self._add("", 0, values.layout(overview.charts(self._charts, own)))

    def show(self, media: Media) -> None:
        """See `Logger`."""
        entries = values.rich(media)
        if entries:
            self._add(f"{media.split}/media", media.step, *entries)

    def offsets(self) -> dict[str, int]:
        """See `Logger`: the size of every event file, after missing files were written again."""
        for file in self._open.values():
            file.look()
        self._make_earlier_again()
        return {name: file.stat().st_size for name, file in self._files()}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """See `Logger`: shortens event files, and removes those that are newer than `offsets`.

        TensorBoard reads all files of a folder as one run, so the next attempt adds a new file.
        """
        self.close()
        for name, file in self._files():
            size = offsets.get(name)
            if size is None:
                file.unlink()
            elif size < file.stat().st_size:
                with file.open("r+b") as content:
                    content.truncate(size)

    def end(self, outcome: Mapping[str, Any]) -> None:
        """See `Logger`: records in the table of hyperparameters how the run ended."""
        if self._compared:
            self._add("", 0, values.session_end(outcome["status"] in ("finished", "stopped")))

    def close(self) -> None:
        """See `Logger`."""
        files = list(self._open.values())
        self._open.clear()
        for file in files:
            file.close()

    def _make_earlier_again(self) -> None:
        """Writes the event files of earlier starts again, if they were removed."""
        gone = [file for file in self._earlier if not file.exists()]
        for folder in dict.fromkeys(file.parent for file in gone):
            own = [file for file in self._earlier if file.parent == folder]
            for file in own:
                file.unlink(missing_ok=True)
            self._earlier = [file for file in self._earlier if file not in own]
            split, last = str(folder.relative_to(self._directory)), self._first_step
            every = read_records(self._directory.with_name(METRICS))
            records = [record for record in every if record.split == split and record.step <= last]
            if not records:
                _log.warning("%s is missing, with everything that earlier starts logged there", folder)
                continue
            again = GrowingFile(own[0], new=True)  # readers take it before the files of this start
            again.write(_record(_version()))
            for record in records:
                again.write(_record(_event_of(record.step, self._scalars(record.values))))
            again.close()
            self._earlier.append(own[0])
            _log.warning(
                "event files in %s are missing: looplab writes their scalars again from %s", folder, METRICS
            )

    def _files(self) -> list[tuple[str, Path]]:
        """Returns the files that grow with the steps, each with its name in the run directory."""
        files = sorted(self._directory.glob(f"*/**/{_EVENT_FILES}"))
        return [(str(file.relative_to(self._directory.parent)), file) for file in files]

    def _scalars(self, found: Mapping[str, float]) -> list[summary_pb2.Summary.Value]:
        """Returns the points of a step's values, and of their repeats in the open groups."""
        repeated = overview.repeated(found, self._of_callbacks)
        return [values.scalar(tag, value) for tag, value in {**found, **repeated}.items()]

    def _add_usage(self, step: int, found: Mapping[str, float]) -> None:
        if found:
            self._add("system", step, *self._scalars(found))

    def _add(self, folder: str, step: int, *entries: summary_pb2.Summary.Value) -> None:
        self._event(folder, _event_of(step, entries))

    def _event(self, folder: str, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        self._append(folder, _record(event))

    def _append(self, folder: str, records: bytes) -> None:
        if folder not in self._open:
            self._open[folder] = _begun(self._directory / folder, self._earlier)
        self._open[folder].write(records)


def _begun(folder: Path, earlier: Iterable[Path]) -> GrowingFile:
    """Creates an event file whose name sorts after all present and earlier files, as readers go by name.

    The number in the name is the time, as in TensorBoard's own writers, unless the clock went back between
    two attempts.
    """
    known = [*folder.glob(_EVENT_FILES), *(file for file in earlier if file.parent == folder)]
    numbers = [file.name.split(".")[3] for file in known]
    last = max((int(number) for number in numbers if number.isdigit()), default=0)
    number = max(int(time.time()), last + 1)
    file = GrowingFile(folder / f"events.out.tfevents.{number:010d}.looplab", new=True)
    file.write(_record(_version()))
    return file


def _version() -> event_pb2.Event:
    return event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2")


def _event_of(step: int, entries: Iterable[summary_pb2.Summary.Value]) -> event_pb2.Event:
    return event_pb2.Event(wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=entries))


def _record(event: event_pb2.Event) -> bytes:
    record = io.BytesIO()
    RecordWriter(record).write(event.SerializeToString())
    return record.getvalue()
