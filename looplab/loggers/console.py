"""Shows a run to the user: the plan, a progress bar, a line per epoch, and the paths of its files."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import rich.console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from looplab.errors import ConfigurationError, StorageError, shown
from looplab.loggers.growing_file import GrowingFile
from looplab.loggers.notebook import Live, in_notebook
from looplab.loggers.text import as_text, model_table, plan_lines, rate
from looplab.protocols import Logger, Record, StepRecords, Summary, Values
from looplab.runs.epochs import Epochs
from looplab.runs.tags import EPOCH

_REFRESH = 0.2  # seconds between two updates of the bar
_QUIET = 10.0  # seconds between two plain lines within an epoch, if there is no bar


class Console(Logger):
    """Shows a run on standard output and writes its lines, with times, to `log.txt`.

    A terminal shows a live bar, a notebook shows a live line, and any other output gets plain lines. See
    `looplab.protocols.Logger`.
    """

    def __init__(self, verbose: str | int = "auto", log_file: Path | None = None) -> None:
        """Chooses how much to show.

        Args:
            verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 a line per epoch; `"auto"` is 1 on
                a terminal and in a notebook, and 2 elsewhere.
            log_file: `<run_dir>/log.txt`, to which it appends; None for no file.

        Raises:
            ConfigurationError: If `verbose` has another value.
        """
        if verbose not in ("auto", 0, 1, 2):
            raise ConfigurationError(f"verbose: {verbose!r} is not one of 'auto', 0, 1, 2.")
        terminal, notebook = sys.stdout.isatty(), in_notebook()
        self.verbose = (1 if terminal or notebook else 2) if verbose == "auto" else int(verbose)
        self._live = Live() if notebook and self.verbose else None
        width = None if terminal else 100
        self._out = rich.console.Console(
            file=sys.stdout,
            width=width,
            highlight=False,
            quiet=self.verbose == 0,
            soft_wrap=True,
            force_jupyter=False,  # True would make one output of each line
        )
        self._path = log_file
        self._file: GrowingFile | None = None
        self._bar: Progress | None = None
        self._task: Any = None
        self._summary: Summary | None = None
        self._evaluated: dict[str, float] = {}
        self._logged: dict[int, dict[str, float]] = {}  # by callbacks, by epoch
        self._ended: tuple[Record, dict[str, float]] | None = None  # an epoch whose line is not said yet
        self._shown = self._began = time.monotonic()
        self._handler = _Messages(self)
        self._level = logging.NOTSET

    def __enter__(self) -> Console:
        """Opens the log file, and shows the messages that looplab's modules log through `logging`."""
        if self._path is not None:
            self._file = GrowingFile(self._path, alone=False)  # the watchdog writes there too
        logger = logging.getLogger("looplab")
        self._level = logger.level
        logger.setLevel(min(logger.level or logging.INFO, logging.INFO))
        logger.addHandler(self._handler)
        return self

    def __exit__(self, *exception: object) -> None:
        """Restores the terminal and `logging`."""
        self.close()
        logger = logging.getLogger("looplab")
        logger.removeHandler(self._handler)
        logger.setLevel(self._level)
        if self._file is not None:
            self._file.close()
            self._file = None

    def say(self, text: str, style: str = "") -> None:
        """Prints and logs a line (or several), above the bar if there is one."""
        text = shown(text)
        self._print(Text(text, style=style), text)
        self._log(text)

    def begin(self, summary: Summary) -> None:
        """See `Logger`: shows the table of the model, then the plan."""
        self._summary = summary
        if summary.layers:
            self._show(model_table(summary.layers))
        for label, text in plan_lines(summary):
            self._print(Text.assemble((label, "dim"), text), label + text)
            self._log(label + text)
        self._print(Text(), "")
        if self._live is not None and self.verbose == 1:
            self._live.set("preparing the first step")
        elif self.verbose == 1 and self._out.is_interactive:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=self._out.width // 8),
                _Status(),
                console=self._out,
                transient=True,
                refresh_per_second=8,
            )
            self._bar.start()
            self._task = self._bar.add_task(
                "preparing the first step",
                total=summary.total_steps,
                completed=summary.first_step,
                values="",
            )
        self._shown = self._began = time.monotonic()

    def progress(self, step: int, epoch: int, values: Callable[[], Values]) -> None:
        """Shows the position of the run.

        Args:
            step: Completed steps.
            epoch: The current epoch, from 1.
            values: Returns the means of the epoch so far; called only to show them.
        """
        now = time.monotonic()
        if self._live is not None and self.verbose == 1:
            if now - self._shown >= _REFRESH:
                self._shown = now
                self._live.set(self._live_line(step, epoch, values()))
        elif self._bar is not None and now - self._shown >= _REFRESH:
            self._shown = now
            self._bar.update(
                self._task, completed=step, description=self._label(epoch), values=as_text(values())
            )
        elif self._bar is None and self.verbose and now - self._shown >= _QUIET:
            self._shown = now
            total = self._summary.total_steps if self._summary else step
            self.say(f"{self._label(epoch)}  step {step}/{total}  {as_text(values())}")

    def write(self, record: Record) -> None:
        """See `Logger`: one line for an epoch, with its evaluations and the numbers of callbacks."""
        if record.from_callbacks:
            grouped = {name for name in record.values if "/" in name or name == "learning_rate"}
            logged = {name: value for name, value in record.values.items() if name not in grouped}
            self._logged.setdefault(record.epoch, {}).update(logged)
            return
        means = {
            name.removeprefix(EPOCH): value for name, value in record.values.items() if name.startswith(EPOCH)
        }
        if not means:
            return
        if record.split != "train":
            prefix = "val" if record.split == "validation" else record.split
            values = {f"{prefix}_{name}": value for name, value in means.items()}
            if self._ends_epoch(record.step):
                self._evaluated |= values  # shown in the line of the epoch
            else:
                self.say(f"{self._label(record.epoch)}  step {record.step}  {as_text(values)}")
            return
        self.end_epoch()
        self._ended = record, means

    def end_epoch(self) -> None:
        """Says the line of an epoch that was written, now that callbacks have logged all they log for it."""
        if self._ended is None:
            return
        (record, means), self._ended = self._ended, None
        seconds = record.timing.get("epoch_seconds", 0.0)
        label = self._label(record.epoch)
        values = means | self._evaluated | self._logged.get(record.epoch, {})
        line = f"{label}  {as_text(values)}  {seconds:.1f}s"
        if self._live is not None:  # epochs may be short, and each update of a notebook takes time
            self._live.set("")
            self._live.add(line, at_once=False)
            self._log(line)
        else:
            self.say(line)
        self._evaluated, self._logged = {}, {}
        self._shown = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=record.step, description=label, values=as_text(means))

    def write_steps(self, records: StepRecords) -> None:
        """See `Logger`; the console shows no single steps."""

    def offsets(self) -> dict[str, int]:
        """See `Logger`: nothing, since printed lines cannot be taken back."""
        return {}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """See `Logger`; nothing to do."""

    def close(self) -> None:
        """See `Logger`: removes the bar."""
        self.end_epoch()
        if self._live is not None:
            self._live.set("")
            self._live.flush()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @property
    def _epochs(self) -> Epochs:
        assert self._summary is not None
        return Epochs(self._summary.steps_per_epoch, shift=self._summary.epoch_shift)

    def _ends_epoch(self, step: int) -> bool:
        assert self._summary is not None
        return self._epochs.ends(step) or step == self._summary.total_steps

    def _label(self, epoch: int) -> str:
        assert self._summary is not None
        epochs = self._epochs.count(self._summary.total_steps)
        return f"epoch {epoch:>{len(str(epochs))}}/{epochs}"

    def _live_line(self, step: int, epoch: int, values: Values) -> str:
        """Returns the position of the run as a line, like the bar of a terminal."""
        assert self._summary is not None
        total, done = self._summary.total_steps, step - self._summary.first_step
        speed = done / max(time.monotonic() - self._began, 1e-9)
        left = timedelta(seconds=int((total - step) / speed)) if speed else "?"
        return f"{self._label(epoch)}  step {step}/{total}  {rate(speed)}  {left} left  {as_text(values)}"

    def _print(self, styled: Table | Text, plain: str) -> None:
        """Prints a styled line on a terminal, or plain lines in a notebook."""
        if self._live is not None:
            self._live.add(plain)
        else:
            self._out.print(styled)

    def _show(self, table: Table) -> None:
        plain = rich.console.Console(file=io.StringIO(), width=100, color_system=None, force_jupyter=False)
        plain.print(table)
        text = plain.file.getvalue().rstrip()  # type: ignore[attr-defined]
        self._print(table, text)
        self._print(Text(), "")
        self._log(text)

    def _log(self, text: str) -> None:
        if self._file is None:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            lines = "".join(f"{stamp}  {line}\n" for line in text.splitlines())
            self._file.write(lines.encode("utf-8", "backslashreplace"))
        except (OSError, StorageError) as error:
            full, self._file = self._file, None
            with suppress(OSError):
                full.close()
            logging.getLogger("looplab").warning("log.txt can no longer be written: %s", error)


class _Messages(logging.Handler):
    """Passes the messages of other modules from `logging` to the console."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        warning = record.levelno >= logging.WARNING
        text = f"warning: {record.getMessage()}" if warning else record.getMessage()
        self._console.say(text, "yellow" if warning else "")


class _Status(ProgressColumn):
    """Steps, rate, time left and values as one text, since a narrow terminal then cuts only its end."""

    def render(self, task: Task) -> Text:
        text = Text(f"{task.completed:.0f}/{task.total:.0f}", no_wrap=True, overflow="ellipsis")
        speed = task.finished_speed or task.speed
        if speed:
            text.append(f"  {rate(speed)}", "cyan")
        if task.time_remaining is not None:
            text.append(f"  {timedelta(seconds=task.time_remaining)} left", "cyan")
        return text.append(f"  {task.fields['values']}")
