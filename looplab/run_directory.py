"""The run directory's files that are not logs or checkpoints: configuration, environment, outcome."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from looplab.errors import ConfigurationError, LooplabError

_SECRET = re.compile(r"(.*[_-])?(password|passwd|secret|token|api_?key|access_?key|private_?key)", re.I)
_PACKAGES = ("looplab", "tensorflow", "keras", "numpy", "hydra-core", "tensorboard")


def holds_run(run_dir: Path) -> bool:
    """Whether someone has trained there."""
    return any((run_dir / name).exists() for name in ("metrics.jsonl", "checkpoints"))


def refuse_run(run_dir: Path) -> None:
    """Keeps `resume=never` from a directory that holds a run.

    Raises:
        ConfigurationError: If it does.
    """
    if holds_run(run_dir):
        raise ConfigurationError(
            f"resume=never, but {run_dir} holds a run. Choose another run_dir, or resume=auto to continue it."
        )


def write_text(path: Path, content: str) -> None:
    """Writes a file so that a reader sees the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON as `write_text` does."""
    write_text(path, json.dumps(content, indent=2, sort_keys=False) + "\n")


def redacted(content: Any) -> Any:
    """Returns nested dicts and lists with `***` for every text under a key such as `api_key`.

    An interpolation (`${oc.env:API_KEY}`) says only where the secret is, and stays.
    """
    if isinstance(content, list):
        return [redacted(item) for item in content]
    if not isinstance(content, dict):
        return content
    return {
        key: "***"
        if _SECRET.fullmatch(str(key)) and isinstance(item, str) and not item.startswith("${")
        else redacted(item)
        for key, item in content.items()
    }


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
        "command": [Path(sys.argv[0]).name, *map(_redacted_word, sys.argv[1:])],
        "git": _git(Path.cwd()),
        **facts,
    }
    write_json(run_dir / "environment.json", environment)


def ending(error: BaseException | None, reason: str | None = None) -> dict[str, Any]:
    """Returns status, exit code and reason of a run that ended by an exception, or without one.

    Args:
        error: The exception, or None.
        reason: Without an exception: why it ended before its last step, if it did.
    """
    if error is None:
        status, code = "stopped" if reason else "finished", 0
    elif isinstance(error, LooplabError):
        status, code, reason = error.status, error.exit_code, str(error)
    elif isinstance(error, KeyboardInterrupt):
        status, code, reason = "interrupted", 130, "aborted by a second Ctrl-C"
    else:
        status, code, reason = "failed", 1, f"{type(error).__name__}: {error}"
    return {"status": status, "exit_code": code, "reason": reason}


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


def _redacted_word(word: str) -> str:
    key, equals, value = word.partition("=")
    last = key.lstrip("+").split(".")[-1]
    return f"{key}{equals}{redacted({last: value})[last]}" if equals else word


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # a checkout that is used without being installed
    return found


def _git(where: Path) -> dict[str, Any] | None:
    """Returns the commit and the files that differ from it, or None outside of a git work tree."""

    def git(*words: str) -> bytes:
        return subprocess.run(["git", *words], cwd=where, capture_output=True, timeout=10, check=True).stdout

    try:
        commit = git("rev-parse", "HEAD").decode().strip()
        changed = git("diff", "HEAD", "--name-only", "-z").split(b"\0")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed_files": [os.fsdecode(name) for name in changed if name]}
