"""Folds of a cross-validation: exact parts of whatever is read by index, the same for every seed."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import looplab
from looplab.data import as_source, build_feed, check_labels, hold_out
from looplab.execution.batches import batch_at
from tests.data.test_contract import BATCHED, BY_EXAMPLE


def examples(source, **how):
    """What a source gives in a pass, in its order."""
    feed = build_feed(source, batch_size=3, **{"shuffle": False, "seed": 0, **how})
    feed.seek(0)
    batches = [batch_at(feed.take(1), 0) for _ in range(feed.steps_per_epoch)]
    return [row for batch in batches for row in rows(batch)]


def rows(batch):
    parts = [part.numpy() for part in tf.nest.flatten(batch)]
    return [tuple(part[at].tobytes() for part in parts) for at in range(len(parts[0]))]


@settings(max_examples=100)
@given(size=st.integers(2, 300), folds=st.integers(2, 12))
def test_each_example_is_in_exactly_one_fold(size, folds):
    folds = min(folds, size)
    held_out = []
    for fold in range(folds):
        train, validation = hold_out(np.arange(size), folds, fold)
        own = train.places(np.arange(train.size)), validation.places(np.arange(validation.size))
        assert sorted(np.concatenate(own)) == list(range(size))
        assert all(list(part) == sorted(part) for part in own)
        held_out.append(own[1])
    assert sorted(np.concatenate(held_out)) == list(range(size))
    sizes = [len(part) for part in held_out]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1


def test_folds_are_drawn_by_chance_and_stay_the_same_for_ever():
    _, first = hold_out(np.arange(12), 3, 0)
    assert first.places(np.arange(4)).tolist() == [1, 3, 6, 10]


@pytest.mark.share(1)
@pytest.mark.parametrize("kind", BY_EXAMPLE)
def test_any_source_that_is_read_by_index_is_divided(kind, tmp_path):
    source = as_source(BY_EXAMPLE[kind](tmp_path))
    whole = examples(source)
    parts = [hold_out(source, 3, fold) for fold in range(3)]
    held_out = [examples(validation) for _, validation in parts]
    assert sorted(row for part in held_out for row in part) == sorted(whole)
    for train, validation in parts:
        assert sorted(examples(train) + examples(validation, shuffle=True)) == sorted(whole)
        feed = build_feed(train, batch_size=3, shuffle=True, seed=1)
        assert [whole[row] for row in feed.rows(0)] == rows(feed.batch(0))  # as a bad step reports them


@pytest.mark.parametrize("kind", BATCHED)
def test_what_comes_in_batches_is_refused(kind, tmp_path):
    with pytest.raises(looplab.ConfigurationError, match=r"data\.folds: .*the data \(.*\) comes in batches"):
        hold_out(BATCHED[kind](tmp_path), 2, 0)


def test_more_folds_than_examples_are_refused():
    with pytest.raises(looplab.ConfigurationError, match=r"data.folds: 5 folds of 3 examples .* at most 3"):
        hold_out(np.arange(3), 5, 0)


def test_labels_weights_and_devices_go_through():
    x, y = np.arange(40.0), np.arange(40) % 2
    y[17] = 7
    train, validation = hold_out((x, y), 4, 1)
    assert {len(train.labels()), len(validation.labels())} == {30, 10}
    source = train if 17 in train.places(np.arange(train.size)) else validation
    feed = build_feed(source, batch_size=8, shuffle=False, seed=0)
    with pytest.raises(looplab.DataError, match=r"row 17 \(counted from 0\) is 7"):
        check_labels(feed, 2, "training")
    here, there = (
        build_feed(train.weighted({0: 1.0, 1: 3.0}), batch_size=8, shuffle=True, seed=0, device=device)
        for device in ("/CPU:0", "/CPU:1")
    )
    for own, other in zip(here.batch(1), there.batch(1), strict=True):
        np.testing.assert_array_equal(own, other)
    assert there.source.plain.whole.arrays[0].device.endswith("CPU:1")
    _, targets, weights = here.batch(0)
    np.testing.assert_array_equal(weights, np.where(targets == 1, 3.0, 1.0))


def test_a_fold_without_a_class_is_told(caplog):
    y = np.zeros(40, "int64")
    y[3] = 1
    for fold in range(4):
        hold_out((np.zeros((40, 1)), y), 4, fold)
    assert sum("lack the class 1" in message for message in caplog.messages) == 4
    assert sum("training examples lack the class 1" in message for message in caplog.messages) == 1
    assert "fold 0 of 4: the held-out examples lack the class 1. Use fewer folds" in caplog.text
