"""Excludes test code and scripts of a project from configurations, since they often start programs.

A configuration names what makes models and data. A helper that starts any given process is right in a test,
but it would let a configuration from elsewhere run anything.
"""

from __future__ import annotations

import os
import tomllib
from functools import cache
from pathlib import Path

_TESTS = {"test", "tests"}  # names of folders and modules at any depth
_SCRIPTS = {"benchmarks", "docs", "scripts"}  # folders at the top of a project
_TOOLS = {"conftest", "noxfile", "setup"}  # modules that tools run


def set_aside(place: str | Path | None) -> str | None:
    """Returns why no configuration may name anything in a file of test code or scripts, with the remedy.

    It depends on the file's place in its project, or in a clone of looplab, not on the name that leads to it.

    Args:
        place: A module's file, or the folder of a package; None if there is none.

    Returns:
        The rest of a sentence whose subject is what is in the file; None for other files.
    """
    if place is None or not Path(place).is_absolute():  # <string>, built-in
        return None
    path = Path(place).resolve()
    part = _of_project(path) or _of_looplab(path)
    if part is None:
        return None
    return (
        f"is in {part}: a configuration may not name test code and scripts, because they may start any "
        "program. Move the code that you need to another module of the project."
    )


def project_folders() -> list[Path]:
    """Returns the folders of research code: the working directory, and the folders in `PYTHONPATH`."""
    own = [Path.cwd(), *map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))]
    return [folder.resolve() for folder in own]


def _of_project(path: Path) -> str | None:
    """Returns the part of a file's path in its project that makes it test code or a script."""
    for folder in project_folders():
        if path.is_relative_to(folder):
            inside = path.relative_to(folder)
            # A folder in PYTHONPATH may itself be a folder of tests; the working directory may have any name.
            return _part(inside if folder == Path.cwd().resolve() else folder.name / inside)
    return None


def _part(inside: Path) -> str | None:
    """Returns the part of a path that makes it test code or a script."""
    *folders, last = (part.lower() for part in inside.parts)
    name = last.removesuffix(".py")
    if name == last:  # the folder of a package
        folders.append(last)
    elif name in _TOOLS | _TESTS or name.startswith("test_") or name.endswith("_test"):
        return last
    if folders and folders[0] in _SCRIPTS:
        return f"{folders[0]}/"
    return next((f"{folder}/" for folder in folders if folder in _TESTS), None)


def _of_looplab(path: Path) -> str | None:
    """Returns the folder in a clone of looplab to which a file belongs, if it is beside the package."""
    for folder in path.parents:
        if _is_looplab(folder):
            inside = path.relative_to(folder).parts[0]
            return f"{inside}/ of looplab" if inside in _TESTS | _SCRIPTS else None
    return None


@cache
def _is_looplab(folder: Path) -> bool:
    try:
        content = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    project = content.get("project")
    return isinstance(project, dict) and project.get("name") == "looplab"
