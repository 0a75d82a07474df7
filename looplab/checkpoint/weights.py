"""Takes only the weights from a checkpoint, for evaluation and prediction."""

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
    """Weights from elsewhere: those of a checkpoint (`Weights`), or the initial ones of a run."""

    def give(self, models: Mapping[str, keras.Model], owner: Any) -> None:
        """Assigns values to all variables that were created since the last call."""

    def averages(self) -> list[tuple[Any, np.ndarray]]:
        """Returns the variables that have averages, each with its average."""

    def lines(self) -> list[tuple[str, str]]:
        """Returns the lines for the plan of the run, as `(label, text)`."""


def of(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of models and of a trainer's own attributes in a checkpoint, without seeds."""
    own = {path: array for path, array in arrays.items() if path.startswith(("models/", "trainer/"))}
    return {path: array for path, array in own.items() if SEED not in path}


def averages_in(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the averages in a checkpoint, by the path of the weight without `models/`."""
    averages = ((_AVERAGE.fullmatch(path), array) for path, array in arrays.items())
    return {found["weight"]: array for found, array in averages if found}


class Weights:
    """Values for models and a trainer's own attributes, assigned as soon as there is a variable for each.

    A subclassed model has no variables before its first call, so values may be assigned late. Seeds are not
    included: they belong to training, and to its number of replicas.
    """

    def __init__(self, source: Path, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes the weights from a checkpoint's arrays.

        Args:
            source: The checkpoint's folder, for messages.
            arrays: All arrays of the checkpoint, by path.
        """
        self._source = source
        self._waiting, self._averages = of(arrays), averages_in(arrays)
        self._given: state.Variables = {}

    def give(self, models: Mapping[str, keras.Model], owner: Any) -> None:
        """Assigns values to all variables that were created since the last call.

        Args:
            models: Models by name.
            owner: The object whose attributes may hold variables of its own.

        Raises:
            CheckpointError: If values do not fit a model, or a model is only partly built; nothing is changed
                then.
        """
        known = state.of_models(models)
        found = {**known, **state.of_attributes(owner, known=known, metrics=False)}
        live = {path: v for path, v in found.items() if path not in self._given and SEED not in path}
        built = tuple(f"models/{name}/" for name in models if _of(live, f"models/{name}/"))
        for name in models:
            self._refuse_part(name, models[name], live)
        # All variables of a built model must fit, and those attributes that exist.
        mine = {
            path: array
            for path, array in self._waiting.items()
            if path.startswith(built) or path.removesuffix("@replicas") in live
        }
        state.assign(live, state.regrouped(live, mine), str(self._source))
        self._given |= live
        self._waiting = {path: array for path, array in self._waiting.items() if path not in mine}

    def averages(self) -> list[tuple[Any, np.ndarray]]:
        """Returns the variables with an average of an optimizer (`use_ema`), each with its average.

        Only those that have got their values: other variables are not built yet.
        """
        named = ((self._given.get(f"models/{p}", self._given.get(p)), a) for p, a in self._averages.items())
        return [(variable, array) for variable, array in named if variable is not None]

    def lines(self) -> list[tuple[str, str]]:
        """Returns the lines for the plan of the run, as `(label, text)`."""
        return [("first weights", f"restored from {self._source}")]

    def _refuse_part(self, name: str, model: keras.Model, live: state.Variables) -> None:
        """Refuses a model that is only partly built: its variables do not have their final names yet."""
        here, saved = _of(live, f"models/{name}/"), _of(self._waiting, f"models/{name}/")
        if 0 < here < saved and not all(layer.built for layer in model._flatten_layers()):
            raise CheckpointError(
                f"{self._source} has {saved} variables of the model {name!r}, of which {here} are built "
                "here: not all its layers have been called. Call trainer.build(training data) first."
            )


def _of(paths: Mapping[str, Any], prefix: str) -> int:
    return sum(path.startswith(prefix) for path in paths)
