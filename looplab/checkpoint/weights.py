"""The weights of a checkpoint without the rest: what evaluation and prediction use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from looplab.checkpoint import state
from looplab.errors import CheckpointError

SEED = "seed_generator_state"
_AVERAGE = re.compile(r"optimizers/[^/]+/(?P<weight>.+)/average")


class Given(Protocol):
    """Weights from elsewhere: those of a checkpoint, `Weights`, or the first ones of a run."""

    def give(self, models: Mapping[str, keras.Model], owner: Any) -> None:
        """Assigns values to all variables that have come to be since the last time."""

    def averages(self) -> list[tuple[Any, np.ndarray]]:
        """Returns the variables of which there are averages, each with its average."""

    def lines(self) -> list[tuple[str, str]]:
        """Returns what a person is told of it, as `(label, text)`."""


def of(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns what a checkpoint holds of models and of a trainer's own attributes, but for seeds."""
    own = {path: array for path, array in arrays.items() if path.startswith(("models/", "trainer/"))}
    return {path: array for path, array in own.items() if SEED not in path}


def averages_in(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the averages that a checkpoint holds, by weight: `models/` left out of its path."""
    averages = ((_AVERAGE.fullmatch(path), array) for path, array in arrays.items())
    return {found["weight"]: array for found, array in averages if found}


class Weights:
    """Values for models and a trainer's own attributes, each given when there is a variable for it.

    A subclassed model has no variables before its first call, so they may come late. Seeds are left out:
    they belong to training, and to its number of replicas.
    """

    def __init__(self, source: Path, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes from a checkpoint what it needs of it.

        Args:
            source: The checkpoint's folder, for messages.
            arrays: All that it holds, by path.
        """
        self._source = source
        self._waiting, self._averages = of(arrays), averages_in(arrays)
        self._given: state.Variables = {}

    def give(self, models: Mapping[str, keras.Model], owner: Any) -> None:
        """Assigns values to all variables that have come to be since the last time.

        Args:
            models: By name.
            owner: The object whose attributes may hold variables of its own.

        Raises:
            CheckpointError: If they do not fit a model, or only a part of a model is built; nothing is
                changed then.
        """
        known = state.of_models(models)
        found = {**known, **state.of_attributes(owner, known=known, metrics=False)}
        live = {path: v for path, v in found.items() if path not in self._given and SEED not in path}
        built = tuple(f"models/{name}/" for name in models if _of(live, f"models/{name}/"))
        for name in models:
            self._refuse_part(name, models[name], live)
        # Of a model that is built all must fit, of attributes those that there are.
        mine = {
            path: array
            for path, array in self._waiting.items()
            if path.startswith(built) or path.removesuffix("@replicas") in live
        }
        state.assign(live, state.regrouped(live, mine), str(self._source))
        self._given |= live
        self._waiting = {path: array for path, array in self._waiting.items() if path not in mine}

    def averages(self) -> list[tuple[Any, np.ndarray]]:
        """Returns the variables of which an optimizer kept averages (`use_ema`), each with its average.

        Of those that were given their values: others are not built yet.
        """
        named = ((self._given.get(f"models/{p}", self._given.get(p)), a) for p, a in self._averages.items())
        return [(variable, array) for variable, array in named if variable is not None]

    def lines(self) -> list[tuple[str, str]]:
        """Returns what a person is told of it, as `(label, text)`."""
        return [("first weights", f"restored from {self._source}")]

    def _refuse_part(self, name: str, model: keras.Model, live: state.Variables) -> None:
        """Refuses a model of which some layers are built: its variables have not their names yet."""
        here, saved = _of(live, f"models/{name}/"), _of(self._waiting, f"models/{name}/")
        if 0 < here < saved and not all(layer.built for layer in model._flatten_layers()):
            raise CheckpointError(
                f"{self._source} has {saved} variables of the model {name!r}, of which {here} are built "
                "here: not all its layers have been called. Call trainer.build(training data) first."
            )


def _of(paths: Mapping[str, Any], prefix: str) -> int:
    return sum(path.startswith(prefix) for path in paths)
