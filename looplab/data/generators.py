"""Converts generators of batches to streams."""

from __future__ import annotations

import dis
import itertools
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any

import keras
import tensorflow as tf

from looplab.data.host_sources import difference
from looplab.data.iterators import untuned
from looplab.data.pydataset import as_batch, batch_spec
from looplab.data.read_errors import as_data_error, keep
from looplab.data.stream import GENERATOR, Stream
from looplab.errors import DataError
from looplab.strategy import tree


def generated(make: Callable[[], Any], name: str) -> Stream:
    """Returns the batches of a generator as a stream.

    Args:
        make: Called for each pass, and once before to find the shapes from two batches. It returns an
            iterable of global batches, like those of a `PyDataset`.
        name: Its name, for messages.

    Raises:
        DataError: If there is no first batch, or the iterator can be read only once.
    """
    if (one := make()) is make():
        raise DataError(
            f"{name} returns the same {type(one).__name__} each time, which can be read only once. Return a "
            "new one in each call."
        )
    reading = Reading(make, f"generator {name}")
    dataset = reading.dataset(make)
    if is_endless(one):  # so that looplab does not count its batches
        dataset = as_endless(dataset)
    return Stream(dataset, reading.what, faster=GENERATOR)


class Reading:
    """Converts batches from Python code to a pipeline, with one type and with errors that name the batch.

    Attributes:
        what: The kind of object that yields the batches, for messages.
    """

    def __init__(self, make: Callable[[], Any], what: str) -> None:
        """Reads two batches to find their shapes.

        Args:
            make: Returns an iterable of the batches.
            what: The kind of object that yields them, for messages.

        Raises:
            DataError: If there is no first batch.
        """
        self.what, self._floating = what, str(keras.config.floatx())
        first = [batch for batch, _ in zip(self._batches(make, 0), range(2), strict=False)]
        if not first:
            raise DataError(f"the data is empty: the {what} yields no batch.")
        self._spec = batch_spec(first, f"batches of the {what}")

    def dataset(self, make: Callable[[], Any], first: int = 0) -> tf.data.Dataset:
        """Returns a pipeline of the batches.

        Args:
            make: Returns an iterable of the batches; called for each pass.
            first: The number of its first batch, counted from 0, for messages.
        """

        def checked() -> Iterator[Any]:
            try:
                for number, batch in enumerate(self._batches(make, first), first):
                    if differs := difference(batch, self._spec):
                        raise DataError(f"the batches differ: {differs}, {self._place(number)}.")
                    yield batch
            except Exception as error:
                raise keep(error, f"reading the {self.what}") from None

        return untuned(_batches(checked, self._spec).prefetch(4))

    def _batches(self, make: Callable[[], Any], first: int) -> Iterator[Any]:
        number = first
        try:
            for number, value in enumerate(make(), first):
                yield as_batch(value, self._floating)
                number += 1
        except Exception as error:
            raise as_data_error(error, self._place(number)) from error

    def _place(self, number: int) -> str:
        return f"reading batch {number} (counted from 0) of the {self.what}"


def as_endless(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the pipeline marked as endless."""
    return dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))


def is_endless(iterator: Any) -> bool:
    """Returns whether an iterator is endless for certain: `while True` without an exit, `itertools.cycle`.

    Such a loop has no `break` or `return`, so Python compiles no return into the generator. For other
    iterators only a pass can tell.
    """
    if isinstance(iterator, GeneratorType):
        names = {each.opname for each in dis.get_instructions(iterator.gi_code)} - {"RETURN_GENERATOR"}
        return not any("RETURN" in name for name in names)
    return isinstance(iterator, itertools.cycle | itertools.count)


def _batches(checked: Callable[[], Iterator[Any]], spec: Any) -> tf.data.Dataset:
    """Returns the batches of a generator as a dataset; TensorFlow gets them without parts that are None."""
    parts = tree.flatten(spec)
    if len(parts) == len(tf.nest.flatten(spec)):
        return tf.data.Dataset.from_generator(checked, output_signature=spec)
    flat = tf.data.Dataset.from_generator(
        lambda: (tuple(tree.flatten(batch)) for batch in checked()), output_signature=tuple(parts)
    )
    return flat.map(lambda *batch: tree.pack_sequence_as(spec, batch))
