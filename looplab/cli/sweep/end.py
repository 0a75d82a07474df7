"""Ends a sweep: prints its tables, writes `results.csv`, and finds its exit code."""

from __future__ import annotations

import csv
import io
import shlex
import sys
from pathlib import Path

import rich.box
import rich.console
import rich.table
from rich.text import Text

from looplab.cli.sweep.begin import Sweep
from looplab.cli.sweep.results import Results, results
from looplab.errors import shown
from looplab.runs.directory import write_text


def end(sweep: Sweep, code: int) -> int:
    """Releases what a sweep holds, and prints the results of its jobs; see `looplab.cli.sweep.ended`."""
    sweep.lifeline.close()
    found = results(sweep.directory)
    write_text(sweep.directory / "results.csv", _csv(found))
    if found.rows:
        _print(sweep.directory, found)
    if sweep.lifeline.signal is not None:
        print("looplab: the sweep is not finished; the same command continues it", file=sys.stderr)
        return 128 + sweep.lifeline.signal
    return next((row.exit_code for row in found.rows if row.exit_code), code)


def _csv(found: Results) -> str:
    """Returns a line for each job; if settings are repeated, the last columns describe the job's setting."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    statistics = ["mean", "std", "n"] if found.settings else []
    names = ["status", found.monitor, "step", "seconds", "exit_code", "reason"]
    writer.writerow(["job", *found.keys, *names, *statistics])
    for row in found.rows:
        swept = [row.swept.get(key) for key in found.keys]
        rest = [row.status, row.objective, row.step, row.seconds, row.exit_code, row.reason]
        setting = found.setting_of(row)
        of_setting = [] if setting is None else [setting.mean, setting.std, len(setting.values)]
        writer.writerow([row.job, *swept, *rest, *of_setting])
    return text.getvalue()


def _print(directory: Path, found: Results) -> None:
    width = None if sys.stdout.isatty() else 120
    console = rich.console.Console(file=sys.stdout, width=width, highlight=False, markup=False)
    console.print(_table_of_jobs(found))
    if found.settings:
        console.print(
            f"over {' and '.join(found.repeats)} (std is the sample standard deviation, with n - 1):"
        )
        console.print(_table_of_settings(found))
    for row in sorted(found.rows, key=lambda row: row.job):
        if row.reason:
            print(shown(f"job {row.job}: exit code {row.exit_code}: {row.reason}"))
    print(f"sweep    {directory}\nwatch    tensorboard --logdir {shlex.quote(str(directory))}", flush=True)


def _table_of_jobs(found: Results) -> rich.table.Table:
    table = _table(["job", *found.keys, "status"], [found.monitor, "step", "seconds"])
    for row in found.rows:
        step = "-" if row.step is None else str(row.step)
        seconds = "-" if row.seconds is None else f"{row.seconds:.1f}"
        swept = [row.swept.get(key, "-") for key in found.keys]
        table.add_row(*_cells(str(row.job), *swept, row.status, _number(row.objective), step, seconds))
    return table


def _table_of_settings(found: Results) -> rich.table.Table:
    keys = [key for key in found.keys if key not in found.repeats]
    left_out = any(setting.left_out for setting in found.settings)
    table = _table(keys, ["n", f"mean {found.monitor}", "std"])
    if left_out:
        table.add_column("left out", overflow="fold")
    for setting in found.settings:
        swept = [setting.swept.get(key, "-") for key in keys]
        values = [str(len(setting.values)), _number(setting.mean), _number(setting.std)]
        table.add_row(*_cells(*swept, *values, *([setting.left_out] if left_out else [])))
    return table


def _table(texts: list[str], numbers: list[str]) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for name in _cells(*texts):
        table.add_column(name, overflow="fold")
    for name in _cells(*numbers):
        table.add_column(name, justify="right")
    return table


def _cells(*texts: str) -> list[Text]:
    """Returns printable texts in which brackets are not markup."""
    return [Text(shown(text)) for text in texts]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
