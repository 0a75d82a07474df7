"""What of Keras has no entry in a table, each with the reason, and whether it still holds."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable

import keras

Reason = tuple[str, Callable[[], bool]]


def _lacks(module: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(module) is None


def _takes(kind: type, *names: str) -> Callable[[], bool]:
    return lambda: list(inspect.signature(kind.update_state).parameters)[1:] == list(names)


def _is_base(kind: type, method: str) -> Callable[[], bool]:
    """Whether a class has no such method that works."""
    own = vars(kind).get(method)
    return lambda: own is None or "NotImplementedError" in inspect.getsource(own)


LAYERS: dict[str, Reason] = {
    "FlaxLayer": ("computes in JAX, which is not here", _lacks("flax")),
    "InputLayer": ("is in every model of the table", lambda: bool(keras.Input((1,)) is not None)),
    "InputSpec": ("is no layer", lambda: not issubclass(keras.layers.InputSpec, keras.Layer)),
    "JaxLayer": ("computes in JAX, which is not here", _lacks("jax")),
    "Layer": ("is the base of all", lambda: keras.layers.Layer is keras.Layer),
    "TFSMLayer": (
        "is read from a folder, with what was exported there",
        lambda: "filepath" in inspect.signature(keras.layers.TFSMLayer).parameters,
    ),
    "TorchModuleWrapper": ("computes in PyTorch, which is not here", _lacks("torch")),
    "Wrapper": ("is a base: it has no call", _is_base(keras.layers.Wrapper, "call")),
}
# Compared on one device alone: on several replicas each computes them of its own rows.
ACROSS_EXAMPLES = {"Equalization": "takes the histogram of a whole batch"}
LOSSES: dict[str, Reason] = {
    "Loss": ("is the base of all", _is_base(keras.losses.Loss, "call")),
    "categorical_generalized_cross_entropy": (
        "needs q, which its class gives",
        lambda: (
            inspect.signature(keras.losses.categorical_generalized_cross_entropy).parameters["q"].default
            is inspect.Parameter.empty
        ),
    ),
    "deserialize": ("makes losses", lambda: True),
    "get": ("makes losses", lambda: True),
    "serialize": ("writes losses", lambda: True),
}
# On several replicas looplab refuses these.
WHOLE_BATCH = {
    name: "compares examples of the batch with each other, or sums over all of them before it divides"
    for name in ("Circle", "Dice", "Tversky", "circle", "dice", "tversky")
} | {
    "CategoricalGeneralizedCrossEntropy": "compares each target with all predictions (a fault of Keras 3.15)"
}
METRICS: dict[str, Reason] = {
    "Mean": (
        "takes values, not targets and predictions",
        _takes(keras.metrics.Mean, "values", "sample_weight"),
    ),
    "Metric": ("is the base of all", _is_base(keras.metrics.Metric, "update_state")),
    "Sum": (
        "takes values, not targets and predictions",
        _takes(keras.metrics.Sum, "values", "sample_weight"),
    ),
}
OPTIMIZERS: dict[str, Reason] = {
    "LossScaleOptimizer": (
        "is refused: looplab scales losses itself",
        lambda: issubclass(keras.optimizers.LossScaleOptimizer, keras.optimizers.Optimizer),
    ),
    "MultiOptimizer": (
        "is refused: looplab has optimizers by name",
        lambda: issubclass(keras.optimizers.MultiOptimizer, keras.optimizers.Optimizer),
    ),
    "Optimizer": ("is the base of all", _is_base(keras.optimizers.Optimizer, "update_step")),
    "OptimizerMap": (
        "is no optimizer",
        lambda: not issubclass(keras.optimizers.OptimizerMap, keras.optimizers.Optimizer),
    ),
}
REFUSED_OPTIONS = ("gradient_accumulation_steps", "loss_scale_factor")  # with the remedy, by name
SCHEDULES: dict[str, Reason] = {
    "LearningRateSchedule": (
        "is the base of all",
        _is_base(keras.optimizers.schedules.LearningRateSchedule, "__call__"),
    ),
}


def classes(module: object, names: set[str], reasons: dict[str, Reason]) -> list[str]:
    """Names the classes of a module that have neither an entry nor a reason, by any of their names.

    Args:
        module: Of Keras.
        names: Of the entries.
        reasons: Why others have none.
    """
    found: dict[type, set[str]] = {}
    for name, kind in inspect.getmembers(module, inspect.isclass):
        found.setdefault(kind, set()).add(name)
    return sorted(min(own) for own in found.values() if not own & (names | set(reasons)))


def unfit(module: object, names: set[str], reasons: dict[str, Reason]) -> list[str]:
    """Names the reasons that no longer hold: of what has an entry, or is not there, or can be compared."""
    return sorted(
        name
        for name, (_, holds) in reasons.items()
        if name in names or not hasattr(module, name) or not holds()
    )
