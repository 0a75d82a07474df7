"""Arrays of other libraries or of types that TensorFlow does not have: made plain, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from looplab.errors import DataError


def is_scipy(data: Any) -> bool:
    """Whether something is a sparse matrix of SciPy."""
    return type(data).__module__.startswith("scipy.sparse") and hasattr(data, "toarray")


def is_sparse(data: Any) -> bool:
    """Whether something is a sparse matrix of SciPy, or a sparse or ragged tensor."""
    return is_scipy(data) or isinstance(data, tf.SparseTensor | tf.RaggedTensor)


def dense(data: Any) -> Any:
    """Returns a sparse matrix or tensor, the rows of a batch, as an array; anything else as it is."""
    if isinstance(data, tf.SparseTensor):
        return tf.sparse.to_dense(tf.sparse.reorder(data)).numpy()
    return data.toarray() if is_scipy(data) else data


def plain(data: Any, name: str) -> np.ndarray:
    """Returns something that is like an array as one of NumPy, of a type that TensorFlow has.

    Args:
        data: An array, nested lists, or a table or a column of pandas.
        name: What part of the data it is, for the message.

    Raises:
        DataError: If it cannot be one; the message says what would be.
    """
    if is_sparse(data):
        raise _sparse(data, name)
    if isinstance(data, np.ma.MaskedArray):
        if np.ma.is_masked(data):
            raise DataError(
                f"{name}: {np.ma.count_masked(data)} values of the masked array are masked, and no step sees "
                "a mask. Fill them in (array.filled(0.0)); a sample_weight of 0 leaves an example out."
            )
        data = data.data
    if type(data).__module__.partition(".")[0] == "pandas":
        data = _of_pandas(data, name)
    try:
        array = np.asarray(data)
    except ValueError:
        raise _ragged(name) from None
    check_type(array, name)
    return array


def check_type(array: np.ndarray, name: str) -> None:
    """Refuses an array whose values TensorFlow has no type for.

    Args:
        array: Of any type.
        name: What part of the data it is, for the message.

    Raises:
        DataError: If that is so.
    """
    kind = array.dtype.kind
    if kind in "mM":
        raise DataError(
            f"{name}: the values are of type {array.dtype}, and TensorFlow has no dates and times. Make "
            "numbers of them, such as days: (dates - dates.min()) / numpy.timedelta64(1, 'D')."
        )
    if kind == "V" and array.dtype.names:
        raise DataError(
            f"{name}: the array is structured, with the fields {', '.join(array.dtype.names)}. Give a dict "
            "of them: {field: array[field] for field in array.dtype.names}."
        )
    if kind == "O":
        _check_objects(array, name)


def _check_objects(array: np.ndarray, name: str) -> None:
    values = array.ravel()
    if any(value is None for value in values):
        raise DataError(
            f"{name}: some values of an array are None. Only a whole part of the data may be None: fill them "
            "in, with a sample_weight of 0 for what is not to count."
        )
    if all(isinstance(value, bytes | str) for value in values):
        return
    if any(isinstance(value, list | tuple | np.ndarray) for value in values):
        raise _ragged(name)
    kinds = sorted({type(value).__name__ for value in values})
    if {"str", "bytes"} & set(kinds):
        advice = "Give texts and numbers apart, as a dict: {'words': ..., 'numbers': ...}."
    else:
        advice = "Say of which type they are: array.astype('float32')."
    raise DataError(f"{name}: the array has the dtype object, and holds {', '.join(kinds)}. {advice}")


def _ragged(name: str) -> DataError:
    return DataError(
        f"{name}: the rows are of different lengths, and an array has one shape. Pad them "
        "(keras.utils.pad_sequences), or give batches that are padded each: a function that returns a "
        "generator, or a tf.data.Dataset with padded_batch."
    )


def _sparse(data: Any, name: str) -> DataError:
    kind = type(data).__name__
    if isinstance(data, tf.RaggedTensor):
        how = (
            "array.to_tensor() pads it; tf.data.Dataset.from_tensor_slices((x, y)).batch(n) has batches that "
            "stay ragged, for a model that takes them"
        )
    else:
        how = "tf.sparse.to_dense(array) is one, if it fits in memory"
    return DataError(
        f"{name}: a {kind} is no dense array, of which batches are made. {how}; else give a sparse matrix of "
        "SciPy, or a function that returns a generator of batches: their rows are made dense."
    )


def _of_pandas(data: Any, name: str) -> Any:
    """Returns a table or a column with NumPy's own types in the place of pandas' own."""
    if not hasattr(data, "columns"):
        return _column(data, name)
    if all(isinstance(own, np.dtype) and own.kind in "iuf" for own in data.dtypes):
        return data  # NumPy's own; with bool beside them it would be an array of objects
    columns = [_column(data.iloc[:, at], f"{name}, column {own!r}") for at, own in enumerate(data.columns)]
    strange = [
        str(own) for own, column in zip(data.columns, columns, strict=True) if column.dtype.kind in "OSUmM"
    ]
    if strange and len(strange) < len(columns):
        raise DataError(
            f"{name}: of the table, the columns {', '.join(map(repr, strange))} hold no numbers, and others "
            "do. Leave them out, make numbers of them, or give a dict of columns, as looplab.data.table does."
        )
    return np.stack(columns, axis=1) if columns else data


def _column(data: Any, name: str) -> np.ndarray:
    own = getattr(getattr(data, "dtype", None), "numpy_dtype", None)  # of those that know missing values
    if own is not None and data.isna().any():
        raise DataError(
            f"{name}: some values are missing (NA), which {data.dtype} can hold and an array of numbers "
            "cannot. Fill them in (fillna(0)), or leave those rows out (dropna())."
        )
    return np.asarray(data, own)
