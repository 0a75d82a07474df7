"""Arrays of pandas, SciPy and types that TensorFlow does not have: they train, or the advice is right."""

import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.data import build_feed
from looplab.data.arrays import as_arrays
from looplab.errors import DataError
from looplab.strategy import tree

X, Y = np.arange(12, dtype="float32").reshape(4, 3), np.ones((4, 1), "float32")
HAS = {name: importlib.util.find_spec(name) is not None for name in ("pandas", "scipy")}
pandas = pytest.mark.skipif(not HAS["pandas"], reason="pandas is not installed")
scipy = pytest.mark.skipif(not HAS["scipy"], reason="SciPy is not installed")


def column(values, dtype):
    import pandas as pd

    return pd.Series(values, dtype=dtype)


def table(**columns):
    import pandas as pd

    return pd.DataFrame(columns)


def sparse(kind, array):
    import scipy.sparse

    return getattr(scipy.sparse, kind)(array)


def fit(data):
    trainer = looplab.Trainer(
        lambda: keras.Sequential([keras.layers.Dense(1)]), "sgd", "mse", execution="graph"
    )
    return trainer.fit(data, verbose=0, epochs=1)


TRAIN = {
    "masked array without masked values": lambda: (np.ma.masked_array(X), Y),
    "lists": lambda: (X.tolist(), Y.tolist()),
    "uint64": lambda: (X.astype("uint64"), Y),
    "matrix": lambda: (np.asmatrix(X), Y),
}
OF_PANDAS = {
    "Int64": lambda: (table(a=column([1, 2, 3, 4], "Int64"), b=column([1, 2, 3, 4], "Int32")), Y),
    "Int64 beside float": lambda: (table(a=column([1, 2, 3, 4], "Int64"), b=[1.5, 2.0, 3.0, 4.0]), Y),
    "Float64": lambda: (table(a=column([1.5, 2, 3, 4], "Float64")), column([1.0, 2.0, 3.0, 4.0], "Float32")),
    "boolean": lambda: (X, column([True, False, True, True], "boolean")),
    "bool beside float": lambda: (table(a=[True, False, True, False], b=[1.5, 2.0, 3.0, 4.0]), Y),
}


@pytest.mark.share(2)
@pytest.mark.parametrize("kind", TRAIN)
def test_these_train(kind):
    assert np.isfinite(fit(TRAIN[kind]()).history["loss"][0])


@pytest.mark.share(2)
@pandas
@pytest.mark.parametrize("kind", OF_PANDAS)
def test_these_of_pandas_train(kind):
    assert np.isfinite(fit(OF_PANDAS[kind]()).history["loss"][0])


@pandas
def test_the_numbers_are_those_of_the_table():
    frame = table(a=column([1, 2, 3, 2**60], "Int64"), b=column([5, 6, 7, 8], "Int64"))
    found = as_arrays(frame)
    assert found.dtype == np.int64 and found.tolist() == [[1, 5], [2, 6], [3, 7], [2**60, 8]]
    frame.columns = ["a", "a"]  # a table may have two columns of one name
    assert as_arrays(frame).tolist() == found.tolist()
    assert as_arrays(column(["a", "b"], "string")).tolist() == ["a", "b"]


