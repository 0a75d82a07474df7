"""A validation set with a cadence of its own."""

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
    """What is evaluated, and how often; one of several in `fit(validation_data={"name": Validation(...)})`.

    Attributes:
        data: As the data of `fit`.
        every: The interval of training at which it is evaluated, such as `"1ep"` or `"500st"`, and at the
            end of training too. A whole number n is Keras' `validation_freq`: each n-th epoch, no other.
        steps: Batches of an evaluation, the first ones each time; None for all.
        batch_size: Examples of a global batch of arrays; that of the training data if None.
    """

    data: Any
    every: str | int = "1ep"
    steps: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            ConfigurationError: If one is out of its range.
        """
        if self.steps is not None:
            bounds.whole("validation_steps", self.steps, bounds.COUNT)
        if self.batch_size is not None:
            bounds.whole("batch_size", self.batch_size, bounds.BATCH_SIZE)

    @property
    def interval(self) -> Interval:
        """`every`, read.

        Raises:
            ConfigurationError: If it is no interval of steps, epochs or examples.
        """
        what = "validation_freq"
        every = f"{self.every}ep" if isinstance(self.every, int) else self.every
        interval = Interval.parse(every, what=what)
        if interval.wall_clock:
            raise ConfigurationError(
                f"{what}: {interval} is wall-clock time, and an evaluation must be reproducible. Use steps, "
                "epochs or examples."
            )
        return interval


def validation_sets(data: Any, every: str | int, steps: int | None) -> dict[str, Validation]:
    """Returns what was given as `validation_data` by name.

    Args:
        data: Nothing, the data of one set, which is called `"validation"`, or `Validation`s by name.
        every: How often, of the one set.
        steps: Batches of an evaluation, of the one set.

    Raises:
        ConfigurationError: If a name cannot be one, or what is for one set is given for several.
    """
    if isinstance(every, Mapping) or isinstance(steps, Mapping):
        raise _for_one_set()
    if data is None:
        return {}
    if isinstance(data, Validation):
        return {"validation": data}
    if isinstance(data, dict) and data and all(isinstance(own, tuple) for own in data.values()):
        raise ConfigurationError(
            f"validation_data: a dict is inputs; several sets are looplab.Validation objects by name, "
            f"such as {{{next(iter(data))!r}: looplab.Validation(...)}}."
        )
    if not isinstance(data, dict) or not any(isinstance(own, Validation) for own in data.values()):
        return {"validation": Validation(data, every, steps)}
    for name, own in data.items():
        if not isinstance(own, Validation):
            raise ConfigurationError(
                f"validation_data[{name!r}]: the others are looplab.Validation objects; make it one too."
            )
        check_name("validation_data", name)
        if name in ("train", "val") or not name.replace("_", "").isalnum():
            raise ConfigurationError(
                f"validation_data: the name {name!r} may hold letters, digits and underscores only, and be "
                "neither 'train' nor 'val'."
            )
    if every != 1 or steps is not None:
        raise _for_one_set()
    return dict(data)


def _for_one_set() -> ConfigurationError:
    return ConfigurationError(
        "validation_freq and validation_steps are for one set; say it in looplab.Validation(every=..., "
        "steps=...) of each."
    )


@configurable
def splits(train: Any, **others: Any) -> dict[str, Any]:
    """Returns sets of data by name, as a `data.source` has them.

    Args:
        train: Training data, as of `Trainer.fit`.
        **others: Validation sets by name: `validation`, or others beside it. None is left out.
    """
    return {"train": train, **{name: data for name, data in others.items() if data is not None}}
