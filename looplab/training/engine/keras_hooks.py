"""Which of Keras' own steps a model overrides, and whether they or a trainer's methods are in force."""

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
_IN_FORCE = ("train_step", "compute_loss")  # of a trainer: either says what a training step is

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
    """The methods by which models say what Keras' own steps are, as far as they override them.

    Attributes:
        steps: Those of training and evaluation that the only model overrides and that are in force.
        predicts: Whether its own `predict_step` is in force.
        passed_over: What models override that is not called, each a line for the plan of a run.
    """

    steps: tuple[str, ...] = ()
    predicts: bool = False
    passed_over: tuple[str, ...] = ()

    @classmethod
    def of(cls, models: Mapping[str, keras.Model], trainer: Collection[str], named: str) -> KerasHooks:
        """Finds them, and decides.

        A trainer whose class overrides `train_step` or `compute_loss` says itself what a step is; so do
        several models, since Keras' methods know of one.

        Args:
            models: By name.
            trainer: The step methods that the trainer's class overrides.
            named: The name of that class.

        Raises:
            Refused: If the trainer overrides the evaluation of a model that has training steps of its own.
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
    """Returns which of some methods of a Keras model are not Keras' own."""
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
        f"{named} overrides test_step, and {type(model).__name__} its own {' and '.join(steps)} as Keras "
        "calls them: an evaluation would be of another kind than training. Override test_step in the model, "
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
    """Refuses what looplab does in updates of its own, where the updates are Keras'.

    Args:
        model: The one whose steps are in force.
        hooks: Of it.
        replicas: Over how many a batch would be split.
        precision: What they compute in.
        execution: How they run.
        safeguards: What becomes of bad steps.
        groups: Whether there are parameter groups.
        optimizers: How many were given to the trainer.

    Raises:
        Refused: With each such setting, and the lines that port the model.
    """
    what = f"{type(model).__name__} overrides Keras' {' and '.join(hooks.steps)}, which runs as it is"
    found = []
    if replicas > 1:
        message = (
            f"{what}: on {replicas} replicas its means would be of a replica's rows. Use strategy=one_device"
        )
        found.append(("strategy", message))
    if execution.micro_batches != 1:
        found.append(("micro_batches", f"{what}, on the whole batch. Use micro_batches=1"))
    if groups:
        found.append(("parameter_groups", f"{what}, with optimizers of its own. Leave them out"))
    if safeguards.spikes.policy != "ignore":
        found.append(("spikes", f"{what}: what it returns need not be the loss of the step. Leave it out"))
    if precision == "mixed_float16":
        message = f"{what}, and scales no loss as looplab's updates do. Use mixed_bfloat16"
        found.append(("precision", message))
    if optimizers > 1:
        message = f"{what}: it takes several optimizers from its own compile. Call model.compile(...)"
        found.append(("optimizers", message))
    if found:
        key, message = found.pop()
        port = _PORT_STEP if "train_step" in hooks.steps else _PORT_LOSS
        last = Problem(key, f"{message}. Or let a trainer say what a step is:{port}")
        raise Refused([*(Problem(each, f"{why}.") for each, why in found), last])
