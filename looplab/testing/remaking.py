"""Creates trainers again from their constructor's arguments, without shared objects."""

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
    """How a check creates its trainers.

    Attributes:
        check: The name of the check, for messages.
        data: The name of its argument for data, for messages.
        left_out: The arguments of the first trainer that the others do not get.
    """

    check: str
    data: str
    left_out: tuple[str, ...]

    def again(self, trainer: Trainer, changed: Mapping[str, Any] | None = None) -> Callable[..., Trainer]:
        """Returns a function that creates a trainer again with other options, from copies of its arguments.

        Args:
            trainer: The first trainer.
            changed: Arguments that replace those of the first trainer, if it was given them.
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
                    f"{self.check}: {kind} cannot be created again with {', '.join(options)} ({error}). Let "
                    f"its __init__ take **options and pass them on, or give a function: {self.check}(lambda "
                    f"**options: {kind}(...), {self.data})."
                ) from None
            with precision.scope(parts_of(trainer).engine.precision):  # it may have been Keras' global one
                made: Trainer = made_by.func(*arguments, **given)
            return made

        return remake

    def check_takes(self, make: Callable[..., Trainer], options: Mapping[str, Any], given: Any) -> None:
        """Refuses a function that cannot be called with some options.

        Raises:
            ConfigurationError: With the right form.
        """
        name = f"{type(given).__name__}(...)" if isinstance(given, Trainer) else "make_trainer"
        try:
            inspect.signature(make).bind(**options)
        except TypeError as error:
            keywords = ", ".join(f"{key}=" for key in options)
            raise ConfigurationError(
                f"{self.check}: {name} cannot be called with {keywords} ({error}). Give a function that "
                f"passes them on: {self.check}(lambda **options: Mine(..., **options), {self.data})."
            ) from None

    def fresh(self, value: Any) -> Any:
        """Returns an argument that shares nothing with the first trainer.

        Raises:
            ConfigurationError: If it is a model or a callback that cannot be copied.
        """
        match value:
            case keras.Model():
                return lambda: another_model(value, self.check)
            case keras.optimizers.Optimizer():
                return lambda: another_optimizer(value, self.check)  # even one that served the first trainer
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
                f"function that creates it with the trainer: {self.check}(lambda **options: "
                f"Mine(..., callbacks=[...], **options), {self.data})."
            ) from None
