"""What a callback of Keras may do when a configuration, perhaps somebody else's, names it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import keras

from looplab.errors import Problem, Refused

# The argument of each that says where it writes.
_PATHS = {
    keras.callbacks.CSVLogger: "filename",
    keras.callbacks.ModelCheckpoint: "filepath",
    keras.callbacks.OrbaxCheckpoint: "directory",
    keras.callbacks.TensorBoard: "log_dir",
}
_PLACEHOLDER = re.compile(r"\{\w+(:\d*(\.\d+)?[defg]?)?\}")  # others can spell any path, "..", for one


def confined(found: Any, section: Mapping[str, Any], key: str, run_dir: Path | None) -> dict[str, Any]:
    """Returns a callback's section with its files in `<run_dir>/callbacks/`.

    Args:
        found: What the section's `_target_` names. Classes of the project may write where they like.
        section: With `_target_`.
        key: Where it stands, for messages.
        run_dir: Where the run is recorded; None leaves paths as they are.

    Raises:
        Refused: If it would write elsewhere, or send what it sees to a host.
    """
    if found is keras.callbacks.RemoteMonitor:
        why = (
            "keras.callbacks.RemoteMonitor sends what it sees to whatever host a configuration says. Give it "
            "to the trainer in Python, or write a class of your own."
        )
        raise Refused([Problem(f"{key}._target_", why)])
    if found not in _PATHS:
        return dict(section)
    name = _PATHS[found]
    given = str(section.get(name, inspect.signature(found).parameters[name].default))
    plain = _PLACEHOLDER.sub("", given)
    kinds = PurePosixPath(plain), PureWindowsPath(plain)
    if any(path.is_absolute() or path.drive or ".." in path.parts for path in kinds) or set("{}~") & set(
        plain
    ):
        why = f"{given!r} may lead out of the run directory. Give a plain path; it is taken in callbacks/."
        raise Refused([Problem(f"{key}.{name}", why)])
    return {**section, name: str(run_dir / "callbacks" / given) if run_dir else given}
