"""What a trainer consists of, for `looplab.testing`, which makes it again and runs its steps apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from looplab.training.engine.engine import Engine
from looplab.training.preparation import Preparation
from looplab.training.step_methods import StepMethods


class Repeatable:
    """Remembers how it was made, so that it can be made again with other options.

    A base, so that the signature of a trainer stays that of its constructor.
    """

    _made_by: partial[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remembers the arguments."""
        made = super().__new__(cls)
        made._made_by = partial(cls, *args, **kwargs)
        return made


@dataclass(frozen=True)
class TrainerParts:
    """What a trainer consists of.

    Attributes:
        engine: Its models, optimizers, variables and compiled loops.
        preparation: Makes feeds and plans; knows its callbacks, run directory and first weights.
        made_by: Makes it again.
    """

    engine: Engine
    preparation: Preparation
    made_by: partial[Any]


def parts_of(trainer: StepMethods) -> TrainerParts:
    """Returns what a `looplab.Trainer` consists of."""
    held: Any = trainer
    return TrainerParts(held._engine, held._preparation, held._made_by)
