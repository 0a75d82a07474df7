"""Which random numbers a step draws, read from its graph."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

# Their state is in no variable: no checkpoint has it, and no two calls draw the same.
_UNSAVED = re.compile(
    r"(Random(Uniform(Int)?|StandardNormal|Gamma|Poisson(V2)?|Shuffle)|Multinomial"
    r"|(Parameterized)?TruncatedNormal)$"
)
# Drawn from a seed: a seed generator of Keras, a tf.random.Generator, or what a person gives.
_SEEDED = re.compile(
    r"Stateless(Random(?!Get)|Multinomial|Shuffle|(Parameterized)?TruncatedNormal)|RngReadAndSkip"
)
_LIBRARIES = re.compile(r"[/\\](tensorflow|keras|looplab)[/\\](?!examples)")


@dataclass(frozen=True)
class Draw:
    """An operation that draws random numbers.

    Attributes:
        kind: TensorFlow's name of it.
        saved: Whether what it draws follows from a seed.
        where: The line of the person's own code, if it is known.
    """

    kind: str
    saved: bool
    where: str

    def __str__(self) -> str:
        """Returns it in words."""
        return f"{self.kind}{self.where and ' at '}{self.where}"


def draws(graph: tf.Graph) -> list[Draw]:
    """Returns the different ones of a step, those that no seed decides first."""
    found = {
        Draw(kind, _SEEDED.match(kind) is not None, where)
        for kind, where in _operations(graph)
        if _UNSAVED.match(kind) or _SEEDED.match(kind)
    }
    return sorted(found, key=lambda draw: (draw.saved, draw.kind, draw.where))


def _operations(graph: tf.Graph) -> Iterator[tuple[str, str]]:
    for operation in graph.get_operations():
        yield operation.type, _where(operation)
    for function in graph.as_graph_def().library.function:  # bodies of tf.cond and tf.while_loop
        for node in function.node_def:
            yield node.op, ""


def _where(operation: Any) -> str:
    own = [frame for frame in operation.traceback or () if not _LIBRARIES.search(frame.filename)]
    if not own:
        return ""
    file = own[-1].filename
    return f"{os.path.relpath(file) if file.startswith(os.getcwd()) else file}:{own[-1].lineno}"
