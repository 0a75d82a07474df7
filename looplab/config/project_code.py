"""What of a project is not for configurations: test code and scripts, which start programs by their nature.

A configuration names what makes models and data. A helper that starts whatever process it is told to is right
in a test, and lets a configuration from elsewhere run anything.
"""

from __future__ import annotations

import os
import tomllib
from functools import cache
from pathlib import Path

_TESTS = {"test", "tests"}  # folders and modules at any depth
_SCRIPTS = {"benchmarks", "docs", "scripts"}  # folders at the top of a project
_TOOLS = {"conftest", "noxfile", "setup"}  # modules that tools run


def set_aside(place: str | Path | None) -> str | None:
    """Says of a file that it is test code or a script, which no configuration may name, and what to do.

    A file is judged by where it is in its project, or in a clone of looplab, whatever name leads to it.

    Args:
        place: A module's file, or the folder of a package; None where there is none.

    Returns:
        How a sentence about what is in the file goes on; None of other files.
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
    """Returns where research code is: the working directory, and the folders of `PYTHONPATH`."""
    own = [Path.cwd(), *map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))]
    return [folder.resolve() for folder in own]


def _of_project(path: Path) -> str | None:
    """Returns which part of a file's place in its project makes it test code or a script."""
    for folder in project_folders():
        if path.is_relative_to(folder):
            inside = path.relative_to(folder)
            # A folder that PYTHONPATH names may be one of tests itself; the working directory has any name.
            return _part(inside if folder == Path.cwd().resolve() else folder.name / inside)
    return None


def _part(inside: Path) -> str | None:
    """Returns which part of a path makes it test code or a script."""
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
    """Returns which folder of a clone of looplab a file is in, if it is one beside the package."""
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
