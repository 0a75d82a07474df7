"""Assigns the initial weights of a new run, after it has checked all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from looplab.checkpoint import state
from looplab.checkpoint.patterns import matches
from looplab.checkpoint.warm_start import keras_names
from looplab.checkpoint.warm_start.names import OWN, Pairs, listed, pair
from looplab.checkpoint.warm_start.sources import Source, opened, shortened
from looplab.checkpoint.warm_start.values import Value
from looplab.checkpoint.weights import SEED
from looplab.errors import CheckpointError, nearest
from looplab.options.initialize_from import KEY, InitializeFrom
from looplab.strategy import unwrapped

_SHOWN = 20  # the most variables in an error


class WarmStart:
    """Gives models their initial weights when they are built.

    A subclassed model has no variables before its first call, so some may get their values late. Seeds are
    not initialized.

    Attributes:
        source: The opened source (for a run, the folder of one checkpoint); before that, the path that the
            user gave.
    """

    def __init__(self, asked: InitializeFrom) -> None:
        """Stores the settings; opens nothing.

        Args:
            asked: The source, the names that differ in it, and which variables may go without a value.
        """
        self._asked, self.source = asked, asked.path
        self._given: dict[int, Any] = {}  # variables by id
        self._lines: list[tuple[str, str]] = []

    def give(self, models: Mapping[str, keras.Model], owner: Any) -> None:
        """Assigns values to the variables that were created since the last call.

        Args:
            models: Models by name.
            owner: The object whose attributes may hold variables of its own.

        Raises:
            CheckpointError: If a variable of the models needs a value and gets none, or a value does not fit;
                nothing is changed then.
            Refused: If a pattern matches nothing.
        """
        known = state.of_models(models)
        everything = {**known, **state.of_attributes(owner, known=known)}
        live = {shortened(p, len(models)): v for p, v in everything.items() if SEED not in p}
        fresh = {path for path, v in live.items() if id(unwrapped(v)) not in self._given}
        if all(path.startswith(OWN) for path in fresh):
            return
        with opened(self.source) as source:
            pairs = pair(self._asked, _names(live, models, source.known_by), source.names)
            self._check(pairs, live, fresh, source)
            chosen = {path: key for path, key in pairs.found.items() if path in fresh}
            values = {path: source.values[key] for path, key in chosen.items()}
            arrays = {
                f"{path}@replicas" if value.per_replica else path: value.read().astype(_dtype(live[path]))
                for path, value in values.items()
            }
        own = {path: live[path] for path in chosen}
        state.assign(own, state.regrouped(own, arrays), str(source.path))
        self._given |= {id(unwrapped(live[path])): live[path] for path in fresh}
        self.source = source.path  # later variables come from the same checkpoint
        self._lines = self._said(pairs, live, source)

    def averages(self) -> list[tuple[Any, np.ndarray]]:
        """Returns no averages of weights: those of a new run start at the weights."""
        return []

    def lines(self) -> list[tuple[str, str]]:
        """Returns the lines for the plan of the run, as `(label, text)`."""
        return self._lines

    def _check(self, pairs: Pairs, live: state.Variables, fresh: set[str], source: Source) -> None:
        """Refuses values that do not fit, and missing values that are required, all in one error."""
        wrong = [path for path, key in pairs.found.items() if not _fits(live[path], source.values[key])]
        allowed = self._asked.partial
        missing = [
            path
            for path in pairs.missing
            if allowed is not True and not any(matches(path, pattern) for pattern in allowed or ())
        ]
        good = len(pairs.found) - len(wrong)
        if pairs.found and not {*wrong, *missing} & fresh:
            return
        problems = [_mismatch(path, live[path], pairs.found[path], source) for path in wrong[:_SHOWN]]
        problems += [
            _missing(path, live[path], pairs.missing[path], source)
            for path in missing[: max(_SHOWN - len(problems), 0)]
        ]
        more = len(wrong) + len(missing) - len(problems)
        problems += [f"and {more} more"] if more else []
        if not pairs.found:
            problems.append(f"the names here are {listed(list(live))}")
            problems.append(f"the names there are {listed(list(source.names))}")
        raise CheckpointError(
            f"{KEY}: {source.path} gives {good} of {_count(pairs)} variables a value:\n  "
            + "\n  ".join(problems)
            + f"\nNothing was taken from it. {_remedy(wrong, missing, live)}"
        )

    def _said(self, pairs: Pairs, live: state.Variables, source: Source) -> list[tuple[str, str]]:
        looked_at = {*pairs.found.values(), *pairs.passed_over.values()}
        left = [name for name in source.values if name not in looked_at]
        unfit = {p: k for p, k in pairs.passed_over.items() if not _fits(live[p], source.values[k])}
        averaged = " (averages of weights, as its evaluations used them)" if source.averaged else ""
        said = {
            "first weights": f"{len(pairs.found)} of {_count(pairs)} variables are those of {source.path}"
            f"{averaged}; the optimizer, the step and metrics start anew",
            "mapped": "; ".join(f"{rule}: {number}" for rule, number in pairs.counts.items()),
            "skipped": _group(pairs.skipped, f"skip: {', '.join(dict.fromkeys(pairs.skipped.values()))}"),
            "mismatched": listed([_mismatch(p, live[p], k, source) for p, k in unfit.items()], "; "),
            "missing": _group(pairs.missing, "partial"),
            "not taken": _group(left, "there only"),
        }
        return [(label, text) for label, text in said.items() if text]


def refuse_parts(models: Mapping[str, keras.Model]) -> None:
    """Refuses models that are only partly built: their variables do not have their final names yet.

    Raises:
        CheckpointError: For the first such model.
    """
    for name, model in models.items():
        if model.variables and not all(layer.built for layer in model._flatten_layers()):
            raise CheckpointError(
                f"{KEY}: only some layers of the model {name!r} have been called, and its variables get "
                "their names only then. Call trainer.build(training data) first."
            )


def _count(pairs: Pairs) -> int:
    return len(pairs.found) + len(pairs.missing) + len(pairs.skipped)


def _group(names: Iterable[str], why: str) -> str:
    found = list(names)
    return f"{len(found)} ({why}): {listed(found)}" if found else ""


def _names(
    live: state.Variables, models: Mapping[str, keras.Model], known_by: str
) -> dict[str, tuple[str, ...]]:
    """Returns all names that each variable may have in the source, by its path; the usual one first."""
    if known_by == "path":
        return {path: (path,) for path in live}
    found: dict[int, list[str]] = {}
    for model, own in models.items():
        prefix = "" if len(models) == 1 else model
        for key, names in keras_names.of_model(own).items():
            found[key] = [keras_names.joined(prefix, name) for name in names]
    named = {}
    for path, variable in live.items():
        in_file = found.get(id(unwrapped(variable)), [])
        usual = in_file if known_by == "places" else in_file[::-1]
        # Also its path here with its number in the layer: a layer may be renamed, but not its variables.
        numbers = [name.rpartition("/")[2] for name in in_file[:1]]
        numbered = [keras_names.joined(path.rpartition("/")[0], number) for number in numbers]
        named[path] = (*usual, *numbered, path)
    return named


def _fits(variable: Any, value: Value) -> bool:
    dtype = _dtype(variable)
    return value.shape == tuple(variable.shape) and (
        value.dtype == dtype or (_is_float(value.dtype) and _is_float(dtype))
    )


def _dtype(variable: Any) -> np.dtype:
    return np.dtype(state.parts(variable)[0].dtype.as_numpy_dtype)


def _is_float(dtype: np.dtype) -> bool:
    return np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16"


def _mismatch(path: str, variable: Any, key: str, source: Source) -> str:
    value, dtype = source.values[key], _dtype(variable)
    of = "" if key == path else f" ({key})"
    kinds = ("", "") if _is_float(value.dtype) and _is_float(dtype) else (f"{value.dtype} ", f"{dtype} ")
    return f"{path}: {kinds[0]}{value.shape} there{of}, {kinds[1]}{tuple(variable.shape)} here"


def _missing(path: str, variable: Any, wanted: str, source: Source) -> str:
    near = nearest(wanted, source.names)
    shape = source.values[source.names[near.split("'")[1]]].shape if near else ""
    called = "" if wanted == path else f" with the name {wanted!r}"
    return f"{path}: {tuple(variable.shape)} here, nothing there{called}.{near} {shape}".rstrip()


def _remedy(wrong: list[str], missing: list[str], live: state.Variables) -> str:
    """Returns the settings that would allow it."""
    words = []
    if wrong:
        words.append(f"skip=[{listed(_layers(wrong, live))}] keeps the initial values of what does not fit")
    if missing:
        words.append(f"partial=[{listed(_layers(missing, live))}] (or true) allows what is missing there")
    if not wrong or missing:
        words.append("map={here: there} translates names that differ")
    return f"{KEY}.{f', {KEY}.'.join(words)}."


def _layers(paths: list[str], live: state.Variables) -> list[str]:
    """Returns the outermost layers that contain only these variables."""
    others = set(live) - set(paths)
    found = []
    for path in paths:
        parts = path.split("/")
        layers = ("/".join(parts[:count]) for count in range(1, len(parts)))
        alone = (layer for layer in layers if not any(other.startswith(f"{layer}/") for other in others))
        found.append(next(alone, path))
    return list(dict.fromkeys(found))
