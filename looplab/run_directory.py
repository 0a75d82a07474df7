"""The run directory's files that are not logs or checkpoints: environment and outcome."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

_PACKAGES = ("looplab", "tensorflow", "keras", "numpy", "hydra-core", "tensorboard")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2, sort_keys=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def write_environment(run_dir: Path, **facts: Any) -> None:
    """Writes `environment.json`: versions, host, git state, and the facts the trainer knows.

    Args:
        run_dir: The run directory.
        **facts: Devices, strategy, precision, execution mode, seed, in JSON's types.
    """
    environment = {
        "versions": {"python": platform.python_version(), **_versions()},
        "host": {
            "name": platform.node(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "pid": os.getpid(),
        },
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": _git(Path.cwd()),
        **facts,
    }
    write_json(run_dir / "environment.json", environment)


def write_outcome(run_dir: Path, outcome: dict[str, Any]) -> None:
    """Writes `outcome.json`, the last file of a run."""
    write_json(run_dir / "outcome.json", outcome)


def read_outcome(run_dir: Path) -> dict[str, Any] | None:
    """Returns what `outcome.json` says, or None where the run has not ended (or was killed)."""
    try:
        content = json.loads((run_dir / "outcome.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # a checkout that is used without being installed
    return found


def _git(where: Path) -> dict[str, Any] | None:
    """Returns commit and whether files differ from it, or None outside of a git work tree."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=where, capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no").splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed_files": [line[3:] for line in changed]}
