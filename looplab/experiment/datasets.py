"""Makes the data of a configuration by split, and the arguments of `fit` for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from looplab import devices
from looplab.config import Config
from looplab.data import (
    Source,
    Validation,
    as_source,
    build_feed,
    epoch_length,
    first_batches,
    hold_out,
    split_and_weigh,
    training_table,
    with_classes,
    within_a_pass,
)
from looplab.data.adapters import is_registered
from looplab.errors import ConfigurationError, Problem, Refused, nearest
from looplab.experiment import instantiate, write_limits
from looplab.protocols import Feed
from looplab.strategy import precision as dtypes

_log = logging.getLogger("looplab")

_SLIPS = {  # other common names of splits
    "train": ("training", "Train", "train_set", "train_data"),
    "validation": ("val", "valid", "validate", "Validation", "validation_set", "validation_data"),
}


def feeds(config: Config) -> dict[str, Feed]:
    """Returns the data that a configuration describes, by split, as a run reads it.

    Args:
        config: From `looplab.config.check`.

    Raises:
        Refused: If sections name something that does not fit their slots.
        ConfigurationError: If only the trainer makes data.
        DataError: If data cannot be read.
    """
    instantiate.check(config)
    write_limits.check(config, None)
    config = write_limits.placed(config, None)
    devices.configure(**vars(config.devices))
    with dtypes.scope(config.precision.policy):
        data = limited(config, data_of(config))
        if not data:
            raise ConfigurationError(
                "data.source is null: the trainer makes its own batches; use looplab.check to look at them."
            )
        per_epoch = steps_per_epoch(config, data)
        found = {}
        for split, own in data.items():
            train = split == "train"
            given = Validation(own) if train else validation_set(config, split, own)
            source = as_source(given.data)
            found[split] = build_feed(
                source,
                batch_size=config.data.batch_size if train or not source.batched else None,
                shuffle=train and config.data.shuffle,
                seed=config.seed,
                steps_per_epoch=per_epoch if train else given.steps,
            )
        return found


def arguments(config: Config, data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `fit`, for the data that `build` returned."""
    sets = {split: validation_set(config, split, own) for split, own in data.items() if split != "train"}
    return {
        "x": data.get("train"),
        "validation_data": sets or None,
        "batch_size": config.data.batch_size if "train" in data else None,
        "shuffle": config.data.shuffle,
        "class_weight": config.data.class_weight,
        **_length(config, data),
    }


def validation_set(config: Config, split: str, own: Any) -> Validation:
    """Returns a validation set with its interval and its number of batches.

    A mapping that names the set comes first, then the source's own `looplab.Validation`, then a value for all
    sets.

    Args:
        config: From `looplab.config.check`.
        split: The name of the set.
        own: The set in the source: data, or a `looplab.Validation`.
    """
    freq, steps = config.data.validation_freq, config.data.validation_steps
    if not isinstance(own, Validation):
        every = Validation.every if isinstance(freq, dict) else freq
        own = Validation(own, every, None if isinstance(steps, dict) else steps)
    by_set = {"every": freq, "steps": steps}
    named = {
        field: value[split] for field, value in by_set.items() if isinstance(value, dict) and split in value
    }
    return replace(own, **named)


def _refuse_unknown_sets(config: Config, data: Mapping[str, Any]) -> None:
    """Refuses names of validation sets that do not exist in the data."""
    sets = [split for split in data if split != "train"]
    if config.data.validation == "train" and "validation" not in sets:
        sets.append("validation")
    there_are = f"there are {', '.join(sets)}" if sets else "it has none"
    problems = [
        Problem(
            f"data.{key}.{name}",
            f"the data has no validation set {name!r}; {there_are}." + nearest(name, sets),
        )
        for key, value in (
            ("validation_freq", config.data.validation_freq),
            ("validation_steps", config.data.validation_steps),
        )
        for name in (value if isinstance(value, dict) else ())
        if name not in sets
    ]
    if problems:
        raise Refused(problems)


