"""The end of a sweep: its table, `results.csv`, and its exit code."""

from __future__ import annotations

import csv
import io
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.box
import rich.console
import rich.table

from looplab.checkpoint import Policy
from looplab.cli.sweep.begin import Sweep
from looplab.cli.sweep.files import job_facts, sweep_facts
from looplab.config import config_file
from looplab.errors import DamagedFile
from looplab.runs.directory import read_outcome, write_text

_WITHOUT_OUTCOME = {2: "refused", 130: "interrupted"}  # exit codes of runs that ended before training


@dataclass(frozen=True)
class Row:
    """What is known of a job.

    Attributes:
        job: Its number, which is its folder's name.
        swept: The values of its own words by their keys.
        status: That of its `outcome.json`, or `refused`, or `unfinished`.
        exit_code: Of its last process, or None while there is none.
        reason: Why it is not done.
        monitor: The name of the objective, or None.
        objective: The best value of that; None if there is none, or the job is not done.
        step: Its last step, or None.
        seconds: Of its last process, or None.
    """

    job: int
    swept: dict[str, str]
    status: str
    exit_code: int | None
    reason: str | None
    monitor: str | None
    objective: float | None
    step: int | None
    seconds: float | None


def end(sweep: Sweep, code: int) -> int:
    """Gives back what a sweep holds, and says what came of its jobs; see `looplab.cli.sweep.ended`."""
    sweep.lifeline.close()
    rows = _rows(sweep.directory)
    keys = list(dict.fromkeys(key for row in rows for key in row.swept))
    monitor, ranked = _ranked(sweep.directory, rows)
    write_text(sweep.directory / "results.csv", _csv(monitor, keys, ranked))
    if rows:
        _print(sweep.directory, monitor, keys, ranked)
    if sweep.lifeline.signal is not None:
        print("looplab: the sweep is not finished; the same command continues it", file=sys.stderr)
        return 128 + sweep.lifeline.signal
    return next((row.exit_code for row in rows if row.exit_code), code)


def _rows(directory: Path) -> list[Row]:
    fixed = sweep_facts(directory)["fixed"]
    folders = sorted(
        (path for path in directory.iterdir() if path.name.isdecimal()), key=lambda p: int(p.name)
    )
    return [_row(folder, job, fixed) for folder in folders if (job := _job(folder))]


def _job(folder: Path) -> dict[str, Any] | None:
    try:
        return job_facts(folder)
    except DamagedFile as error:
        return {"words": [], "exit_code": error.exit_code, "reason": str(error)}


def _row(folder: Path, job: dict[str, Any], fixed: list[str]) -> Row:
    pairs = [word.lstrip("+").partition("=") for word in job["words"]]
    code = job["exit_code"]
    outcome = read_outcome(folder) or {}
    if code is None:
        status = "unfinished"
    elif outcome.get("exit_code") == code:
        status = outcome["status"]
    else:
        status, outcome = _WITHOUT_OUTCOME.get(code, "failed"), {}
    best = outcome.get("best") if status in ("finished", "stopped") else None
    return Row(
        job=int(folder.name),
        swept={key: value for key, _, value in pairs if key not in fixed},
        status=status,
        exit_code=code,
        reason=job["reason"],
        monitor=best["monitor"] if best else None,
        objective=float(best["value"]) if best else None,
        step=outcome.get("step"),
        seconds=outcome.get("seconds"),
    )


def _ranked(directory: Path, rows: list[Row]) -> tuple[str, list[Row]]:
    """Returns the objective's name and the rows, best first; those without an objective come last."""
    done = [row for row in rows if row.objective is not None]
    if not done:
        return "objective", rows
    policy = Policy(monitor=str(done[0].monitor), mode=_mode(directory / str(done[0].job)))
    sign = -1 if policy.better(1.0, 0.0) else 1
    done.sort(key=lambda row: sign * (row.objective or 0.0))
    return policy.monitor, [*done, *(row for row in rows if row.objective is None)]


def _mode(job: Path) -> Any:
    """Returns which values of the objective are better, as a job's configuration says."""
    try:
        return config_file.read(job)["checkpoint"]["mode"]
    except (OSError, DamagedFile, LookupError, TypeError) as error:
        print(f"looplab: {error} The objective's name says which values are better.", file=sys.stderr)
        return "auto"


def _csv(monitor: str, keys: list[str], rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["job", *keys, "status", monitor, "step", "seconds", "exit_code", "reason"])
    for row in rows:
        swept = [row.swept.get(key) for key in keys]
        rest = [row.objective, row.step, row.seconds, row.exit_code, row.reason]
        writer.writerow([row.job, *swept, row.status, *rest])
    return text.getvalue()


def _print(directory: Path, monitor: str, keys: list[str], rows: list[Row]) -> None:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for name in ["job", *keys, "status"]:
        table.add_column(name, overflow="fold")
    for name in [monitor, "step", "seconds"]:
        table.add_column(name, justify="right")
    for row in rows:
        value = "-" if row.objective is None else f"{row.objective:.6g}"
        step = "-" if row.step is None else str(row.step)
        seconds = "-" if row.seconds is None else f"{row.seconds:.1f}"
        swept = [row.swept.get(key, "-") for key in keys]
        table.add_row(str(row.job), *swept, row.status, value, step, seconds)
    width = None if sys.stdout.isatty() else 120
    console = rich.console.Console(file=sys.stdout, width=width, highlight=False, markup=False)
    console.print(table)
    for row in sorted(rows, key=lambda row: row.job):
        if row.reason:
            print(f"job {row.job}: exit code {row.exit_code}: {row.reason}")
    print(f"sweep    {directory}\nwatch    tensorboard --logdir {shlex.quote(str(directory))}", flush=True)
