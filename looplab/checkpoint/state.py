"""Enumerates everything that changes during training, by stable path.

The object tracking of TensorFlow and Keras silently omits some of it (seed generators, layers that a
subclassed model keeps in lists and dicts, metrics), so looplab enumerates it explicitly. Paths do not depend
on how many layers the process has named before: looplab renumbers Keras' automatic suffixes within each
object.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab.errors import CheckpointError, nearest
from looplab.strategy import unwrapped

Variables = dict[str, Any]  # path -> keras.Variable or tf.Variable

_LONGEST = 1000  # the most characters of a user's name; looplab's own parts of the path come on top
_SUFFIX = re.compile(r"_\d+$")
_OWN_VARIABLES = (keras.Model, keras.Layer, keras.Metric, keras.optimizers.Optimizer)


def stable_paths(variables: Iterable[Any], owner: str = "") -> list[str]:
    """Gives the variables of one object names that are the same in every process.

    Args:
        variables: `keras.Variable`s or `tf.Variable`s in their object's own order.
        owner: The object's name, which is removed from the start of a path.

    Returns:
        One unique path for each: `dense_7/kernel` becomes `dense/kernel` if that is the first dense layer
        of the model. If paths collide, the later ones end in `.1`, `.2` and so on.
    """
    given: dict[str, dict[str, str]] = {}  # parent -> name as Keras made it -> stable name
    used: set[str] = set()
    paths = []
    for variable in variables:
        path = ""
        for name in _path(variable).removeprefix(f"{owner}/").split("/"):
            siblings = given.setdefault(path, {})
            if name not in siblings:
                siblings[name] = unused(without_number(name), "_", siblings.values())
            path = f"{path}/{siblings[name]}" if path else siblings[name]
        path = unused(as_path(path), ".", used)
        used.add(path)
        paths.append(path)
    return paths


def as_path(name: str) -> str:
    """Returns a user's names, joined by `/`, as a path that a checkpoint may hold.

    Most names are valid paths. In others, each invalid character becomes `%` and its number; a name that is
    too long is cut, and ends in a digest of the whole name.
    """
    parts = ["%2e%2e" if part == ".." else part for part in name.split("/")]
    path = re.sub(r"[\0\ud800-\udfff]", lambda found: f"%{ord(found[0]):02x}", "/".join(parts))
    if path.startswith("/"):
        path = f"%2f{path[1:]}"
    if len(path) > _LONGEST:
        path = f"{path[: _LONGEST - 17]}~{hashlib.sha256(path.encode()).hexdigest()[:16]}"
    return path


def of_models(models: Mapping[str, keras.Model]) -> Variables:
    """Enumerates models: weights, moving statistics, and every seed generator inside."""
    return {
        f"models/{name}/{path}": variable
        for name, model in models.items()
        for path, variable in _inner(model)
    }


def of_optimizers(optimizers: Mapping[str, keras.optimizers.Optimizer], owners: Variables) -> Variables:
    """Enumerates optimizers; the name of a slot contains the variable to which it belongs.

    Args:
        optimizers: Built optimizers by name.
        owners: The variables that they may train, by path, from `of_models` and `of_attributes`.
    """
    named = {id(variable): path.removeprefix("models/") for path, variable in owners.items()}
    # `Optimizer.add_variable_from_reference` names a slot after its variable: dense_3_kernel_momentum for
    # dense_3/kernel.
    prefixes = {
        _path(variable).replace("/", "_") + "_": path.removeprefix("models/")
        for path, variable in owners.items()
        if path.startswith("models/")
    }
    found: Variables = {}
    for name, optimizer in optimizers.items():
        used: set[str] = set()
        averaged = _averaged(optimizer)
        for variable in optimizer.variables:
            slot = _path(variable).split("/")[-1]
            prefix = max((p for p in prefixes if slot.startswith(p)), key=len, default="")
            path = f"{prefixes[prefix]}/{slot[len(prefix) :]}" if prefix else slot
            weight = averaged.get(id(variable))
            if id(weight) in named:  # by identity: variables outside of models may share a name
                path = f"{named[id(weight)]}/average"
            path = unused(as_path(path), ".", used)
            used.add(path)
            found[f"optimizers/{name}/{path}"] = variable
    return found


def of_metrics(metrics: Mapping[str, keras.Metric]) -> Variables:
    """Enumerates metrics by the tag under which they are logged."""
    return {
        f"metrics/{tag}/{path}": variable
        for tag, metric in metrics.items()
        for path, variable in _inner(metric)
    }


def of_attributes(owner: Any, *, known: Variables, root: str = "trainer", metrics: bool = True) -> Variables:
    """Enumerates what a user's subclass keeps as attributes: variables, models, metrics, generators.

    It searches the instance's attributes, and the lists, tuples and dicts among them.

    Args:
        owner: The trainer, or a model that Keras does not track completely.
        known: Variables that already have a path; they get no second one.
        root: The prefix of the names of attributes.
        metrics: Whether to include the variables of metrics.
    """
    seen = {id(unwrapped(variable)) for variable in known.values()}
    found: Variables = {}
    for attribute, value in vars(owner).items():
        for path, variable in _walk(f"{root}/{attribute}", value, metrics):
            if id(unwrapped(variable)) not in seen:
                seen.add(id(unwrapped(variable)))
                found[unused(as_path(path), ".", found)] = variable  # the keys 1 and "1" differ
    return found


def shortened(variables: Variables) -> Variables:
    """Returns variables under the names that users write in patterns: the path within the model.

    With several models, the model's name is the first part: `encoder/dense/kernel`.
    """
    models = {path.split("/")[1] for path in variables if path.startswith("models/")}
    prefix = f"models/{models.pop()}/" if len(models) == 1 else "models/"
    return {path.removeprefix(prefix): variable for path, variable in variables.items()}


def read(variables: Variables) -> dict[str, np.ndarray]:
    """Returns the current values of all variables on the host.

    A variable whose replicas differ (sums that are reduced when read, seeds, local statistics) is stored as a
    whole under `path@replicas`, shape `[replicas, ...]`. Reading it through TensorFlow would return the
    first replica's value, or a sum that loses the rounding of its parts.

    On a CPU it copies nothing: an array is the memory of a variable's current value, and TensorFlow does not
    write to memory that others still use.
    """
    arrays: dict[str, np.ndarray] = {}
    for path, variable in variables.items():
        locals_ = [np.asarray(local.read_value()) for local in parts(variable)]
        if all(np.array_equal(locals_[0], other, equal_nan=True) for other in locals_[1:]):
            arrays[path] = locals_[0]
        else:
            arrays[f"{path}@replicas"] = np.stack(locals_)
    return arrays


def assign(variables: Variables, arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Sets every variable from `arrays`, after it has checked all of them.

    Args:
        variables: The live state by path.
        arrays: The result of `read`, by path.
        source: The origin of the arrays, for the message.

    Raises:
        CheckpointError: If a path is missing on either side, or a shape or dtype differs.
    """
    check(variables, arrays, source)
    saved = {path.removesuffix("@replicas"): path for path in arrays}
    for path, variable in variables.items():
        array = arrays[saved[path]]
        per_replica = saved[path].endswith("@replicas")
        for index, local in enumerate(parts(variable)):
            local.assign(array[index] if per_replica else array)