def _length(config: Config, data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `fit` for the length of training."""
    per_epoch, epochs, steps = _asked(config, data), config.epochs, config.steps
    most = config.data.limit_epochs
    if most is not None:
        if config.data.limit:  # an epoch is one pass over the limited data
            per_epoch = None if "train" in data else config.data.limit
        length = steps_per_epoch(config, data) if per_epoch else None
        length = length or epoch_length(data["train"], config.data.batch_size)
        if steps is None or length is None:
            epochs, steps = min(epochs or most, most), None
        else:
            steps = min(steps, most * length)
    return {"steps_per_epoch": per_epoch, "epochs": epochs, "steps": steps}


def steps_per_epoch(config: Config, data: Mapping[str, Any]) -> int | None:
    """Returns the steps of an epoch, if they are not one pass over the data."""
    asked = _asked(config, data)
    if asked is None or "train" not in data:
        return asked
    return within_a_pass(asked, as_source(data["train"]), config.data.batch_size)


def _asked(config: Config, data: Mapping[str, Any]) -> int | None:
    """Returns the configured steps; for the endless `make_batch` it may be the limit."""
    asked: int | None = config.data.steps_per_epoch
    return asked if asked or "train" in data else config.data.limit


def data_of(config: Config) -> Mapping[str, Any]:
    """Returns the data of the source by split; empty if the trainer makes its own."""
    data = _of_source(config) if config.data.source is not None else {}
    if config.data.validation_split and data:
        train, held_out = split_and_weigh(
            data["train"], data.get("validation"), config.data.validation_split, None
        )
        data = {**data, "train": train, "validation": held_out}
    if config.data.folds is not None and data:
        data = _folded(data, config.data.folds, config.data.fold or 0)
    _refuse_unknown_sets(config, data)
    return data


def _folded(data: Mapping[str, Any], folds: int, fold: int) -> Mapping[str, Any]:
    """Returns the data with one fold of the training examples as the validation set."""
    train, held_out = hold_out(data["train"], folds, fold)
    own = data.get("validation")
    if own is not None:
        _log.info("data.folds: the fold replaces the validation set of the source")
    # The number of batches belongs to the set that is replaced; the interval of evaluations stays.
    validation = Validation(held_out, own.every) if isinstance(own, Validation) else held_out
    return {**data, "train": train, "validation": validation}


def _of_source(config: Config) -> Mapping[str, Any]:
    target = config.data.source["_target_"]
    source = with_classes(config.data.source, training_table(config.data.source))
    data = instantiate.make(source, "data.source")
    has_splits = isinstance(data, Mapping) and "train" in data
    if isinstance(data, Source | tuple) or (not has_splits and is_registered(data)):
        data = {"train": data}
    if isinstance(data, Mapping):
        _refuse_slips(data, target)
    if not isinstance(data, Mapping) or "train" not in data:
        raise ConfigurationError(
            f"data.source: {target} returned {_kind(data)}; expected a dict with 'train' and optionally "
            "'validation', or training data alone."
        )
    return {split: _exchanged(own, _once) for split, own in data.items()}


def _once(data: Any) -> Any:
    """Returns data whose length can be found before it is read: a generator object becomes one source."""
    return as_source(data) if isinstance(data, Iterator) else data


def _refuse_slips(data: Mapping[str, Any], target: str) -> None:
    """Refuses other common names of a split; as a separate set the data would mean something else."""
    for split in data:
        meant = next((name for name, slips in _SLIPS.items() if split in slips and name not in data), None)
        if meant or split == "val":  # its monitors would have the names of those of `validation`
            raise ConfigurationError(
                f"data.source: {target} returned the split {split!r}; name it {meant or 'validation'!r}."
            )


def _kind(data: Any) -> str:
    return f"the splits {list(data)}" if isinstance(data, Mapping) else type(data).__name__


def limited(config: Config, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the data under the configured limits."""
    if limit := config.data.limit:
        data = {split: _exchanged(own, partial(_first, config, limit)) for split, own in data.items()}
    if config.data.validation == "train" and len(data) > 1:
        data = {"train": data["train"], "validation": data["train"]}
    if config.data.validation == "none":
        data = {split: own for split, own in data.items() if split == "train"}
    return data


def _first(config: Config, limit: int, data: Any) -> Source:
    """Returns the first batches of data; `steps_per_epoch` repeats them, as `debug=overfit` needs."""
    found = first_batches(data, limit, config.data.batch_size)
    found.repeats = True
    return found


def _exchanged(own: Any, change: Callable[[Any], Any]) -> Any:
    """Returns changed data; in a `Validation`, only its data is changed."""
    return replace(own, data=change(own.data)) if isinstance(own, Validation) else change(own)