REFUSED = {
    "object numbers": (
        lambda: (X.astype(object), Y),
        r"^inputs: .*object.*holds float\. .*astype\('float32'\)",
    ),
    "object mixed": (
        lambda: (np.array([["a", 2.0]] * 4, object), Y),
        r"inputs: .*holds float, str\..*as a dict",
    ),
    "object None": (
        lambda: (X, np.array([1.0, None, 1.0, 1.0], object)),
        r"targets: some values .* are None\.",
    ),
    "ragged list": (
        lambda: ([[1], [1, 2], [3], [4]], Y),
        r"inputs: the rows have different lengths.*pad_seq",
    ),
    "ragged arrays": (
        lambda: (np.array([np.ones(n) for n in (1, 2, 3, 4)], object), Y),
        r"inputs: the rows have different lengths.*pad_sequences",
    ),
    "ragged tensor": (
        lambda: (tf.ragged.constant([[1.0], [1.0, 2.0], [3.0], [4.0]]), Y),
        r"inputs: .*to_tensor",
    ),
    "sparse tensor": (
        lambda: (tf.sparse.from_dense(X), Y),
        r"inputs: a SparseTensor is .*tf\.sparse\.to_dense",
    ),
    "dates": (
        lambda: (X, np.array(["2020-01-01"] * 4, "M8[D]")),
        r"targets: .*datetime64\[D\].*no dates and times",
    ),
    "times": (lambda: ({"a": np.ones(4, "m8[s]")}, Y), r"^inputs/a: .*timedelta64\[s\]"),
    "structured": (
        lambda: (np.zeros(4, [("u", "f4"), ("v", "f4")]), Y),
        r"inputs: .*fields u, v\. Give a dict",
    ),
    "masked": (
        lambda: (np.ma.masked_array(X, X > 5), Y),
        r"inputs: 6 values of the masked array .*filled\(0\.0\)",
    ),
    "texts as targets": (lambda: (X, np.array(list("abcd"))), r"targets are texts.*return_inverse"),
    "empty": (lambda: (X[:0], Y[:0]), r"the data is empty"),
    "lengths": (lambda: (X, Y[:3]), r"different lengths \[3, 4\].*inputs \(4, 3\), targets \(3, 1\)"),
    "vectors": (
        lambda: tf.data.Dataset.from_tensor_slices((X, Y)),
        r"is \(float32 \[3\], float32 \[1\]\), .*single examples, add `\.batch\(size\)`",
    ),
    "scalars": (
        lambda: tf.data.Dataset.from_tensor_slices((X, Y[:, 0])),
        r"it is not batched\. Add `\.batch\(size",
    ),
    "generator of examples": (
        lambda: lambda: iter([(X[0], Y[0])] * 4),
        r"Elements are whole batches, not examples: stack some \(numpy\.stack\)",
    ),
}
REFUSED_OF_PANDAS = {
    "NA": (
        lambda: (table(a=column([1, None, 3, 4], "Int64")), Y),
        r"inputs, column 'a': some values of type Int64 are missing \(NA\).*fillna\(0\)",
    ),
    "NA among targets": (lambda: (X, column([True, None, True, True], "boolean")), r"targets: .* NA|\(NA\)"),
    "a column of texts": (
        lambda: (table(a=[1, 2, 3, 4], b=list("abcd")), Y),
        r"columns 'b' of the table hold no numbers",
    ),
    "dates": (lambda: (X, column(["2020-01-01"] * 4, "datetime64[ns]")), r"targets: .*no dates and times"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_the_advice(kind):
    make, says = REFUSED[kind]
    with pytest.raises(DataError, match=says):
        fit(make())


@pandas
@pytest.mark.parametrize("kind", REFUSED_OF_PANDAS)
def test_the_advice_of_tables(kind):
    make, says = REFUSED_OF_PANDAS[kind]
    with pytest.raises(DataError, match=says):
        fit(make())


@pytest.mark.share(1)
@scipy
@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "coo_array", "lil_matrix"])
def test_a_sparse_matrix_trains_as_the_same_array(kind):
    def batches(*parts):
        return lambda: iter([parts] * 2)

    targets = np.eye(4, 1, dtype="float32")
    matrix = sparse(kind, X), sparse(kind, targets)
    for data, same in (
        (matrix, (X, targets)),
        ({"a": matrix[0], "b": X}, {"a": X, "b": X}),
        (batches(*matrix), batches(X, targets)),
    ):
        feeds = [
            build_feed(d, batch_size=None, shuffle=False, seed=0, steps_per_epoch=1) for d in (data, same)
        ]
        found, expected = (tree.flatten(feed.batch(0)) for feed in feeds)
        for left, right in zip(found, expected, strict=True):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
    dense = fit((X, targets)).history["loss"]
    np.testing.assert_allclose(fit(matrix).history["loss"], dense)


def test_sparse_tensors_in_batches_are_made_dense():
    feed = build_feed(lambda: iter([(tf.sparse.from_dense(X), Y)]), batch_size=None, shuffle=False, seed=0)
    np.testing.assert_array_equal(feed.batch(0)[0], X)
