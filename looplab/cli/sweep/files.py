"""Reads the files that a sweep writes beside its jobs' runs, and checks them before they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from looplab.config.hydra_values import OF_A_JOB
from looplab.runs.directory import read_json
from looplab.runs.sealed import read_json as checked
from looplab.runs.shapes import fields, items, optional, text, whole

_SWEEP = fields({"words": items(text), "fixed": items(text), "jobs": optional(whole)})
_JOB = fields(
    {"words": items(text), "configuration": text, "exit_code": optional(whole), "reason": optional(text)}
)


def sweep_facts(directory: Path) -> dict[str, Any]:
    """Returns the content of `sweep.json`; empty without a file, or, with a warning, if it is damaged."""
    return read_json(directory / "sweep.json", _SWEEP) or {"words": [], "fixed": [], "jobs": None}


def job_facts(folder: Path) -> dict[str, Any] | None:
    """Returns the content of `job.json`, or None if there is no file.

    Raises:
        DamagedFile: If its content is not what was written.
    """
    return checked(folder / OF_A_JOB, _JOB)
