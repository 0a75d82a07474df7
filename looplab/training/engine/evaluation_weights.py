"""Which weights evaluation and prediction use: the live ones, averages, or restored ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from looplab import optimization
from looplab.checkpoint.weights import Given


class EvaluationWeights:
    """The averages of weights, and what was restored without the rest of a checkpoint.

    Attributes:
        are_restored: Whether weights were restored so.
    """

    def __init__(
        self, models: Mapping[str, keras.Model], optimizers: Mapping[str, keras.optimizers.Optimizer]
    ) -> None:
        """Knows of no restored weights.

        Args:
            models: By name.
            optimizers: By name; the ones that average their weights keep the averages.
        """
        self._models, self._optimizers = models, optimizers
        self._restored: Given | None = None

    @property
    def are_restored(self) -> bool:
        """Whether weights were restored, without the rest of a run."""
        return self._restored is not None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Puts averages in the place of the weights within the block, where there are some."""
        with optimization.exchanged(self.averages()):
            yield

    def averages(self) -> optimization.Averages:
        """Returns the averages of weights, those of optimizers or those that were restored; may be none."""
        live = optimization.averages_of(self._optimizers.values())
        if live or self._restored is None:
            return live
        return self._restored.averages()

    def restore(self, weights: Given, owner: Any) -> None:
        """Gives models and the owner's attributes what there is for them, when they are built.

        Args:
            weights: Of a checkpoint, or the first ones of a run.
            owner: The object whose attributes may hold variables of its own.

        Raises:
            CheckpointError: If what is built already does not fit.
        """
        weights.give(self._models, owner)
        self._restored = weights
        restored = {id(variable): average for variable, average in weights.averages()}
        for variable, average in optimization.averages_of(self._optimizers.values()):
            average.assign(restored.get(id(variable), variable))

    def give(self, owner: Any) -> None:
        """Gives restored weights, if there are some, to what has been built since."""
        if self._restored is not None:
            self._restored.give(self._models, owner)

    def lines(self) -> list[tuple[str, str]]:
        """Returns where weights come from that were restored, as `(label, text)`."""
        return self._restored.lines() if self._restored is not None else []
