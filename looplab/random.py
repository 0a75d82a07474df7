"""Seeds. One number makes a run repeatable, and each replica draws its own dropout masks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def seed_everything(seed: int) -> None:
    """Seeds the global random generators of Python, NumPy, TensorFlow and Keras in this process.

    A trainer calls it with its own `seed`. Call it eagerly, on the host.

    Args:
        seed: A whole number from 0 to 2**32 - 1.
    """
    keras.utils.set_random_seed(seed)


def separate_replicas(strategy: tf.distribute.Strategy, variables: Iterable[Any]) -> None:
    """Gives the Keras seed generators of each replica another seed.

    Under `MirroredStrategy` all replicas would otherwise start from one seed and draw the same dropout masks.
    A trainer calls it once, eagerly, when a run begins; a run that continues restores its generators from the
    checkpoint.

    Args:
        strategy: The trainer's strategy.
        variables: `keras.Variable`s. Those named `seed_generator_state` are changed.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    for variable in variables:
        if variable.name != "seed_generator_state":
            continue
        for replica, local in enumerate(strategy.experimental_local_results(variable.value)):
            seed, counter = local.numpy()
            mixed = np.random.SeedSequence([int(seed), replica]).generate_state(1)[0]
            local.assign(np.array([mixed if replica else seed, counter], dtype=local.dtype.name))
