"""Finds the random numbers that a step draws, from its graph."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import tensorflow as tf

from looplab.execution.graph_operations import line_of, operations

# Their state is not in a variable: no checkpoint has it, and each call draws other numbers.
_UNSAVED = re.compile(
    r"(Random(Uniform(Int)?|StandardNormal|Gamma|Poisson(V2)?|Shuffle)|Multinomial"
    r"|(Parameterized)?TruncatedNormal)$"
)
# Drawn from a seed: a seed generator of Keras, a tf.random.Generator, or the user's seed.
_SEEDED = re.compile(
    r"Stateless(Random(?!Get)|Multinomial|Shuffle|(Parameterized)?TruncatedNormal)|RngReadAndSkip"
)


@dataclass(frozen=True)
class Draw:
    """An operation that draws random numbers.

    Attributes:
        kind: TensorFlow's name of the operation.
        saved: Whether its numbers are determined by a seed.
        where: The user's line of code, if it is known.
    """

    kind: str
    saved: bool
    where: str

    def __str__(self) -> str:
        """Returns a description."""
        return f"{self.kind}{self.where and ' at '}{self.where}"


def drawing(graph: tf.Graph) -> Iterator[tuple[tf.Operation, tuple[tf.Operation, ...], bool]]:
    """Yields the operations that draw, with their callers, and whether a seed determines the numbers."""
    for operation, within in operations(graph):
        seeded = _SEEDED.match(operation.type) is not None
        if seeded or _UNSAVED.match(operation.type):
            yield operation, within, seeded


def draws(graph: tf.Graph) -> list[Draw]:
    """Returns the distinct draws of a step; draws without a seed come first."""
    found = {
        Draw(operation.type, seeded, line_of(operation, within))
        for operation, within, seeded in drawing(graph)
    }
    return sorted(found, key=lambda draw: (draw.saved, draw.kind, draw.where))
