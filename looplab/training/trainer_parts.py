"""The parts of a trainer, for `looplab.testing`, which creates it again and runs its steps separately."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from looplab.training.engine.engine import Engine
from looplab.training.preparation import Preparation
from looplab.training.step_methods import StepMethods


class Repeatable:
    """Remembers its constructor's arguments, so that it can be created again with other options.

    It is a base class, so that the signature of a trainer stays that of its constructor.
    """

    _made_by: partial[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remembers the arguments."""
        made = super().__new__(cls)
        made._made_by = partial(cls, *args, **kwargs)
        return made


@dataclass(frozen=True)
class TrainerParts:
    """The parts of a trainer.

    Attributes:
        engine: Its models, optimizers, variables and compiled loops.
        preparation: Makes feeds and plans; holds its callbacks, run directory and first weights.
        made_by: Creates it again.
    """

    engine: Engine
    preparation: Preparation
    made_by: partial[Any]


def parts_of(trainer: StepMethods) -> TrainerParts:
    """Returns the parts of a `looplab.Trainer`."""
    held: Any = trainer
    return TrainerParts(held._engine, held._preparation, held._made_by)
