"""Manages the run directory's files except logs and checkpoints: configuration, environment, outcome."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from looplab.errors import ConfigurationError, DamagedFile, EndRequested, LooplabError, StorageError
from looplab.runs import cause, fsync, sealed
from looplab.runs.shapes import EVALUATION, Shape, amount, anything, fields, optional, text, whole
from looplab.secret import redacted_word

_log = logging.getLogger("looplab")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DATED = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")
_ENVIRONMENT = "environment.json"
_CHOICE = optional(fields({}, {"mode": optional(text), "key": optional(text)}))
_FACTS = fields({}, {"execution": fields({}, {"choice": _CHOICE})})  # entries that are read again
_OUTCOME = fields(
    {"status": text, "exit_code": whole, "reason": optional(text)},
    {
        "step": optional(whole),
        "epoch": optional(whole),
        "best": optional(EVALUATION),
        "last_checkpoint": optional(text),
        "seconds": amount,
    },
)
_PACKAGES = ("looplab", "tensorflow", "keras", "numpy", "hydra-core", "tensorboard")


def holds_run(run_dir: Path) -> bool:
    """Returns whether a directory holds a run."""
    return any((run_dir / name).exists() for name in ("metrics.jsonl", "checkpoints"))


def choose(run_dir: str | None, resume: str, experiment: str, runs: Path = Path("runs")) -> Path:
    """Returns the run directory for a configuration; creates nothing.

    Args:
        run_dir: The configured directory, or None for a new one of the experiment.
        resume: `auto`, `latest` or `never`.
        experiment: The experiment's name.
        runs: The folder of all runs.

    Raises:
        ConfigurationError: If the experiment's name cannot be a folder's name, the directory cannot be a
            folder, or it holds a run and `resume` is `never`.
        StorageError: If the file system cannot be reached.
    """
    if run_dir is not None:
        chosen = Path(run_dir).expanduser()
        try:
            there = next(path for path in (chosen, *chosen.parents) if path.exists())
        except OSError as error:
            raise StorageError(f"run_dir: {chosen} cannot be reached: {error.strerror or error}.") from None
        if not there.is_dir():
            raise ConfigurationError(f"run_dir: {chosen} cannot be a folder, because {there} is a file.")
        if resume == "never":
            refuse_run(chosen)
        return chosen
    folder = experiment_folder(experiment, runs)
    if resume == "latest" and (earlier := of_experiment(folder)):
        return earlier[0]
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    names = [stamp, *(f"{stamp}_{number}" for number in range(1, 1000))]
    return next(folder / name for name in names if not (folder / name).exists())


def experiment_folder(experiment: str, runs: Path = Path("runs")) -> Path:
    """Returns the folder of an experiment's runs and sweeps; creates nothing.

    Raises:
        ConfigurationError: If the experiment's name cannot be a folder's name.
    """
    if not _NAME.fullmatch(experiment):
        raise ConfigurationError(
            f"experiment: {experiment!r} cannot name a folder; give run_dir=..., or use letters, "
            "digits, '.', '_' and '-'."
        )
    return runs / experiment


def of_experiment(folder: Path) -> list[Path]:
    """Returns the dated directories with runs in a folder, the newest first."""
    runs = [path for path in folder.glob("*") if _DATED.match(path.name) and holds_run(path)]
    # A second run within one second gets the suffix _1, the eleventh _10.
    return sorted(runs, key=lambda path: (path.name[:19], len(path.name), path.name), reverse=True)


def refuse_run(run_dir: Path) -> None:
    """Refuses a directory that holds a run, for `resume=never`.

    Raises:
        ConfigurationError: If it holds a run.
    """
    if holds_run(run_dir):
        raise ConfigurationError(
            f"resume=never, but {run_dir} holds a run. Choose another run_dir, or resume=auto to continue it."
        )


def write_text(path: Path, content: str) -> None:
    """Writes a file so that a reader sees either the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Writes JSON for other programs, safely like `write_text`."""
    write_text(path, json.dumps(content, indent=2, sort_keys=False) + "\n")


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON that looplab reads again, with a digest of itself, safely like `write_text`."""
    write_text(path, sealed.json_text(content))


