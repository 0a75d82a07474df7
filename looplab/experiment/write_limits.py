"""What looplab's and Keras' own classes may write when a configuration, perhaps somebody else's, names them.

A class or a function of the project may write where it likes: the person wrote it. Whatever else takes a path
that it writes to is held inside the run directory, or inside the working directory where it is kept for
several runs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import keras

from looplab import callbacks, loggers
from looplab.config import Config
from looplab.config.components import CALLBACK, Slot
from looplab.config.components import slots as all_slots
from looplab.data import records, tfds
from looplab.errors import Problem, Refused, as_written
from looplab.experiment import instantiate
from looplab.loggers import csv_table
from looplab.options.paths import is_within, leads_out

# Keras' callbacks, and the argument of each that says where it writes.
PATHS = {
    keras.callbacks.CSVLogger: "filename",
    keras.callbacks.ModelCheckpoint: "filepath",
    keras.callbacks.OrbaxCheckpoint: "directory",
    keras.callbacks.TensorBoard: "log_dir",
}
_PLACEHOLDER = re.compile(r"\{\w+(:\d*(\.\d+)?[defg]?)?\}")  # others can spell any path, "..", for one
LOGGERS = (loggers.Csv, loggers.History, loggers.MLflow, loggers.WandB)  # the others a run has by itself
CALLBACKS = tuple(getattr(callbacks, name) for name in callbacks.__all__)
_SERVERS = ("databricks", "databricks-uc", "http", "https", "mssql", "mysql", "postgresql", "uc")
_DATABASES = (".db", ".sqlite", ".sqlite3")
_WANDB = ("entity", "group", "job_type", "mode", "name", "notes", "project", "tags")
_HERE = "the working directory"


def check(config: Config, run_dir: Path | None) -> None:
    """Refuses, before anything is made, what would write elsewhere, or send what it sees to any host.

    Args:
        config: Whose targets `instantiate.check` has passed.
        run_dir: Where the run is recorded; None where nothing is.

    Raises:
        Refused: For all of it.
    """
    problems: list[Problem] = []
    for slot in all_slots(config):
        if isinstance(slot, Slot):
            problems += _problems(instantiate.locate(slot.target, f"{slot.key}._target_"), slot, run_dir)
    if problems:
        raise Refused(problems)


def placed(section: Mapping[str, Any], key: str, run_dir: Path | None) -> dict[str, Any]:
    """Returns the section of a callback with its files in `<run_dir>/callbacks/`.

    Args:
        section: One that `check` has passed.
        key: Where it stands, for messages.
        run_dir: Where the run is recorded; None leaves paths as they are.
    """
    found = instantiate.locate(section["_target_"], f"{key}._target_")
    if run_dir is None or found not in PATHS:
        return dict(section)
    name = PATHS[found]
    return {**section, name: str(run_dir / "callbacks" / _path(found, name, section))}


def _path(found: Any, name: str, section: Mapping[str, Any]) -> str:
    return str(section.get(name, inspect.signature(found).parameters[name].default))


def _problems(found: Any, slot: Slot, run_dir: Path | None) -> Iterator[Problem]:
    if found is keras.callbacks.RemoteMonitor:
        unfit = (
            "keras.callbacks.RemoteMonitor sends what it sees to whatever host a configuration says. Give it "
            "to the trainer in Python, or write a class of your own."
        )
        yield Problem(f"{slot.key}._target_", unfit)
    if _is_internal(found, slot):
        unfit = f"{slot.target} is what a run has by itself; a configuration does not make another."
        yield Problem(f"{slot.key}._target_", unfit)
    if found in PATHS:
        name = PATHS[found]
        if why := _of_callback(_path(found, name, slot.given), run_dir):
            yield Problem(f"{slot.key}.{name}", why)
    elif found in _RULES:
        yield from _RULES[found](slot, run_dir)


def _is_internal(found: Any, slot: Slot) -> bool:
    """Whether it is a class that looplab makes for its runs, with paths of its own."""
    public = {CALLBACK: CALLBACKS, "looplab.Logger": LOGGERS}.get(slot.kind)
    module = str(getattr(found, "__module__", ""))
    own = module.startswith("looplab.") and not module.startswith("looplab.examples.")
    return public is not None and own and found not in public


def _of_callback(given: str, run_dir: Path | None) -> str | None:
    plain = _PLACEHOLDER.sub("x", given)
    why = leads_out(plain)
    if set("{}") & set(plain):
        why = f"{given!r} may lead out of the run directory"
    if why is None and run_dir is not None:
        # A placeholder may stand for any name: nothing in the folder may be a way out.
        folder = run_dir / "callbacks"
        links = [path for path in (folder, *folder.rglob("*")) if path.is_symlink()]
        if out := next((link for link in links if not is_within(link, run_dir)), None):
            why = f"{out} is a symbolic link that leads out of the run directory"
    return f"{why}. Give a plain path; it is taken in callbacks/." if why else None


def _of_csv(slot: Slot, run_dir: Path | None) -> Iterator[Problem]:
    if why := csv_table.refusal(slot.given.get("filename", csv_table.FILENAME), run_dir):
        yield Problem(f"{slot.key}.filename", why)


def _of_mlflow(slot: Slot, run_dir: Path | None) -> Iterator[Problem]:
    uri = slot.given.get("tracking_uri")
    if uri is None or uri == "databricks":
        return
    scheme, separator, rest = str(uri).partition("://")
    kind = scheme.partition("+")[0].lower()
    if separator and rest and kind in _SERVERS:
        return
    database = bool(separator) and kind == "sqlite" and rest.startswith("/")
    path = rest[1:] if database else str(uri)
    why = None if set(path).isdisjoint(":?#") else f"{as_written(uri)} is none of these"
    why = why or leads_out(path, Path.cwd(), _HERE)
    if not why and database and PurePath(path).suffix not in _DATABASES:
        why = f"{path!r} ends in none of {', '.join(_DATABASES)}"
    if why:
        message = (
            f"{why}. Of a configuration it is a server (http://...), a folder, or a database such as "
            f"sqlite:///mlflow.db, both in {_HERE}; another comes from MLFLOW_TRACKING_URI."
        )
        yield Problem(f"{slot.key}.tracking_uri", message)


def _of_wandb(slot: Slot, run_dir: Path | None) -> Iterator[Problem]:
    for name in slot.given:
        if name not in _WANDB:
            why = (
                f"a configuration gives looplab.loggers.WandB only {', '.join(_WANDB)}: others say where "
                "files are written, or to whom they are sent. Give it to the logger in Python, or set it in "
                "W&B's own environment variables."
            )
            yield Problem(f"{slot.key}.{name}", why)


def _of_records(slot: Slot, run_dir: Path | None) -> Iterator[Problem]:
    yield from _kept_here(slot, "index_dir")


def _of_tfds(slot: Slot, run_dir: Path | None) -> Iterator[Problem]:
    if slot.given.get("download"):
        yield from _kept_here(slot, "data_dir")


def _kept_here(slot: Slot, name: str) -> Iterator[Problem]:
    """Refuses a folder that would be written to outside of the working directory."""
    given = slot.given.get(name)
    if given is None:
        return
    if not isinstance(given, str) or "://" in given or not is_within(Path(given), Path.cwd()):
        why = (
            f"{as_written(given)} is not in {_HERE} ({Path.cwd()}), and a configuration has nothing written "
            f"elsewhere. Give a folder in it, or call {slot.target} in a function of your own."
        )
        yield Problem(f"{slot.key}.{name}", why)


_RULES: dict[Any, Callable[[Slot, Path | None], Iterator[Problem]]] = {
    loggers.Csv: _of_csv,
    loggers.MLflow: _of_mlflow,
    loggers.WandB: _of_wandb,
    records: _of_records,
    tfds: _of_tfds,
}
