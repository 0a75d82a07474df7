"""Finds what makes the elements of a `tf.data` pipeline differ between processes.

It inspects the Python objects of a pipeline: its datasets, and the graphs of the functions that they map. It
reads and copies no data (TensorFlow's graph of a pipeline contains all arrays).
"""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

from looplab.data import StreamFeed
from looplab.data.passes import counting, parts
from looplab.execution.graph_operations import line_of, operations
from looplab.execution.random_operations import draws
from looplab.protocols import Feed

_PYTHON = {
    "PyFunc": "a numpy_function",
    "PyFuncStateless": "a numpy_function",
    "EagerPyFunc": "a py_function",
}


def inexact(dataset: tf.data.Dataset) -> list[str]:
    """Finds why the elements of a pipeline, or their order, differ in each process.

    Args:
        dataset: The user's dataset.

    Returns:
        One sentence for each cause, with the remedy.
    """
    return list(dict.fromkeys([*_unseeded(dataset), *_drawn(dataset), *_unordered(dataset)]))


def python_in(dataset: tf.data.Dataset) -> list[str]:
    """Returns the Python code in a pipeline, which may give other elements in another process."""
    found: list[str] = []
    for graph in _graphs(dataset):
        inside = list(operations(graph))
        if any(operation.type == "GeneratorDataset" for operation, _ in inside):
            found.append("its generator")  # TensorFlow calls it through several Python functions
            continue
        found += [
            _at(_PYTHON[operation.type], operation, within)
            for operation, within in inside
            if operation.type in _PYTHON
        ]
    return list(dict.fromkeys(found))


def keeps_place(feed: Feed) -> bool:
    """Returns whether the next elements of a stream depend only on the state of its iterator.

    They do not if the pipeline has Python code, random numbers, or a shuffle with a new order in each pass.
    With such a shuffle before a batch and a repeat, one resume in six continued in another order (measured,
    TensorFlow 2.21).
    """
    if not isinstance(feed, StreamFeed):
        return False
    inside = (operation for graph in _graphs(feed.dataset) for operation, _ in operations(graph))
    shuffles = bool(counting(feed.dataset)) or any(one.type.startswith("Shuffle") for one in inside)
    return not (shuffles or python_in(feed.dataset) or any(_drawn(feed.dataset)))


def resumes(feed: Feed) -> str:
    """Returns a text on how a feed resumes, and on which condition the resume is exact."""
    if not isinstance(feed, StreamFeed) or keeps_place(feed):
        return feed.resumes
    conditions = []
    if python := python_in(feed.dataset):
        yields = f"yield{'s' * (len(python) == 1)} the same elements in each process"
        conditions.append(f"{' and '.join(python)} {yields}")
    if feed.counts:
        conditions.append("nothing else reads the Dataset, because its shuffle counts all readings")
    only = f", exactly only if {', and '.join(conditions)}" if conditions else ""
    return f"by skipping batches{only}"


def _unseeded(dataset: tf.data.Dataset) -> Iterator[str]:
    for name in _shuffles(dataset):
        yield (
            f"the tf.data stream has {name} without a seed, so its order differs in each process. Set a "
            "seed: shuffle(..., seed=0)."
        )


def _shuffles(dataset: tf.data.Dataset) -> Iterator[str]:
    for part in parts(dataset):
        seeds = getattr(part, "_seed", None), getattr(part, "_seed2", None)
        if all(seed is not None and tf.get_static_value(seed) == 0 for seed in seeds):
            size = getattr(part, "_buffer_size", None)
            yield "a random dataset" if size is None else f"shuffle({tf.get_static_value(size)})"
    for graph in _graphs(dataset):
        for operation, within in operations(graph):
            if operation.type.startswith(("Shuffle", "RandomDataset")) and _has_no_seed(operation):
                yield _at(f"a {operation.type.split('Dataset')[0].lower()}", operation, within)


def _at(what: str, operation: tf.Operation, within: tuple[tf.Operation, ...]) -> str:
    where = line_of(operation, within)
    return f"{what}{where and ' at '}{where}"


def _has_no_seed(operation: tf.Operation) -> bool:
    names = [argument.name for argument in operation.op_def.input_arg]
    given = dict(zip(names, operation.inputs, strict=False))
    return all(tf.get_static_value(given[seed]) == 0 for seed in ("seed", "seed2") if seed in given)


def _drawn(dataset: tf.data.Dataset) -> Iterator[str]:
    for graph in _graphs(dataset):
        for draw in draws(graph):
            if not draw.saved:
                yield (
                    f"a map of the tf.data stream draws random numbers ({draw}) from a state that no "
                    "checkpoint holds. Use tf.random.stateless_* with a seed for each element "
                    "(Dataset.enumerate, or a zip with Dataset.random(seed=0))."
                )


def _unordered(dataset: tf.data.Dataset) -> Iterator[str]:
    said = [dataset.options().deterministic, *(getattr(p, "_deterministic", None) for p in parts(dataset))]
    if any(one is False or one == "false" for one in said):
        yield (
            "the tf.data stream has deterministic=False, so its elements come in the order in which they are "
            "ready. Leave that out."
        )


def _graphs(dataset: tf.data.Dataset) -> Iterator[tf.Graph]:
    for part in parts(dataset):
        for function in part._functions():
            yield function.function.graph
