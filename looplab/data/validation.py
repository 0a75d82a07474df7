"""A validation set with its own interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from looplab.errors import ConfigurationError
from looplab.interval import Interval
from looplab.options import bounds
from looplab.options.names import check_name
from looplab.targets import configurable


@dataclass(frozen=True)
class Validation:
    """A validation set and its interval, for `fit(validation_data={"name": Validation(...)})`.

    Attributes:
        data: Data of any kind that `fit` accepts.
        every: The interval between evaluations, such as `"1ep"` or `"500st"`, with another one at the end of
            training. An integer n has the meaning of Keras' `validation_freq`: each n-th epoch only.
        steps: The number of batches of an evaluation, always the first ones; None for all.
        batch_size: Examples of a global batch of arrays; None for the value of the training data.
    """

    data: Any
    every: str | int = "1ep"
    steps: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            ConfigurationError: If a number is out of its range.
        """
        if self.steps is not None:
            bounds.whole("validation_steps", self.steps, bounds.COUNT)
        if self.batch_size is not None:
            bounds.whole("batch_size", self.batch_size, bounds.BATCH_SIZE)

    @property
    def interval(self) -> Interval:
        """`every` as an interval.

        Raises:
            ConfigurationError: If it is not an interval of steps, epochs or examples.
        """
        what = "validation_freq"
        every = f"{self.every}ep" if isinstance(self.every, int) else self.every
        interval = Interval.parse(every, what=what)
        if interval.wall_clock:
            raise ConfigurationError(
                f"{what}: {interval} is wall-clock time, but evaluations must be reproducible. Use steps, "
                "epochs or examples."
            )
        return interval


def validation_sets(data: Any, every: str | int, steps: int | None) -> dict[str, Validation]:
    """Returns the sets of `validation_data` by name.

    Args:
        data: None, the data of one set, which gets the name `"validation"`, or `Validation`s by name.
        every: The interval, if there is only one set.
        steps: Batches of an evaluation, if there is only one set.

    Raises:
        ConfigurationError: If a name is not valid, or a setting for one set is given for several.
    """
    if isinstance(every, Mapping) or isinstance(steps, Mapping):
        raise _for_one_set()
    if data is None:
        return {}
    if isinstance(data, Validation):
        return {"validation": data}
    if isinstance(data, dict) and data and all(isinstance(own, tuple) for own in data.values()):
        raise ConfigurationError(
            "validation_data: a dict of tuples means inputs. Give several sets as looplab.Validation "
            f"objects by name, such as {{{next(iter(data))!r}: looplab.Validation(...)}}."
        )
    if not isinstance(data, dict) or not any(isinstance(own, Validation) for own in data.values()):
        return {"validation": Validation(data, every, steps)}
    for name, own in data.items():
        if not isinstance(own, Validation):
            raise ConfigurationError(
                f"validation_data[{name!r}]: expected a looplab.Validation like the others, got "
                f"{type(own).__name__}."
            )
        check_name("validation_data", name)
        if name in ("train", "val") or not name.replace("_", "").isalnum():
            raise ConfigurationError(
                f"validation_data: {name!r} is not a valid name: it may have only letters, digits and "
                "underscores, and must not be 'train' or 'val'."
            )
    if every != 1 or steps is not None:
        raise _for_one_set()
    return dict(data)


def _for_one_set() -> ConfigurationError:
    return ConfigurationError(
        "validation_freq and validation_steps are for one set. With several sets, use "
        "looplab.Validation(every=..., steps=...) for each."
    )


@configurable
def splits(train: Any, **others: Any) -> dict[str, Any]:
    """Returns data sets by name, in the form that `data.source` needs.

    Args:
        train: Training data of any kind that `fit` accepts.
        **others: Validation sets by name, such as `validation`. None leaves a set out.
    """
    return {"train": train, **{name: data for name, data in others.items() if data is not None}}
