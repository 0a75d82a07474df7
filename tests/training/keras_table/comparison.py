"""Three steps of looplab beside three of `model.fit`: what both train, show, evaluate and predict.

A model has one branch for each entry of a table, which is one of its outputs. No branch touches another, so
a difference is that of the entry whose name it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

import looplab
from looplab.strategy import precision
from tests.conftest import make_strategy

EXAMPLES, BATCH = 12, 4  # three steps
CLOSE = 1e-12

Arrays = dict[str, np.ndarray]


@dataclass
class Study:
    """Models to be compared.

    Attributes:
        build: Makes the model; its outputs are a dict by branch.
        x: Inputs, an array or a dict.
        y: Targets by branch.
        loss: Makes the loss of each branch.
        metrics: What makes the metrics of branches.
        weights: Sample weights by branch.
        optimizer: Makes the optimizer.
        precision: In which all is computed.
    """

    build: Callable[[], keras.Model]
    x: Any
    y: Mapping[str, np.ndarray]
    loss: Callable[[], Any] = lambda: "mse"
    metrics: Mapping[str, Sequence[Callable[[], keras.Metric]]] = field(default_factory=dict)
    weights: Mapping[str, np.ndarray] | None = None
    optimizer: Callable[[], keras.optimizers.Optimizer] = lambda: keras.optimizers.SGD(0.125, momentum=0.5)

    precision: str = "float64"

    @property
    def losses(self) -> Any:
        made = self.loss()
        return made if isinstance(made, dict) else dict.fromkeys(self.y, made)

    @property
    def data(self) -> tuple[Any, ...]:
        return (self.x, self.y) if self.weights is None else (self.x, self.y, self.weights)


def by_model_fit(study: Study, **compile_arguments: Any) -> tuple[list[np.ndarray], Arrays]:
    """Returns the weights that it began with, and all that came of it by name."""
    with precision.scope(study.precision):
        model = study.build()
        first = model.get_weights()
        model.compile(
            study.optimizer(),
            study.losses,
            metrics={name: [make() for make in own] for name, own in study.metrics.items()},
            jit_compile=False,
            **compile_arguments,
        )
        how = {"batch_size": BATCH, "verbose": 0}
        x, y, *weights = study.data
        history = model.fit(x, y, sample_weight=weights[0] if weights else None, shuffle=False, **how)
        weighted = {"sample_weight": weights[0]} if weights else {}
        values = model.evaluate(x, y, return_dict=True, **weighted, **how)
        predicted = model.predict(x, **how)
        return first, _outcome(model, history.history, values, predicted)


def by_looplab(study: Study, first: list[np.ndarray] | None, replicas: int, **options: Any) -> Arrays:
    """Returns all that came of it by name, where a model begins with weights (None for its own)."""
    keras.backend.clear_session(free_memory=False)  # names as in the other
    with precision.scope(study.precision):
        losses = study.losses
    trainer = looplab.Trainer(
        study.build,
        study.optimizer,
        losses,
        study.metrics,
        precision=study.precision,
        strategy=make_strategy(replicas),
        execution="graph",
        **options,
    )
    if first is not None:
        trainer.model.set_weights(first)
    how = {"batch_size": BATCH, "verbose": 0}
    history = trainer.fit(study.data, shuffle=False, **how)
    values = trainer.evaluate(study.data, batch_size=BATCH)
    # looplab calls the loss of an output as the output.
    shown, values = (
        {f"{name}_loss" if name in study.y else name: value for name, value in own.items()}
        for own in (history.history, values)
    )
    return _outcome(trainer.model, shown, values, trainer.predict(study.x, batch_size=BATCH))


def differing(ours: Arrays, theirs: Arrays, close: float = CLOSE) -> list[str]:
    """Names what differs, and by how much.

    Args:
        ours: Of looplab.
        theirs: Of `model.fit`.
        close: The most that numbers may be apart, relative to the largest of an array where that is above 1.
    """
    found = [f"{name} is only in model.fit" for name in theirs if name not in ours]
    for name in (name for name in theirs if name in ours):
        most = close * max(1, np.max(np.abs(theirs[name])))
        if not np.allclose(ours[name], theirs[name], rtol=0, atol=most, equal_nan=True):
            found.append(f"{name}: {np.max(np.abs(ours[name] - theirs[name])):.1e}")
    return found


def _outcome(model: keras.Model, history: Any, values: Any, predicted: Any) -> Arrays:
    weights = {  # numbered, since Keras numbers the names of layers on
        f"weight {variable.path.partition('/')[0]}/{index} {variable.name}": np.asarray(variable.numpy())
        for index, variable in enumerate(model.weights)
    }
    shown = {f"shown {name}": np.asarray(own[-1]) for name, own in history.items()}
    evaluated = {f"evaluated {name}": np.asarray(value) for name, value in values.items()}
    outputs = {f"predicted {name}": np.asarray(value) for name, value in predicted.items()}
    return {**weights, **shown, **evaluated, **outputs}
