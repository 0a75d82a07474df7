"""Makes the learning-rate schedule that a configuration describes, with the steps of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from looplab.config import Config
from looplab.data import epoch_length
from looplab.experiment import instantiate
from looplab.experiment.datasets import steps_per_epoch
from looplab.interval import Interval


def rates(config: Config, data: Mapping[str, Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns a function that gives an optimizer its schedule, which runs as long as training."""
    if not config.schedule:
        return lambda section: {}
    per_epoch = steps_per_epoch(config, data)
    if per_epoch is None and "train" in data:
        per_epoch = epoch_length(data["train"], config.data.batch_size)
    total = config.steps or (config.epochs * per_epoch if config.epochs and per_epoch else None)

    def schedule(optimizer: dict[str, Any]) -> dict[str, Any]:
        section = _completed(config.schedule, total, per_epoch, optimizer.get("learning_rate", 0.001))
        kind = keras.optimizers.schedules.LearningRateSchedule
        return {"learning_rate": instantiate.make(section, "schedule", kind)}

    return schedule


def _completed(
    section: Mapping[str, Any], total: int | None, per_epoch: int | None, rate: Any, key: str = "schedule"
) -> dict[str, Any]:
    """Returns the section of a schedule with steps for intervals, and with the arguments that follow."""

    def steps(value: Any, name: str) -> int:
        interval = Interval.parse(value, what=f"{key}.{name}")
        return interval.next_step(0, per_epoch or 1, lambda _: None)

    found = dict(section)
    for name, value in section.items():
        if isinstance(value, dict) and "_target_" in value:
            found[name] = _completed(value, total, per_epoch, rate, f"{key}.{name}")
        elif name.endswith("_steps") and value:  # "2ep" is as valid as a number of steps
            found[name] = steps(value, name)
        elif name == "boundaries":
            found[name] = [steps(each, name) for each in value]
    supplied = {
        "total_steps": total,
        "decay_steps": total,
        "learning_rate": rate,
        "initial_learning_rate": rate,
    }
    taken = instantiate.parameters(section["_target_"], f"{key}._target_")
    own = {name: value for name, value in supplied.items() if name in taken and found.get(name) is None}
    return found | own
