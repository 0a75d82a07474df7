"""Writes what a user or a program needs to know of a run that ended with an error: the cause comes first.

The report stays on the machine and contains no values of variables (tracebacks are without locals).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from looplab.errors import restart_helps, shown
from looplab.runs.directory import attempted, read_json, write_text
from looplab.runs.terminal import as_text

REPORT = "crash.md"
_LINES = 20


def write(run_dir: Path, error: BaseException, outcome: Mapping[str, Any]) -> None:
    """Writes `crash.md`; if that fails, only a warning is logged, and the original error continues.

    Args:
        run_dir: The directory of the run.
        error: The error that ended it.
        outcome: The content of `outcome.json`.
    """
    cause, *more = str(outcome["reason"]).splitlines() or [type(error).__name__]
    facts = {
        "when": datetime.now().isoformat(" ", "seconds"),
        "exit code": outcome["exit_code"],
        "step": outcome.get("step"),
        "last good checkpoint": outcome.get("last_checkpoint") or "none",
        "to continue": _advice(outcome),
    }
    environment = read_json(run_dir / "environment.json")
    sections = {
        "Full text": "\n".join([cause, *more]) if more else "",
        "Traceback": as_text(error)[0],
        "Last metrics": _tail(run_dir / "metrics.jsonl", 5),
        "Environment": json.dumps(environment or {}, indent=1),
        "Log": _tail(run_dir / "log.txt", _LINES),
    }
    head = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    body = "\n".join(
        f"## {name}\n\n```text\n{text.rstrip()}\n```\n" for name, text in sections.items() if text
    )
    with attempted(run_dir / REPORT):
        write_text(run_dir / REPORT, shown(f"# {cause}\n\n{head}\n\n{body}"))


def line(outcome: Mapping[str, Any]) -> str:
    """Returns the end of a run as one line of JSON, for the program that started it."""
    reason = str(outcome.get("reason") or "").splitlines()
    record = {
        "exit_code": outcome["exit_code"],
        "status": outcome["status"],
        "cause": reason[0] if reason else "",
        "rank": 0,
        "step": outcome.get("step"),
        "last_checkpoint": outcome.get("last_checkpoint"),
        "restart_helps": restart_helps(outcome["exit_code"]),
    }
    return json.dumps({"looplab": record})


def _advice(outcome: Mapping[str, Any]) -> str:
    if restart_helps(outcome["exit_code"]):
        return "the same command continues the run"
    if outcome.get("last_checkpoint"):
        return "after you fix the cause, the same command continues the run"
    return "after you fix the cause, the same command starts the run again"


def _tail(path: Path, count: int) -> str:
    try:
        with path.open(encoding="utf-8", errors="backslashreplace") as file:
            return "".join(deque(file, count))
    except OSError:
        return ""
