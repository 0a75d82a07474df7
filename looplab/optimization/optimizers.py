"""Makes the trainer's optimizers from Keras names, objects or factories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from looplab.compat import patches
from looplab.errors import ConfigurationError, nearest
from looplab.optimization.follow_step import FollowStep, follow_step
from looplab.optimization.optimizer_numbers import keep_numbers
from looplab.optimization.remake import another_optimizer, given_rate
from looplab.optimization.update import prepare
from looplab.optimization.weight_averages import begin_at_weights, keep_averages
from looplab.strategy.strategies import belongs_here

# Settings of Keras' optimizers that this version does not support, so it refuses them.
_NOT_YET = {
    "loss_scale_factor": "is not supported: looplab scales losses itself with precision='mixed_float16'.",
}


def make_optimizer(given: Any, strategy: tf.distribute.Strategy, name: str) -> keras.optimizers.Optimizer:
    """Makes an optimizer from a Keras name, a factory (a class is one) or an object.

    Runs in the strategy's scope; under several replicas an object is created again from its configuration.

    Raises:
        ConfigurationError: If it is none of these, or has settings that looplab owns.
    """
    try:
        made = None if callable(given) else keras.optimizers.get(given)
    except ValueError as error:
        valid = [n.lower() for n in dir(keras.optimizers) if n[0].isupper()]
        hint = nearest(str(given).lower(), valid)
        raise ConfigurationError(
            f"optimizer {name!r}: {given!r} is not a Keras optimizer.{hint} ({error})"
        ) from None
    if made is None:
        made = given()  # an error in it is the user's
    if not isinstance(made, keras.optimizers.Optimizer):
        raise ConfigurationError(
            f"optimizer {name!r}: expected a Keras name, a keras.optimizers.Optimizer or a function "
            f"that returns one, got {made!r}."
        )
    if isinstance(made, keras.optimizers.LossScaleOptimizer):
        raise ConfigurationError(
            f"optimizer {name!r}: with precision='mixed_float16' looplab scales losses itself, and without "
            "it nothing needs to. Give the inner optimizer instead of LossScaleOptimizer."
        )
    if isinstance(made, getattr(keras.optimizers, "MultiOptimizer", ())):
        raise ConfigurationError(
            f"optimizer {name!r}: MultiOptimizer gives parts of a model to several optimizers, which looplab "
            "keeps apart. Give them by name, Trainer(optimizers={'a': ..., 'b': ...}), and call "
            "self.minimize(..., 'a', variables=...) for each in train_step; for separate rates and weight "
            "decays one optimizer with parameter_groups is enough."
        )
    if made.gradient_accumulation_steps:
        raise ConfigurationError(
            f"optimizer {name!r}: gradient_accumulation_steps leaves an unapplied rest at the end "
            "and fails on several replicas. Use Trainer(micro_batches=...) instead: one update for "
            "each batch, computed in pieces."
        )
    for setting, why in _NOT_YET.items():
        if getattr(made, setting, None):
            raise ConfigurationError(f"optimizer {name!r}: {setting} {why}")
    if not patches.are_on():
        free = isinstance(made, keras.optimizers.ScheduleFreeAdamW)
        if free or made.use_ema:
            what = type(made).__name__ if free else "use_ema=True"
            raise ConfigurationError(f"optimizer {name!r}: {what} {patches.NEEDED}")
    if made is given and not belongs_here([made.iterations]):
        if updates := int(made.iterations.numpy()):
            raise ConfigurationError(
                f"optimizer {name!r}: the object {type(made).__name__} has made {updates} updates already, "
                "outside the strategy's scope: created again for this strategy it would lose them. Give a "
                f"function that returns a new one, lambda: {type(made).__name__}(...); a run_dir continues "
                "with the whole state."
            )
        made = another_optimizer(made, f"optimizer {name!r}")
    return made


def finish_optimizer(
    optimizer: keras.optimizers.Optimizer,
    variables: Sequence[Any],
    step: tf.Variable,
    factor: tf.Variable,
) -> None:
    """Builds an optimizer for its variables, and gives looplab its rate and its reduction.

    Args:
        optimizer: From `make_optimizer`.
        variables: All variables that it will ever train.
        step: The number of completed steps, which schedules follow.
        factor: The factor on the learning rate, which callbacks scale.
    """
    # Parameter groups of another trainer set these.
    patches.unpatch("keras.optimizers.Optimizer.update_step", optimizer)
    patches.unpatch("keras.optimizers.Optimizer._apply_weight_decay", optimizer)
    keep_numbers(optimizer)
    if not optimizer.built:
        optimizer.build(list(variables))
        keep_averages(optimizer)
    begin_at_weights(optimizer)
    follow_step(optimizer, FollowStep(given_rate(optimizer), step, factor))
    prepare(optimizer)
