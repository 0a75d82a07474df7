"""Finds the Keras steps that a model overrides, and decides between them and a trainer's methods."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from looplab.errors import Problem, Refused
from looplab.options.execution import Execution
from looplab.options.safeguards import Safeguards

_STEPS = ("train_step", "test_step", "compute_loss", "compute_metrics")
_PREDICTS = "predict_step"
_LOOPS = (
    *("fit", "evaluate", "predict", "train_on_batch", "test_on_batch", "predict_on_batch"),
    *("make_train_function", "make_test_function", "make_predict_function"),
)
_IN_FORCE = ("train_step", "compute_loss")  # of a trainer: either one defines the training step

_PORT_LOSS = """
    class Mine(looplab.Trainer):
        def compute_loss(self, batch, training):
            x, y = batch
            y_pred = self.model(x, training=training)
            return ...  # the loss of each example, shape [examples]"""
_PORT_STEP = """
    class Mine(looplab.Trainer):
        def train_step(self, batch):
            return self.minimize(self.own_loss, batch)  # one for each optimizer, by name

        def own_loss(self, batch, training):
            return ...  # of each example, shape [examples]"""


@dataclass(frozen=True)
class KerasHooks:
    """The step methods of Keras that models override.

    Attributes:
        steps: The training and evaluation methods that the only model overrides and that are used.
        predicts: Whether its own `predict_step` is used.
        passed_over: Overridden methods that are not called, each as a line for the plan of a run.
    """

    steps: tuple[str, ...] = ()
    predicts: bool = False
    passed_over: tuple[str, ...] = ()

    @classmethod
    def of(cls, models: Mapping[str, keras.Model], trainer: Collection[str], named: str) -> KerasHooks:
        """Finds the overridden methods, and decides which are used.

        A trainer whose class overrides `train_step` or `compute_loss` defines the step itself; the same holds
        for several models, because Keras' methods support one.

        Args:
            models: The models by name.
            trainer: The step methods that the trainer's class overrides.
            named: The name of that class.

        Raises:
            Refused: If the trainer overrides the evaluation of a model that has its own training steps.
        """
        said = [
            _said(n, m, looped, "looplab runs the loop")
            for n, m in models.items()
            if (looped := own(m, _LOOPS))
        ]
        only = next(iter(models.values())) if len(models) == 1 else None
        leads = sorted({*trainer} & {*_IN_FORCE})
        why = f"{named}.{leads[0]} is in force" if leads else "a step of several models is the trainer's"
        if only is None or leads:
            said += [_said(n, m, found, why) for n, m in models.items() if (found := own(m, _STEPS))]
        steps = own(only, _STEPS) if only is not None and not leads else ()
        if steps and "test_step" in trainer:
            if steps != ("test_step",):
                raise Refused([_two_sides(only, steps, named)])
            said.append(_said(next(iter(models)), only, steps, f"{named}.test_step is in force"))
            steps = ()
        predicts = only is not None and _PREDICTS not in trainer and bool(own(only, (_PREDICTS,)))
        if not predicts:
            why = f"{named}.{_PREDICTS} is in force" if _PREDICTS in trainer else "several models"
            said += [_said(n, m, found, why) for n, m in models.items() if (found := own(m, (_PREDICTS,)))]
        return cls(steps, predicts, tuple(said))


def own(model: Any, names: Collection[str]) -> tuple[str, ...]:
    """Returns the names of methods of a Keras model that are not Keras' own."""
    return tuple(name for name in names if not _is_of_keras(model, name))


def _is_of_keras(model: Any, name: str) -> bool:
    if name in vars(model):  # set on the object
        return False
    method = getattr(type(model), name)
    return method is getattr(keras.Model, name) or method.__module__.startswith("keras.src.")


def _said(name: str, model: Any, found: Collection[str], why: str) -> str:
    methods = " and ".join(found)
    return (
        f"{type(model).__name__}.{methods} of {name!r} {'is' if len(found) == 1 else 'are'} not called: {why}"
    )


def _two_sides(model: Any, steps: Collection[str], named: str) -> Problem:
    return Problem(
        "trainer",
        f"{named} overrides test_step, and {type(model).__name__} its own {' and '.join(steps)} of "
        "Keras: evaluation and training would use different steps. Override test_step in the model, "
        "or compute_loss or train_step in the trainer too.",
    )


def check(
    model: Any,
    hooks: KerasHooks,
    *,
    replicas: int,
    precision: str,
    execution: Execution,
    safeguards: Safeguards,
    groups: bool,
    optimizers: int,
) -> None:
    """Refuses settings that need looplab's own updates, if the updates are Keras'.

    Args:
        model: The model whose steps are used.
        hooks: Its hooks.
        replicas: The number of replicas over which a batch would be split.
        precision: The precision of the steps.
        execution: The execution settings.
        safeguards: The policies for bad steps.
        groups: Whether there are parameter groups.
        optimizers: The number of optimizers that were given to the trainer.

    Raises:
        Refused: With each such setting, and the code that ports the model.
    """
    what = f"{type(model).__name__} overrides Keras' {' and '.join(hooks.steps)}, which runs unchanged"
    found = []
    if replicas > 1:
        message = (
            f"{what}: on {replicas} replicas its means would cover a replica's rows. Use strategy=one_device"
        )
        found.append(("strategy", message))
    if execution.micro_batches != 1:
        found.append(("micro_batches", f"{what}, on the whole batch. Use micro_batches=1"))
    if groups:
        found.append(("parameter_groups", f"{what}, with its own optimizers. Leave them out"))
    if safeguards.spikes.policy != "ignore":
        found.append(("spikes", f"{what}: its values need not be the loss of the step. Leave it out"))
    if precision == "mixed_float16":
        message = f"{what}, without the loss scaling of looplab's updates. Use mixed_bfloat16"
        found.append(("precision", message))
    if optimizers > 1:
        message = f"{what}: it takes several optimizers from its own compile. Call model.compile(...)"
        found.append(("optimizers", message))
    if found:
        key, message = found.pop()
        port = _PORT_STEP if "train_step" in hooks.steps else _PORT_LOSS
        last = Problem(key, f"{message}. Or define the step in a trainer:{port}")
        raise Refused([*(Problem(each, f"{why}.") for each, why in found), last])
