"""Trainers made again from what they were made of, sharing nothing with the first one."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from looplab.callbacks import Callback
from looplab.errors import ConfigurationError
from looplab.optimization.remake import another_model, another_optimizer, remade
from looplab.strategy import precision
from looplab.trainer import Trainer
from looplab.training.trainer_parts import parts_of


@dataclass(frozen=True)
class Remaking:
    """How a check makes its trainers.

    Attributes:
        check: The name of the check, for messages.
        data: What it takes beside the trainer, likewise.
        left_out: Arguments of the first trainer that the others are made without.
    """

    check: str
    data: str
    left_out: tuple[str, ...]

    def again(self, trainer: Trainer, changed: Mapping[str, Any] | None = None) -> Callable[..., Trainer]:
        """Returns what makes a trainer again with other options, from copies of what it was made of.

        Args:
            trainer: The first one.
            changed: Arguments that all others have instead of those of the first, where it was given them.
        """
        made_by = parts_of(trainer).made_by
        kept = {key: value for key, value in made_by.keywords.items() if key not in self.left_out}
        kept |= {key: value for key, value in (changed or {}).items() if key in kept}

        def remake(**options: Any) -> Trainer:
            arguments, given = self.fresh(made_by.args), self.fresh({**kept, **options})
            try:
                inspect.signature(made_by.func).bind(*arguments, **given)
            except TypeError as error:
                kind = type(trainer).__name__
                raise ConfigurationError(
                    f"{self.check}: {kind} cannot be made again with {', '.join(options)} ({error}). Let its "
                    "__init__ take **options and hand them on, or give a function: "
                    f"{self.check}(lambda **options: {kind}(...), {self.data})."
                ) from None
            with precision.scope(parts_of(trainer).engine.precision):  # perhaps Keras' global one of then
                made: Trainer = made_by.func(*arguments, **given)
            return made

        return remake

    def check_takes(self, make: Callable[..., Trainer], options: Mapping[str, Any], given: Any) -> None:
        """Refuses what cannot be called with some options.

        Raises:
            ConfigurationError: With what to give instead.
        """
        name = f"{type(given).__name__}(...)" if isinstance(given, Trainer) else "make_trainer"
        try:
            inspect.signature(make).bind(**options)
        except TypeError as error:
            keywords = ", ".join(f"{key}=" for key in options)
            raise ConfigurationError(
                f"{self.check}: {name} cannot be called with {keywords} ({error}). Give a function that "
                f"hands them on: {self.check}(lambda **options: Mine(..., **options), {self.data})."
            ) from None

    def fresh(self, value: Any) -> Any:
        """Returns an argument such that nothing is shared with the first one.

        Raises:
            ConfigurationError: If it is a model or a callback that cannot be copied.
        """
        match value:
            case keras.Model():
                return lambda: another_model(value, self.check)
            case keras.optimizers.Optimizer():
                return lambda: another_optimizer(value, self.check)  # also one that served the first trainer
            case keras.Metric():
                return remade(value, self.check)
            case Callback() | keras.callbacks.Callback():
                return self._another(value)
            case dict():
                return {key: self.fresh(item) for key, item in value.items()}
            case list() | tuple():
                return type(value)(map(self.fresh, value))
        return value

    def _another(self, callback: Any) -> Any:
        try:
            return copy.deepcopy(callback)
        except Exception as error:
            raise ConfigurationError(
                f"{self.check}: the callback {type(callback).__name__} cannot be copied ({error}). Give a "
                f"function that makes it with the trainer: {self.check}(lambda **options: "
                f"Mine(..., callbacks=[...], **options), {self.data})."
            ) from None
