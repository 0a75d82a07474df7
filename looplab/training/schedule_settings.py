"""Lists the settings of a learning-rate schedule, so that a resumed run can compare them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab.schedule import OfUpdates

_LENGTHS = ("total_steps", "decay_steps")  # arguments that follow the length of the run
_NO_SETTING = ("dtype", "name")
_DIGITS = 7  # a number may have been rounded to float32

Settings = dict[str, Any]


def settings(schedule: Any) -> tuple[Settings, Settings]:
    """Returns the settings of a schedule, and apart those that follow the length of a run; in JSON's types.

    A number has none, and neither has a function that the user wrote.

    Args:
        schedule: A learning rate as the user gave it.
    """
    own, lengths = Settings(), Settings()
    for name, value in _all(schedule):
        (lengths if name.rpartition(".")[2] in _LENGTHS else own)[name] = value
    return own, lengths


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns a text on the lengths that differ; empty if none does."""
    return ", ".join(
        f"{name} {before[name]} -> {now[name]}"
        for name in sorted(before.keys() & now.keys())
        if before[name] != now[name]
    )


def _all(schedule: Any, within: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(schedule, OfUpdates):
        schedule = schedule.base
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        return
    yield within.rstrip("."), type(schedule).__name__
    for name, value in vars(schedule).items():
        if name.startswith("_") or name in _NO_SETTING or _is_cut(schedule, name):
            continue
        if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
            yield from _all(value, f"{within}{name}.")
            continue
        known, plain = _plain(value)
        if known:
            yield within + name, plain


def _is_cut(schedule: Any, name: str) -> bool:
    """Whether a setting is the length of a short run: `WarmupCosine` cuts a warm-up that is longer."""
    return name == "warmup_steps" and getattr(schedule, "total_steps", None) == schedule.warmup_steps + 1


def _plain(value: Any) -> tuple[bool, Any]:
    """Returns whether a value can be compared, and the value in JSON's types."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    elif isinstance(value, tf.Tensor) and hasattr(value, "numpy"):
        value = np.asarray(value.numpy()).tolist()
    if isinstance(value, list | tuple):
        parts = [_plain(part) for part in value]
        return all(known for known, _ in parts), [part for _, part in parts]
    if isinstance(value, float):
        return True, float(f"{value:.{_DIGITS}g}")
    return value is None or isinstance(value, bool | int | str), value
