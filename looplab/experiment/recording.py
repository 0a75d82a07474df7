"""Trains what a configuration describes, and records it: config.yaml, early messages, the outcome."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from looplab.callbacks import Callback, Event
from looplab.config import Config, diff
from looplab.errors import ConfigurationError, DamagedFile, EndRequested
from looplab.experiment.build import _log, build
from looplab.experiment.datasets import arguments
from looplab.loggers import History
from looplab.options.value_types import FREE
from looplab.protocols import Controls
from looplab.runs import crash_report, wall_time
from looplab.runs.directory import attempted, ending, outcome_of, read_outcome, write_outcome, write_text
from looplab.runs.sealed import commented
from looplab.trainer import Trainer


def run(config: Config, run_dir: Path, written: Mapping[str, Any]) -> History:
    """Trains what a configuration describes.

    Args:
        config: From `looplab.config.check`.
        run_dir: The run directory.
        written: The content for `config.yaml`, from `looplab.config.diff.written`.

    Returns:
        The values of every epoch.

    Raises:
        LooplabError: See `Trainer.fit`; also `EndRequested`.
    """
    try:
        with wall_time.starting() as start:
            with start.time("start/build"):
                trainer, data = _built(config, run_dir, written)
            return trainer.fit(**arguments(config, data), verbose=config.loggers.verbose)
    except ConfigurationError:
        raise
    except (Exception, EndRequested) as error:  # perhaps before anything was recorded
        with attempted(run_dir):
            if not (run_dir / "config.yaml").exists():
                write_config(written, run_dir)
            if read_outcome(run_dir) is None:
                write_outcome(run_dir, ending(error))
        raise


def _built(config: Config, run_dir: Path, written: Mapping[str, Any]) -> tuple[Trainer, Mapping[str, Any]]:
    """Builds a trainer that records its run; reports an error that comes before the trainer could."""
    said: list[logging.LogRecord] = []
    own = [WriteConfig(written, run_dir), Say(said)]
    try:
        with _heard(said):
            return build(config, run_dir, own, diff.compared(written))
    except ConfigurationError:
        raise
    except Exception as error:
        crash_report.write(run_dir, error, outcome_of(run_dir, error))
        raise


class Say(Callback):
    """Repeats, when training begins, the messages from reading the data: on the console and in its log."""

    def __init__(self, said: Sequence[logging.LogRecord]) -> None:
        """Stores the list, which may be filled later."""
        self._said = said

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`."""
        for record in self._said:
            _log.handle(record)


class _Listener(logging.Handler):
    def __init__(self, said: list[logging.LogRecord]) -> None:
        super().__init__(logging.INFO)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.append(record)


@contextmanager
def _heard(said: list[logging.LogRecord]) -> Iterator[None]:
    """Collects what looplab's modules log within the block, before the console can show it."""
    listener = _Listener(said)
    level, propagate = _log.level, _log.propagate
    _log.setLevel(min(level or logging.INFO, logging.INFO))
    _log.propagate = False
    _log.addHandler(listener)
    try:
        yield
    finally:
        _log.removeHandler(listener)
        _log.propagate = propagate
        _log.setLevel(level)


class WriteConfig(Callback):
    """Writes `config.yaml` when training begins, so that a refused start does not change the file."""

    def __init__(self, written: Mapping[str, Any], run_dir: Path) -> None:
        """Stores the content and the path."""
        self._written, self._run_dir = written, run_dir

    def on_train_begin(self, event: Event, controls: Controls) -> None:
        """See `Callback`."""
        write_config(self._written, self._run_dir)


def write_config(written: Mapping[str, Any], run_dir: Path) -> None:
    """Writes `config.yaml`, and reports the changes if the run directory has another one."""
    try:
        changed = diff.since(run_dir, written)
    except DamagedFile as error:  # `diff.refuse` has allowed the run to continue
        changed = []
        _log.warning("%s looplab writes it again.", error)
    if changed:
        quiet = all(change.mark is FREE for change in changed)
        _log.log(
            logging.INFO if quiet else logging.WARNING,
            "the configuration of this run changes: %s",
            ", ".join(map(str, changed)),
        )
    write_text(run_dir / "config.yaml", commented(OmegaConf.to_yaml(OmegaConf.create(dict(written)))))
