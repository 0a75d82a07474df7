"""The generator behind `keras.random` without a seed: one of each trainer, which checkpoints hold.

Keras draws without a seed from one generator of the process. It belongs to no model, so no checkpoint would
hold it, and it cannot be made in a trace of replicas.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend.common import global_state

_GENERATOR = "global_seed_generator"  # the name under which Keras keeps it


def state() -> list[Any]:
    """Returns the variable of the generator that is in use in this thread, if there is one."""
    generator = getattr(global_state.get_global_attribute(_GENERATOR), "generator", None)
    return [] if generator is None else [generator.state]


class Unseeded:
    """Stands for Keras' global seed generator while steps of a trainer are traced or run.

    Attributes:
        generator: The trainer's generator; None until a step draws without a seed.
    """

    def __init__(self) -> None:
        """Makes no generator yet."""
        self.generator: keras.random.SeedGenerator | None = None

    def next(self, ordered: bool = True) -> Any:
        """Returns the next seed; the first call, in a first trace, makes the generator as Keras would."""
        if self.generator is None:
            self.generator = keras.random.SeedGenerator()
        return self.generator.next(ordered)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Makes `keras.random` draw from it within the block, in this thread."""
        before = global_state.get_global_attribute(_GENERATOR)
        global_state.set_global_attribute(_GENERATOR, self)
        try:
            yield
        finally:
            global_state.set_global_attribute(_GENERATOR, before)