def read_json(path: Path, shape: Shape = anything) -> dict[str, Any] | None:
    """Returns the object that `write_sealed` has written, or None if there is no file.

    A damaged file counts as no file, and a warning is logged.
    """
    try:
        return sealed.read_json(path, shape)
    except DamagedFile as error:
        _log.warning("%s looplab ignores the file.", error)
        return None


def write_environment(run_dir: Path, **facts: Any) -> None:
    """Writes `environment.json`: versions, host, git state, and the facts that the trainer knows.

    The file is on the disk before the first update: the way steps run must not change while no checkpoint has
    recorded it.

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
        "command": [Path(sys.argv[0]).name, *map(redacted_word, sys.argv[1:])],
        "git": _git(Path.cwd()),
        **facts,
    }
    write_sealed(run_dir / _ENVIRONMENT, environment)
    fsync.sync(run_dir / _ENVIRONMENT)
    fsync.sync(run_dir)


def earlier_choice(run_dir: Path) -> dict[str, Any]:
    """Returns how the last start in a directory chose to run steps; empty if it is not known."""
    environment = read_json(run_dir / _ENVIRONMENT, _FACTS) or {}
    return (environment.get("execution") or {}).get("choice") or {}


def ending(error: BaseException | None, reason: str | None = None) -> dict[str, Any]:
    """Returns status, exit code and reason of a run that ended, with or without an exception.

    Args:
        error: The exception, or None.
        reason: Without an exception: the reason if the run ended before its last step.
    """
    if error is None:
        status, code = "stopped" if reason else "finished", 0
    elif isinstance(own := cause.origin(error), LooplabError | EndRequested):
        status, code, reason = own.status, own.exit_code, str(own)
    elif isinstance(error, KeyboardInterrupt):
        status, code, reason = "interrupted", 130, "aborted by a second Ctrl-C"
    else:
        notes = [note for each in (error, own) for note in getattr(each, "__notes__", [])]
        status, code, reason = "failed", 1, cause.of(error).text(*dict.fromkeys(notes))
    return {"status": status, "exit_code": code, "reason": reason}


def write_outcome(run_dir: Path, outcome: dict[str, Any]) -> None:
    """Writes `outcome.json`, the last file of a run."""
    write_sealed(run_dir / "outcome.json", outcome)


@contextmanager
def attempted(path: Path) -> Iterator[None]:
    """Only logs a failure to write a file, so that it does not hide the reason why the run ends."""
    try:
        yield
    except OSError as error:
        _log.warning("%s could not be written: %s", path, error.strerror or error)


def outcome_of(run_dir: Path, error: BaseException) -> dict[str, Any]:
    """Returns the outcome of a start that an error ends, whether or not it was written.

    Args:
        run_dir: The directory of the run; its `outcome.json` may belong to an earlier start.
        error: The error that ended this start.
    """
    ended, written = ending(error), read_outcome(run_dir) or {}
    if all(written.get(name) == value for name, value in ended.items()):
        return written
    return {**ended, "step": None, "last_checkpoint": _last_checkpoint(run_dir)}


def _last_checkpoint(run_dir: Path) -> str | None:
    return max((path.name for path in (run_dir / "checkpoints").glob("step-*")), default=None)


def write_abandoned(run_dir: Path, reason: str, code: int) -> dict[str, Any]:
    """Writes and returns the outcome of a run that can no longer save; the caller ends the run."""
    last = _last_checkpoint(run_dir)
    status = {130: "interrupted", 143: "terminated"}.get(code, "failed")
    reason = f"{reason}; it saved nothing more: the last checkpoint is {last or 'none'}"
    outcome = {"status": status, "exit_code": code, "reason": reason, "step": None, "last_checkpoint": last}
    with attempted(run_dir / "outcome.json"):
        write_outcome(run_dir, outcome)
    return outcome


def read_outcome(run_dir: Path) -> dict[str, Any] | None:
    """Returns the content of `outcome.json`, or None if the run has not ended (or was killed)."""
    return read_json(run_dir / "outcome.json", _OUTCOME)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # a checkout that is used without an installation
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
