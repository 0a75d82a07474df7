"""Collects the results of a sweep's jobs, and the means of jobs that differ only in seed or fold."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from looplab.checkpoint import Policy
from looplab.cli.sweep.files import job_facts, sweep_facts
from looplab.config import config_file
from looplab.errors import DamagedFile
from looplab.runs.directory import read_outcome

REPEATS = ("seed", "data.fold")  # keys by which jobs repeat one setting
_DONE = ("finished", "stopped")  # statuses of runs with a final result
_WITHOUT_OUTCOME = {2: "refused", 130: "interrupted"}  # exit codes of runs that ended before training


@dataclass(frozen=True)
class Row:
    """The result of a job.

    Attributes:
        job: Its number, which is its folder's name.
        swept: The values of its swept keys.
        status: The status in its `outcome.json`, or `refused`, or `unfinished`.
        exit_code: The exit code of its last process, or None if there is none.
        reason: Why it is not done.
        monitor: The name of the objective, or None.
        objective: The best value of the objective; None if there is none, or the job is not done.
        step: Its last step, or None.
        seconds: The duration of its last process, or None.
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


@dataclass(frozen=True)
class Setting:
    """The jobs of a sweep that differ only in seed or fold.

    Attributes:
        swept: The values of all other swept keys.
        rows: The jobs.
    """

    swept: dict[str, str]
    rows: list[Row]

    @property
    def values(self) -> list[float]:
        """The objectives of the jobs that have one."""
        return [row.objective for row in self.rows if row.objective is not None]

    @property
    def mean(self) -> float | None:
        """The mean of `values`; None without values."""
        with np.errstate(all="ignore"):
            return float(np.mean(self.values)) if self.values else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation of `values` (divided by n - 1); None for fewer than two values."""
        with np.errstate(all="ignore"):
            return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    @property
    def left_out(self) -> str:
        """The jobs that are not among `values`, with their status, as a text; empty if there is none."""
        by_status: dict[str, list[str]] = {}
        for row in sorted(self.rows, key=lambda row: row.job):
            if row.objective is None:
                status = "without a value" if row.status in _DONE else row.status
                by_status.setdefault(status, []).append(str(row.job))
        return "; ".join(
            f"job{'s' * (len(jobs) > 1)} {', '.join(jobs)} {status}" for status, jobs in by_status.items()
        )


@dataclass(frozen=True)
class Results:
    """The results of a sweep.

    Attributes:
        monitor: The objective's name.
        rows: The jobs, best first; those without an objective come last.
        settings: The repeated settings, by the best mean; empty if neither seed nor fold is swept.
    """

    monitor: str
    rows: list[Row]
    settings: list[Setting]

    @property
    def keys(self) -> list[str]:
        """The keys that are swept."""
        return list(dict.fromkeys(key for row in self.rows for key in row.swept))

    @property
    def repeats(self) -> list[str]:
        """The swept keys by which settings are repeated."""
        return [key for key in self.keys if key in REPEATS]

    def setting_of(self, row: Row) -> Setting | None:
        """Returns the setting of a job, if settings were repeated."""
        return next((setting for setting in self.settings if row in setting.rows), None)


def results(directory: Path) -> Results:
    """Reads the results of a sweep.

    Args:
        directory: The directory of the sweep.
    """
    monitor, sign, rows = _ranked(directory, _rows(directory))
    repeated = any(key in REPEATS for row in rows for key in row.swept)
    settings = list[Setting]()
    for row in rows if repeated else ():
        swept = {key: value for key, value in row.swept.items() if key not in REPEATS}
        same = next((setting for setting in settings if setting.swept == swept), None)
        if same is None:
            settings.append(Setting(swept, [row]))
        else:
            same.rows.append(row)
    settings.sort(key=lambda setting: (setting.mean is None, sign * (setting.mean or 0.0)))
    return Results(monitor, rows, settings)


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
    best = outcome.get("best") if status in _DONE else None
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


def _ranked(directory: Path, rows: list[Row]) -> tuple[str, int, list[Row]]:
    """Returns the objective's name, 1 or -1 if the lowest or highest is best, and the rows, best first."""
    done = [row for row in rows if row.objective is not None]
    if not done:
        return "objective", 1, rows
    policy = Policy(monitor=str(done[0].monitor), mode=_mode(directory / str(done[0].job)))
    sign = -1 if policy.better(1.0, 0.0) else 1
    done.sort(key=lambda row: sign * (row.objective or 0.0))
    return policy.monitor, sign, [*done, *(row for row in rows if row.objective is None)]


def _mode(job: Path) -> Any:
    """Returns whether the objective should fall or rise, from a job's configuration."""
    try:
        return config_file.read(job)["checkpoint"]["mode"]
    except (OSError, DamagedFile, LookupError, TypeError) as error:
        print(f"looplab: {error} The objective's name says which values are better.", file=sys.stderr)
        return "auto"
