"""Seeds, and where the rows of a batch are in a random draw.

One number makes a run repeatable. A row of the global batch gets the same random numbers however the batch is
split over replicas and micro-batches; `rows` and `shared` are for draws whose shape does not show the rows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab.errors import ConfigurationError

_thread = threading.local()  # each replica has its own thread


@dataclass(frozen=True)
class Layout:
    """Where the rows of a batch are in a random draw.

    Attributes:
        axis: The axis of the rows; None if all rows share the numbers.
        views: The number of times that the axis holds all rows, one time after the other.
        folded: Whether the axis holds several elements of each row, next to each other.
    """

    axis: int | None = 0
    views: int = 1
    folded: bool = False


BY_ROW, SHARED = Layout(), Layout(axis=None)


@contextmanager
def rows(axis: int = 0, *, views: int = 1, folded: bool = False) -> Iterator[None]:
    """Says where the rows of the batch are in the random draws within the block.

    It is needed only where the shape of a draw does not show them: a draw of shape `[rows, ...]` is found
    without it. Use it in a step, a loss or a layer, in a `tf.function` or eagerly; outside of a step it does
    nothing. A draw along another axis, or of several views, makes the numbers of the whole global batch and
    takes its own.

    Args:
        axis: The axis of the rows; from 0.
        views: How often the axis holds all rows, one time after the other: 2 for `concat([real, fake])`,
            shape `[2 * rows, ...]`.
        folded: Whether each row has several elements of the axis, next to each other: `[rows * time, ...]`.

    Raises:
        ConfigurationError: If a number is negative, or views and folded exclude each other.
    """
    if axis < 0 or views < 1:
        raise ConfigurationError(
            f"looplab.random.rows: axis={axis}, views={views}: the axis counts from 0, the views from 1."
        )
    if folded and views > 1:
        raise ConfigurationError(
            "looplab.random.rows: views=... and folded=True are different layouts: draw for each view."
        )
    with _declaring(Layout(axis, views, folded)):
        yield


@contextmanager
def shared() -> Iterator[None]:
    """Says that the random draws within the block belong to no row: all replicas draw the same.

    It is needed only if the length of the first axis depends on the number of rows by chance. See `rows` for
    where to use it.
    """
    with _declaring(SHARED):
        yield


@contextmanager
def _declaring(layout: Layout) -> Iterator[None]:
    before = declared()
    _thread.layout = layout
    try:
        yield
    finally:
        _thread.layout = before


def declared() -> Layout | None:
    """Returns the layout that the present block of this thread declares, if there is one."""
    return getattr(_thread, "layout", None)


def unite_replicas(strategy: tf.distribute.Strategy, variables: Iterable[Any]) -> None:
    """Gives the Keras seed generators of all replicas the state of the first; eagerly, on the host.

    Args:
        strategy: The trainer's strategy.
        variables: `keras.Variable`s. Those named `seed_generator_state` are changed.
    """
    for variable in variables:
        if variable.name == "seed_generator_state":
            first, *others = strategy.experimental_local_results(variable.value)
            for local in others:
                local.assign(first.numpy())


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
