"""The weights that evaluation and prediction use: live, averaged or restored ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from looplab import optimization
from looplab.checkpoint.weights import Given


class EvaluationWeights:
    """The averages of weights, and weights that were restored without the rest of a checkpoint.

    Attributes:
        are_restored: Whether weights were restored in this way.
    """

    def __init__(
        self, models: Mapping[str, keras.Model], optimizers: Mapping[str, keras.optimizers.Optimizer]
    ) -> None:
        """Starts without restored weights.

        Args:
            models: The models by name.
            optimizers: The optimizers by name; those that average their weights keep the averages.
        """
        self._models, self._optimizers = models, optimizers
        self._restored: Given | None = None

    @property
    def are_restored(self) -> bool:
        """Whether weights were restored, without the rest of a run."""
        return self._restored is not None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Replaces weights by their averages within the block, if there are any."""
        with optimization.exchanged(self.averages()):
            yield

    def averages(self) -> optimization.Averages:
        """Returns the averages of weights, from optimizers or from a restored checkpoint; may be empty."""
        live = optimization.averages_of(self._optimizers.values())
        if live or self._restored is None:
            return live
        return self._restored.averages()

    def restore(self, weights: Given, owner: Any) -> None:
        """Gives models and the owner's attributes their restored weights, when they are built.

        Args:
            weights: The weights of a checkpoint, or the first weights of a run.
            owner: The object whose attributes may hold further variables.

        Raises:
            CheckpointError: If an object that is already built does not fit.
        """
        weights.give(self._models, owner)
        self._restored = weights
        restored = {id(variable): average for variable, average in weights.averages()}
        for variable, average in optimization.averages_of(self._optimizers.values()):
            average.assign(restored.get(id(variable), variable))

    def give(self, owner: Any) -> None:
        """Gives restored weights, if there are any, to objects that have been built since."""
        if self._restored is not None:
            self._restored.give(self._models, owner)

    def lines(self) -> list[tuple[str, str]]:
        """Returns the source of restored weights, as lines of `(label, text)`."""
        return self._restored.lines() if self._restored is not None else []
