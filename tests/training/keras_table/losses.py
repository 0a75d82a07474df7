"""An entry for each loss of Keras, for each function there is of it, and each metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, losses, metrics

RNG = np.random.default_rng(4)
N = 12
X = RNG.normal(size=(N, 6))

# Targets of each kind of output.
TARGETS: dict[str, np.ndarray] = {
    "numbers": RNG.uniform(0.5, 2.0, size=(N, 3)),
    "probability": RNG.integers(0, 2, size=(N, 1)).astype("float64"),
    "sign": RNG.choice([-1.0, 1.0], size=(N, 1)),
    "distribution": np.eye(3)[RNG.integers(0, 3, N)],
    "class": RNG.integers(0, 3, size=(N, 1)),
    "labels": np.tile([0, 1], N // 2),  # each in each half of a batch
    "text": RNG.integers(1, 5, size=(N, 3)),
    "mask": RNG.integers(0, 2, size=(N, 4, 4, 1)).astype("float64"),
}


def head(kind: str, name: str, x: Any) -> Any:
    """Returns an output of a kind, of hidden units.

    Args:
        kind: One of `TARGETS`.
        name: Of the output.
        x: Of shape `[examples, units]`.
    """
    dense = layers.Dense
    match kind:
        case "numbers":
            return dense(3, "softplus", name=name)(x)
        case "probability":
            return dense(1, "sigmoid", name=name)(x)
        case "sign":
            return dense(1, "tanh", name=name)(x)
        case "distribution" | "class":
            return dense(3, "softmax", name=name)(x)
        case "labels":
            return layers.UnitNormalization(name=name)(dense(4)(x))
        case "text":
            return layers.Reshape((8, 5), name=name)(dense(40)(x))
        case _:
            return layers.Reshape((4, 4, 1), name=name)(dense(16, "sigmoid")(x))


KINDS = {
    "numbers": (
        *("CosineSimilarity", "Huber", "LogCosh", "MeanAbsoluteError", "MeanAbsolutePercentageError"),
        *("MeanSquaredError", "MeanSquaredLogarithmicError", "Poisson"),
    ),
    "probability": ("BinaryCrossentropy", "BinaryFocalCrossentropy"),
    "sign": ("Hinge", "SquaredHinge"),
    "distribution": (
        *("CategoricalCrossentropy", "CategoricalFocalCrossentropy"),
        *("CategoricalHinge", "KLDivergence"),
    ),
    "class": ("CategoricalGeneralizedCrossEntropy", "SparseCategoricalCrossentropy"),
    "labels": ("Circle",),
    "text": ("CTC",),
    "mask": ("Dice", "Tversky"),
}
_FUNCTIONS = {"CTC": "ctc", "KLDivergence": "kl_divergence"}


def _function(name: str) -> str:
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
    return _FUNCTIONS.get(name, snake)


CLASSES: dict[str, tuple[str, Callable[[], Any]]] = {
    name: (kind, getattr(losses, name)) for kind, names in KINDS.items() for name in names
}
FUNCTIONS: dict[str, tuple[str, Callable[[], Any]]] = {
    _function(name): (kind, lambda name=name: getattr(losses, _function(name)))
    for name, (kind, _) in CLASSES.items()
    if name != "CategoricalGeneralizedCrossEntropy"
}


def _named(name: str, *arguments: Any, **options: Any) -> Callable[[], keras.Metric]:
    return lambda: getattr(metrics, name)(*arguments, name=name, **options)


def _all(*names: str) -> dict[str, Callable[[], keras.Metric]]:
    return {name: _named(name) for name in names}


METRICS: dict[str, dict[str, Callable[[], keras.Metric]]] = {
    "probability": {
        **_all("Accuracy", "BinaryAccuracy", "BinaryCrossentropy", "FalseNegatives", "FalsePositives"),
        **_all("Precision", "Recall", "TrueNegatives", "TruePositives"),
        "AUC": _named("AUC", num_thresholds=20),
        "BinaryIoU": _named("BinaryIoU", [0, 1], 0.5),
        "IoU": _named("IoU", 2, [0]),
        "MeanIoU": _named("MeanIoU", 2),
        "PrecisionAtRecall": _named("PrecisionAtRecall", 0.5),
        "RecallAtPrecision": _named("RecallAtPrecision", 0.5),
        "SensitivityAtSpecificity": _named("SensitivityAtSpecificity", 0.5),
        "SpecificityAtSensitivity": _named("SpecificityAtSensitivity", 0.5),
    },
    "sign": _all("Hinge", "SquaredHinge"),
    "distribution": {
        **_all("CategoricalAccuracy", "CategoricalCrossentropy", "CategoricalHinge", "KLDivergence"),
        "F1Score": _named("F1Score", "macro"),
        "FBetaScore": _named("FBetaScore", "macro"),
        "OneHotIoU": _named("OneHotIoU", 3, [0]),
        "OneHotMeanIoU": _named("OneHotMeanIoU", 3),
    },
    "class": {
        **_all("SparseCategoricalAccuracy", "SparseCategoricalCrossentropy"),
    },
    "numbers": {
        **_all("ConcordanceCorrelation", "CosineSimilarity", "LogCoshError", "MeanAbsoluteError"),
        **_all("MeanAbsolutePercentageError", "MeanSquaredError", "MeanSquaredLogarithmicError"),
        **_all("PearsonCorrelation", "Poisson", "R2Score", "RootMeanSquaredError"),
        "MeanMetricWrapper": lambda: metrics.MeanMetricWrapper(losses.huber, name="MeanMetricWrapper"),
    },
}
# TensorFlow has no such operation in float64.
FLOAT32_METRICS: dict[str, dict[str, Callable[[], keras.Metric]]] = {
    "distribution": {"TopKCategoricalAccuracy": _named("TopKCategoricalAccuracy", 2)},
    "class": {"SparseTopKCategoricalAccuracy": _named("SparseTopKCategoricalAccuracy", 2)},
}


def build(outputs: dict[str, str]) -> keras.Model:
    """Makes a model with an output of each name, of the kind that stands there."""
    inputs, heads = keras.Input((6,)), {}
    for name, kind in outputs.items():
        with keras.name_scope(name):
            heads[name] = head(kind, name, layers.Dense(5, "tanh", name=f"{name}_before")(inputs))
    return keras.Model(inputs, heads)