def check(variables: Variables, arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Refuses arrays that `assign` could not assign; the arguments are the same.

    Raises:
        CheckpointError: If a path is missing on either side, or a shape or dtype differs.
    """
    saved = {path.removesuffix("@replicas"): path for path in arrays}
    problems = _problems(variables, arrays, saved)
    if problems:
        fitting = len(set(variables) & set(saved))
        raise CheckpointError(
            f"{source} does not fit this trainer ({fitting} of {len(variables)} paths are in "
            "both):\n  " + "\n  ".join(problems) + "\nNothing was restored. Was the model, an "
            "optimizer, a metric or the number of replicas changed since? To start a new run, choose "
            "another run_dir."
        )


def regrouped(variables: Variables, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts values of each replica to another number of replicas, if they have a meaning there.

    A variable that aggregates a mean or a sum gets that value; any other variable gets the value of the first
    replica.

    Args:
        variables: The live state by path.
        arrays: The result of `read`, perhaps with another number of replicas.
    """
    fitting = {}
    for name, array in arrays.items():
        path = name.removesuffix("@replicas")
        if path == name or path not in variables or len(array) == (replicas := len(parts(variables[path]))):
            fitting[name] = array
            continue
        aggregation = unwrapped(variables[path]).aggregation
        if aggregation == tf.VariableAggregation.SUM:  # reading it gives the sum: the first replica holds all
            whole = array.sum(axis=0, dtype=array.dtype)
            shares = [whole, *[np.zeros_like(whole)] * (replicas - 1)]
            fitting[name if replicas > 1 else path] = np.stack(shares) if replicas > 1 else whole
        elif aggregation == tf.VariableAggregation.MEAN:
            fitting[path] = array.mean(axis=0).astype(array.dtype)
        else:
            fitting[path] = array[0]
    return fitting


def _problems(variables: Variables, arrays: Mapping[str, np.ndarray], saved: Mapping[str, str]) -> list[str]:
    problems = []
    for path in sorted(set(variables) - set(saved)):
        problems.append(f"missing in the checkpoint: {path}{nearest(path, saved)}")
    for path in sorted(set(saved) - set(variables)):
        problems.append(f"only in the checkpoint: {path}")
    for path in sorted(set(saved) & set(variables)):
        live = parts(variables[path])
        shape, dtype = tuple(live[0].shape), live[0].dtype.as_numpy_dtype
        array = arrays[saved[path]]
        expected: tuple[int | None, ...] = shape
        if saved[path].endswith("@replicas"):
            expected = (len(live), *shape)
        if tuple(array.shape) != expected:
            problems.append(f"{path}: shape {array.shape} in the checkpoint, {expected} here")
        elif array.dtype != dtype:
            problems.append(f"{path}: {array.dtype} in the checkpoint, {np.dtype(dtype)} here")
    return problems


def parts(variable: Any) -> tuple[Any, ...]:
    """Returns the `tf.Variable` of each replica (only one without distribution)."""
    raw = unwrapped(variable)
    components = getattr(raw, "values", None)
    return tuple(components) if isinstance(components, tuple | list) else (raw,)


def _averaged(optimizer: keras.optimizers.Optimizer) -> dict[int, Any]:
    """Returns the weight of each average that an optimizer keeps, by the id of the average."""
    if not optimizer.use_ema:
        return {}
    pairs = zip(optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True)
    return {id(average): weight for weight, average in pairs if average is not None}


def _path(variable: Any) -> str:
    if isinstance(variable, keras.Variable):
        return str(variable.path)
    return str(variable.name).split(":")[0]


def _inner(owner: Any) -> Iterator[tuple[str, Any]]:
    """Pairs an object's variables with their stable paths."""
    yield from zip(stable_paths(owner.variables, owner.name), owner.variables, strict=True)


def _walk(path: str, value: Any, metrics: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(value, tf.Variable | keras.Variable):
        yield path, value
    elif isinstance(value, tf.random.Generator | keras.random.SeedGenerator):
        yield f"{path}/state", value.state
    elif isinstance(value, keras.Metric) and not metrics:
        return
    elif isinstance(value, _OWN_VARIABLES):
        for inner, variable in _inner(value):
            yield f"{path}/{inner}", variable
    elif isinstance(value, tf.Module):
        for index, variable in enumerate(value.variables):
            yield f"{path}/{index}", variable
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(f"{path}/{key}", item, metrics)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _walk(f"{path}/{index}", item, metrics)


def without_number(name: str) -> str:
    """Returns a name without the number that Keras appends from the second object of a kind on."""
    return _SUFFIX.sub("", name)


def unused(name: str, mark: str, used: Iterable[str]) -> str:
    """Returns a name, with a mark and a number if it is already used."""
    if name not in used:
        return name
    number = 1
    while f"{name}{mark}{number}" in used:
        number += 1
    return f"{name}{mark}{number}"


def size_of(variable: Any) -> int:
    """Returns the bytes of a variable's value on one replica."""
    return int(np.prod(variable.shape, dtype=np.int64)) * int(tf.as_dtype(variable.dtype).size)
