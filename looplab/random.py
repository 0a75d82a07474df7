"""Seeds: one number makes a run repeatable, and every replica draws its own masks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's, TensorFlow's and Keras' generators; global to the process.

    Args:
        seed: Any integer from 0 to 2**32 - 1.
    """
    keras.utils.set_random_seed(seed)


def separate_replicas(strategy: tf.distribute.Strategy, variables: Iterable[Any]) -> None:
    """Gives the Keras seed generators of every replica a seed of their own.

    Under `MirroredStrategy` all replicas would start from one seed and draw the same dropout masks.
    Called once, eagerly, on a fresh start; a restored run has its generators from the checkpoint.

    Args:
        strategy: The trainer's strategy.
        variables: `keras.Variable`s, of which those named `seed_generator_state` are changed.
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
