"""Structures of which some parts are `None`: how they are taken apart, and what a strategy makes of them."""

import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab import strategy
from looplab.strategy import tree

BATCH = {"m": None, "v": tf.range(5)}, (None, tf.range(10, 15))


def test_a_none_keeps_its_place_and_no_function_sees_it():
    assert [list(part) for part in tree.flatten(BATCH)] == [list(range(5)), list(range(10, 15))]
    assert [path for path, _ in tree.flatten_with_path(BATCH)] == [(0, "v"), (1, 1)]
    doubled = tree.map_structure(lambda one, other: int(one[0] + other[1]), BATCH, BATCH)
    assert doubled == ({"m": None, "v": 1}, (None, 21))
    assert tree.pack_sequence_as(BATCH, "xy") == ({"m": None, "v": "x"}, (None, "y"))
    assert tree.first((None, 3, 4)) == 3
    spec = tf.data.Dataset.range(2).map(lambda x: (x, {"y": None})).element_spec
    assert tree.map_structure(lambda part: part.dtype, spec) == (tf.int64, {"y": None})
    with pytest.raises(ValueError, match="None in one of them, and not in another"):
        tree.map_structure(max, (1, None), (1, 2))
    with pytest.raises(looplab.DataError, match=r"no data in \(None, \{'a': None\}\)"):
        tree.first((None, {"a": None}))


@pytest.mark.parametrize("static", [True, False])
def test_replicas_and_micro_batches_get_their_rows(static):
    def pieces(batch):
        return [strategy.rows(batch, index, 2) for index in range(2)]

    spec = tree.map_structure(lambda part: tf.TensorSpec([5 if static else None], part.dtype), BATCH)
    found = tf.function(pieces).get_concrete_function(spec)(*tree.flatten(BATCH))
    for one, other in zip(found, (slice(0, 2), slice(2, 5)), strict=True):
        tf.nest.assert_same_structure(one, BATCH)
        assert one[0]["m"] is None and one[1][0] is None
        np.testing.assert_array_equal(one[0]["v"], np.arange(5)[other])
    assert int(strategy.batch_size(BATCH)) == 5


def test_padded_rows_are_cut_and_counted():
    first, last = (strategy.rows(strategy.padded(BATCH, 8), index, 2) for index in range(2))
    assert first.rows[0]["m"] is None and first.size == last.size == 4
    np.testing.assert_array_equal(last.rows[1][1], [14, 14, 14, 14])
    assert [int(part.examples) for part in (first, last)] == [4, 1]
