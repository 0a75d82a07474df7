"""What was measured of a step on this machine, in a cache on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from looplab import devices
from looplab.compat import patches
from looplab.errors import DamagedFile
from looplab.execution.autotune_trials import Trial
from looplab.execution.graph_operations import digest
from looplab.runs import sealed
from looplab.runs.shapes import amount, fields, items, optional, text

_log = logging.getLogger("looplab")

_TRIAL = {"mode": text, "microseconds": optional(amount), "seconds": amount, "why_not": text}
_CONTENT = fields({"trials": items(fields(_TRIAL, closed=True)), "needed": amount}, closed=True)


def key_of(graph: tf.Graph, *facts: Any) -> str:
    """Returns what identifies a step on this machine: its operations without their names, versions, devices.

    Args:
        graph: A trace of it.
        *facts: What else decides how fast it is; anything whose `str` is the same in every process.
    """
    accelerators = [device for device in tf.config.list_physical_devices() if device.device_type != "CPU"]
    machine = [
        (platform.machine(), _processor(), os.cpu_count(), tf.config.list_physical_devices()),
        [sorted(tf.config.experimental.get_device_details(device).items()) for device in accelerators],
        [os.environ.get(name, "") for name in ("XLA_FLAGS", "TF_XLA_FLAGS")],
        devices.facts(),
        *patches.lines(),
    ]
    whole = digest(graph), tf.__version__, keras.__version__, *machine, *map(str, facts)
    return hashlib.sha256(repr(whole).encode()).hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())


class Known(NamedTuple):
    """What was measured of a step.

    Attributes:
        trials: The first is of the loop in the graph; none of ways that were not tried.
        needed: The seconds that one of those may take.
    """

    trials: list[Trial]
    needed: float


def remembered(key: str | None) -> Known | None:
    """Returns what is in the cache; None where nothing is, or it cannot be read."""
    if key is None:
        return None
    try:
        content = sealed.read_json(_file(key), _CONTENT)
    except DamagedFile as error:
        _log.info("what was measured of this step is measured anew: %s", error)
        return None
    if content is None or not content["trials"]:
        return None
    return Known([Trial(**trial) for trial in content["trials"]], float(content["needed"]))


def remember(key: str | None, trials: Sequence[Trial], needed: float) -> None:
    """Writes what was measured; a cache that cannot be written costs time and nothing else."""
    if key is None:
        return
    path = _file(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        content = {"trials": [asdict(trial) for trial in trials], "needed": needed}
        temporary.write_text(sealed.json_text(content), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        _log.debug("what was measured is not remembered: %s", error)


def _file(key: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "looplab" / "execution" / f"{key}.json"
