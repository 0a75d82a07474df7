"""Proves that a checkpoint restores the state that was saved, by the same restore as a restart."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from looplab.checkpoint import bundle, nested_arrays, state
from looplab.errors import CheckpointError

_log = logging.getLogger("looplab")


def read_back(
    path: Path,
    variables: state.Variables,
    arrays: Mapping[str, np.ndarray],
    values: Mapping[str, Any],
    restore: Callable[[dict[str, Any]], Mapping[str, Any]],
) -> None:
    """Restores a checkpoint from disk into the live state, which must stay the same.

    Args:
        path: The folder of a checkpoint that was just written.
        variables: The live state.
        arrays: The live state at the time of the save, from `state.read`.
        values: The values that were saved with it.
        restore: Restores the objects that the values describe, and returns their values afterwards.

    Raises:
        CheckpointError: If the checkpoint is damaged, does not fit, or restores anything else.
    """
    own, among_values = nested_arrays.split(bundle.read(path))
    state.assign(variables, own, str(path))
    after = state.read(variables)
    found = restore(nested_arrays.lower(bundle.read_manifest(path)["values"], among_values))
    changed = [name for name in sorted({*arrays, *after}) if _bits(arrays, name) != _bits(after, name)]
    changed += [name for name in sorted({*values, *found}) if _text(values, name) != _text(found, name)]
    if changed:
        raise CheckpointError(
            f"{path} does not restore what was saved; after a restore these differ: "
            f"{', '.join(changed)}. A run that continues from it would be another run."
        )
    _log.info("%s was read back: the same bits", path.name)


def _bits(arrays: Mapping[str, np.ndarray], name: str) -> tuple[Any, ...] | None:
    array = arrays.get(name)
    return None if array is None else (array.shape, array.dtype, array.tobytes())


def _text(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values.get(name), sort_keys=True, default=lambda array: str(_bits({"": array}, "")))
