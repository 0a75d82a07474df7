"""Draws of some rows, beside the same rows of one draw for the whole batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from looplab.execution import moved_draws
from looplab.execution.moved_draws import Place
from looplab.random import BY_ROW, Layout

SEED = [3, 11]
FLOATS, INTEGERS = ("float16", "bfloat16", "float32", "float64"), ("int32", "int64")


def _calls(draw):
    """Returns the calls of kernels that a function makes."""
    seen = []
    before = moved_draws.stateless_random_ops.gen_stateless_random_ops._drawn
    kernels = [
        getattr(moved_draws.stateless_random_ops, name)
        for name in ("gen_stateless_random_ops", "gen_stateless_random_ops_v2")
    ]
    for each in kernels:
        each._drawn = lambda call: seen.append(call) or call.run()
    try:
        draw()
    finally:
        for each in kernels:
            each._drawn = before
    return seen


def by_counter(kind, shape, dtype):
    draw = {
        "uniform": tf.random.stateless_uniform,
        "normal": tf.random.stateless_normal,
        "truncated": tf.random.stateless_truncated_normal,
        "gamma": lambda s, k, dtype: tf.random.stateless_gamma(s, k, tf.ones([], dtype) * 2, dtype=dtype),
        "integers": lambda s, k, dtype: tf.random.stateless_uniform(s, k, 0, 1000, dtype),
        "all integers": lambda s, k, dtype: tf.random.stateless_uniform(s, k, None, None, dtype),
    }[kind]
    (call,) = _calls(lambda: draw(shape, SEED, dtype=dtype))
    return call


KINDS = [
    *((kind, dtype) for kind in ("uniform", "normal", "truncated") for dtype in FLOATS),
    *(("gamma", dtype) for dtype in ("float16", "float32", "float64")),
    *((kind, dtype) for kind in ("integers", "all integers") for dtype in INTEGERS),
]


@pytest.mark.share(6)
@pytest.mark.parametrize(("kind", "dtype"), KINDS)
@settings(max_examples=20)
@given(data=st.data())
def test_a_draw_from_a_row_on_has_the_bits_of_the_whole(kind, dtype, data):
    whole = data.draw(st.integers(1, 40))
    first = data.draw(st.integers(0, whole))
    rows = data.draw(st.integers(0, whole - first))
    width = data.draw(st.lists(st.integers(1, 5), max_size=2))
    place = (
        Place(first, rows, whole)
        if data.draw(st.booleans())
        else Place(*map(tf.constant, (first, rows, whole)))
    )
    expected = by_counter(kind, [whole, *width], dtype).run()
    found = by_counter(kind, [rows, *width], dtype).of_rows(place, BY_ROW)
    assert np.array_equal(found, expected[first : first + rows])


def by_seed(kind, rows, width):
    """Returns a function of an interval of rows to a draw whose arrays have a value for each."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0.2, 4, size=(rows, width)).astype("float32")
    key = tf.constant(SEED)
    return {
        "categories": lambda own: tf.random.stateless_categorical(values[own], 3, key),
        "binomial": lambda own: tf.random.stateless_binomial(
            values[own].shape, key, tf.round(values[own] * 5), values[own] / 5
        ),
        "binomial of all": lambda own: tf.random.stateless_binomial(values[own].shape, key, 5.0, 0.5),
        "binomial of columns": lambda own: tf.random.stateless_binomial(
            values[own].shape, key, 9.0, values[0] / 5
        ),
        "poisson": lambda own: tf.random.stateless_poisson(values[own].shape, key, values[own]),
        "gamma of columns": lambda own: tf.random.stateless_gamma(values[own].shape, key, values[0]),
        "gamma of elements": lambda own: tf.random.stateless_gamma(values[own].shape, key, values[own]),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "categories",
        "binomial",
        "binomial of all",
        "binomial of columns",
        "poisson",
        "gamma of columns",
        "gamma of elements",
    ],
)
@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(2, 4), st.data())
def test_a_kernel_that_only_knows_a_seed_draws_for_all_and_takes_its_rows(kind, whole, width, data):
    first = data.draw(st.integers(0, whole))
    rows = data.draw(st.integers(0, whole - first))
    draw = by_seed(kind, whole, width)
    (call,) = _calls(lambda: draw(slice(first, first + rows)))
    found = call.of_rows(Place(first, rows, whole), BY_ROW)
    (all_rows,) = _calls(lambda: draw(slice(0, whole)))
    assert np.array_equal(found, all_rows.run()[first : first + rows])


@settings(max_examples=20)
@given(
    st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.sampled_from(["uniform", "gamma"]), st.data()
)
def test_rows_are_taken_where_a_layout_says(whole, times, other, kind, data):
    """`axis`, `views` and `folded`, beside NumPy's slices of the whole draw."""
    first = data.draw(st.integers(0, whole))
    rows = data.draw(st.integers(0 if times == 1 else 1, max(1, whole - first)))
    rows = min(rows, whole - first)
    place = Place(first, rows, whole)
    for axis in (0, 1):
        for views, folded in ((times, False), (1, True)):
            layout = Layout(axis, views, folded)
            own = [other, other]
            own[axis] = rows * times
            full = [other, other]
            full[axis] = whole * times
            if folded and rows == 0:
                continue
            expected = np.moveaxis(by_counter(kind, full, "float32").run().numpy(), axis, 0)
            outer, inner = (whole, times) if folded else (times, whole)
            expected = expected.reshape([outer, inner, other])
            at = slice(first, first + rows)
            expected = expected[at] if folded else expected[:, at]
            expected = np.moveaxis(expected.reshape([rows * times, other]), 0, axis)
            found = by_counter(kind, own, "float32").of_rows(
                place, layout if times > 1 or axis or folded else BY_ROW
            )
            assert np.array_equal(found, expected), layout


def test_replicas_that_draw_apart_draw_other_numbers_and_the_first_those_of_tensorflow():
    for call in (
        by_counter("normal", [64], "float32"),
        *_calls(lambda: by_seed("poisson", 64, 1)(slice(0, 64))),
    ):
        drawn = [call.apart(tf.constant(replica)).numpy() for replica in range(3)]
        assert np.array_equal(drawn[0], call.run())
        assert len({own.tobytes() for own in drawn}) == 3


def test_a_compiled_draw_has_the_shape_of_its_rows_and_their_numbers():
    """In XLA shapes are fixed; the first row is not."""
    whole = keras.random.normal([10, 3], seed=5).numpy()

    @tf.function(jit_compile=True)
    def part(first):
        found = []

        def draw():
            return keras.random.normal([4, 3], seed=5)

        (call,) = _calls(draw)
        found = call.of_rows(Place(first, 4, 10), BY_ROW)
        assert found.shape == (4, 3)
        return found

    from looplab.execution.xla_random import as_outside_xla

    with as_outside_xla():
        assert np.allclose(part(tf.constant(5)), whole[5:9], rtol=1e-6)
