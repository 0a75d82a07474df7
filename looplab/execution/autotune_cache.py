"""The cache on disk of the measurements of a step on this machine."""

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
    """Returns the key of a step on this machine: its operations without their names, versions, devices.

    Args:
        graph: A trace of the step.
        *facts: Other facts that affect its speed; any objects whose `str` is the same in every process.
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
    """The measurements of a step.

    Attributes:
        trials: The first trial is of the loop in the graph; modes that were not tried are absent.
        needed: The seconds that such a mode may take.
    """

    trials: list[Trial]
    needed: float


def remembered(key: str | None) -> Known | None:
    """Returns the cached measurements; None if there are none, or they cannot be read."""
    if key is None:
        return None
    try:
        content = sealed.read_json(_file(key), _CONTENT)
    except DamagedFile as error:
        _log.info("looplab measures this step again: %s", error)
        return None
    if content is None or not content["trials"]:
        return None
    return Known([Trial(**trial) for trial in content["trials"]], float(content["needed"]))


def remember(key: str | None, trials: Sequence[Trial], needed: float) -> None:
    """Writes measurements; if the cache cannot be written, a later run only measures again."""
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
        _log.debug("the measurements cannot be cached: %s", error)


def _file(key: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "looplab" / "execution" / f"{key}.json"
