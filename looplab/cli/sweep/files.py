"""What a sweep writes beside its jobs' runs, and reads again: checked before anything of it is used."""

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
    """Returns what `sweep.json` says; nothing where there is none, or it is damaged, which is said."""
    return read_json(directory / "sweep.json", _SWEEP) or {"words": [], "fixed": [], "jobs": None}


def job_facts(folder: Path) -> dict[str, Any] | None:
    """Returns what `job.json` says, or None where there is none.

    Raises:
        DamagedFile: If it is not what was written.
    """
    return checked(folder / OF_A_JOB, _JOB)
