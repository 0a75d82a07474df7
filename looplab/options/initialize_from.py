"""The settings for the initial weights of a new run; read and checked without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from looplab.errors import Problem, Refused, as_written, nearest
from looplab.options.paths import not_local

KEY = "initialize_from"
KERAS = (".weights.h5", ".keras")
SOURCES = (
    "the folder of a checkpoint (runs/mine/checkpoints/step-00000100), a run directory, or weights that "
    f"Keras saved ({', '.join(KERAS)})"
)


@dataclass(frozen=True)
class InitializeFrom:
    """The source of the initial weights of a new run, and the choice of weights from it.

    Names in this trainer are those of parameter groups and `Freeze`: paths, without the model's name if
    there is only one model (`encoder/conv/kernel`). A checkpoint of looplab has the same names. A Keras file
    has the names of layers and the number of the variable in its layer (`encoder/conv/0`).

    Attributes:
        path: The folder of a checkpoint, a run directory (its best checkpoint, or its last), or a Keras file,
            of which only the weights are read.
        map: Names here and their names in the source, `{"encoder": "autoencoder/encoder"}`: of a variable or
            a layer, with `*` for any part. The first name that matches counts; a variable without a match has
            the same name in the source. Variables of `setup` get a value only if the map names them
            (`"trainer/target/*"`).
        skip: Patterns of variables that keep their own initial value.
        partial: Patterns of variables that keep it if the source does not have them; True for all.
    """

    path: Path
    map: Mapping[str, str] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    partial: bool | tuple[str, ...] = False


def read(given: Any, run_dir: str | Path | None = None, *, exists: bool = True) -> InitializeFrom:
    """Reads and checks the value of `initialize_from`.

    Args:
        given: A path, or a mapping with the attributes of `InitializeFrom`.
        run_dir: The run directory; a run that resumes no longer needs the source.
        exists: Whether to check that the path exists.

    Raises:
        Refused: With everything that is wrong.
    """
    problems: list[Problem] = []
    if isinstance(given, str | Path):
        given = {"path": given}
    if not isinstance(given, Mapping):
        message = f"expected {SOURCES}, or a section with {_words()}; got {as_written(given)}."
        raise Refused([Problem(KEY, message)])
    known = [each.name for each in fields(InitializeFrom)]
    for name in [name for name in given if name not in known]:
        message = f"there is no such key in {KEY}; valid are {_words()}." + nearest(str(name), known)
        problems.append(Problem(f"{KEY}.{name}", message))
    path = _path(given.get("path"), exists and not _goes_on(run_dir), problems)
    renamed = _map(given.get("map"), problems)
    skip = _patterns(given.get("skip"), "skip", "a pattern or a list of patterns", problems)
    partial = given.get("partial") or False
    if partial is not True:
        partial = _patterns(partial, "partial", "true, a pattern or a list of patterns", problems)
    if problems:
        raise Refused(problems)
    return InitializeFrom(path, renamed, skip, partial)


def has_checkpoints(run_dir: Path) -> bool:
    """Returns whether a directory is a run with a checkpoint."""
    return any((run_dir / "checkpoints").glob("step-*"))


def is_checkpoint(path: Path) -> bool:
    """Returns whether a folder is one checkpoint."""
    return (path / "manifest.json").exists()


def _goes_on(run_dir: str | Path | None) -> bool:
    return run_dir is not None and has_checkpoints(Path(run_dir).expanduser())


def _path(given: Any, look: bool, problems: list[Problem]) -> Path:
    if not isinstance(given, str | Path) or not str(given):
        problems.append(Problem(f"{KEY}.path", f"expected {SOURCES}, got {as_written(given)}."))
        return Path()
    if why := not_local(given):
        problems.append(Problem(KEY, why))
        return Path()
    path = Path(given).expanduser()
    wrong = _wrong(path) if look else None
    if wrong:
        problems.append(Problem(KEY, wrong))
    return path


def _wrong(path: Path) -> str | None:
    """Returns why a path cannot be a source, or None."""
    if not path.exists():
        there = path.parent.is_dir()
        near = nearest(path.name, [each.name for each in path.parent.iterdir()]) if there else ""
        return f"{path} does not exist; expected {SOURCES}.{near}"
    if path.is_dir():
        if is_checkpoint(path) or has_checkpoints(path):
            return None
        if has_checkpoints(path.parent):
            return (
                f"{path} is not a single checkpoint: give the run directory, {path.parent}, or a folder in "
                "this one."
            )
        saved = (
            " looplab does not load a SavedModel, because it is a program."
            if (path / "saved_model.pb").exists()
            else ""
        )
        return f"{path} has no checkpoint; expected {SOURCES}.{saved}"
    if path.is_file() and path.name.endswith(KERAS):
        return None
    return f"{path} is not {SOURCES}. Keras saves weights by model.save_weights('mine.weights.h5')."


def _map(given: Any, problems: list[Problem]) -> dict[str, str]:
    if given is None:
        return {}
    key = f"{KEY}.map"
    if not isinstance(given, Mapping):
        problems.append(
            Problem(key, f"expected a mapping from names here to names there, got {as_written(given)}.")
        )
        return {}
    for here, there in given.items():
        if not isinstance(here, str) or not isinstance(there, str) or not here or not there:
            message = (
                f"expected a mapping from names here to names there, got {as_written(here)}: "
                f"{as_written(there)}."
            )
            problems.append(Problem(key, message))
        elif set("?[") & set(here + there):
            problems.append(Problem(key, f"{here!r}: {there!r}: a mapping supports * only."))
        elif there.count("*") > here.count("*"):
            message = f"{here!r}: {there!r}: the first name has no *, so the * of the second has no meaning."
            problems.append(Problem(key, message))
    return dict(given)


def _patterns(given: Any, name: str, expected: str, problems: list[Problem]) -> tuple[str, ...]:
    listed = [given] if isinstance(given, str) else given or []
    if not isinstance(listed, list | tuple) or not all(isinstance(each, str) and each for each in listed):
        problems.append(Problem(f"{KEY}.{name}", f"expected {expected}, got {as_written(given)}."))
        return ()
    return tuple(listed)


def _words() -> str:
    return ", ".join(each.name for each in fields(InitializeFrom))
