"""Converts arrays of other libraries, and refuses types that TensorFlow does not have."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from looplab.errors import DataError


def is_scipy(data: Any) -> bool:
    """Returns whether the data is a sparse matrix of SciPy."""
    return type(data).__module__.startswith("scipy.sparse") and hasattr(data, "toarray")


def is_sparse(data: Any) -> bool:
    """Returns whether the data is a sparse matrix of SciPy, or a sparse or ragged tensor."""
    return is_scipy(data) or isinstance(data, tf.SparseTensor | tf.RaggedTensor)


def dense(data: Any) -> Any:
    """Returns a sparse matrix or tensor (the rows of a batch) as an array, and other data unchanged."""
    if isinstance(data, tf.SparseTensor):
        return tf.sparse.to_dense(tf.sparse.reorder(data)).numpy()
    return data.toarray() if is_scipy(data) else data


def plain(data: Any, name: str) -> np.ndarray:
    """Converts array-like data to a NumPy array of a type that TensorFlow has.

    Args:
        data: An array, nested lists, or a table or a column of pandas.
        name: The name of this part of the data, for the message.

    Raises:
        DataError: If it cannot be converted; the message says what to do.
    """
    if is_sparse(data):
        raise _sparse(data, name)
    if isinstance(data, np.ma.MaskedArray):
        if np.ma.is_masked(data):
            raise DataError(
                f"{name}: {np.ma.count_masked(data)} values of the masked array are masked, but steps do not "
                "see the mask. Fill them in (array.filled(0.0)); a sample_weight of 0 leaves an example out."
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
    """Refuses an array whose type TensorFlow does not have.

    Args:
        array: An array of any type.
        name: The name of this part of the data, for the message.

    Raises:
        DataError: If TensorFlow has no such type.
    """
    kind = array.dtype.kind
    if kind in "mM":
        raise DataError(
            f"{name}: the values are of type {array.dtype}, but TensorFlow has no dates and times. Convert "
            "them to numbers, such as days: (dates - dates.min()) / numpy.timedelta64(1, 'D')."
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
            f"{name}: some values of an array are None. Only a whole part of the data may be None. Fill the "
            "values in, and give them a sample_weight of 0 if they must not count."
        )
    if all(isinstance(value, bytes | str) for value in values):
        return
    if any(isinstance(value, list | tuple | np.ndarray) for value in values):
        raise _ragged(name)
    kinds = sorted({type(value).__name__ for value in values})
    if {"str", "bytes"} & set(kinds):
        advice = "Give strings and numbers separately, as a dict: {'words': ..., 'numbers': ...}."
    else:
        advice = "Choose a type: array.astype('float32')."
    raise DataError(f"{name}: the array has the dtype object and holds {', '.join(kinds)}. {advice}")


def _ragged(name: str) -> DataError:
    return DataError(
        f"{name}: the rows have different lengths, but an array has one shape. Pad them "
        "(keras.utils.pad_sequences), or pad each batch: give a function that returns a generator, or a "
        "tf.data.Dataset with padded_batch."
    )


def _sparse(data: Any, name: str) -> DataError:
    kind = type(data).__name__
    if isinstance(data, tf.RaggedTensor):
        how = (
            "Pad it with array.to_tensor(); or keep ragged batches, for a model that takes them, with "
            "tf.data.Dataset.from_tensor_slices((x, y)).batch(n)"
        )
    else:
        how = "If it fits in memory, convert it with tf.sparse.to_dense(array)"
    return DataError(
        f"{name}: a {kind} is not a dense array. {how}. Otherwise give a sparse matrix of SciPy, or a "
        "function that returns a generator of batches."
    )


def _of_pandas(data: Any, name: str) -> Any:
    """Returns a table or a column with NumPy's types instead of pandas' own."""
    if not hasattr(data, "columns"):
        return _column(data, name)
    if all(isinstance(own, np.dtype) and own.kind in "iuf" for own in data.dtypes):
        return data  # columns of NumPy's types; a bool column beside them would give an array of objects
    columns = [_column(data.iloc[:, at], f"{name}, column {own!r}") for at, own in enumerate(data.columns)]
    strange = [
        str(own) for own, column in zip(data.columns, columns, strict=True) if column.dtype.kind in "OSUmM"
    ]
    if strange and len(strange) < len(columns):
        raise DataError(
            f"{name}: the columns {', '.join(map(repr, strange))} of the table hold no numbers, but the "
            "others do. Leave them out, convert them to numbers, or give a dict of columns."
        )
    return np.stack(columns, axis=1) if columns else data


def _column(data: Any, name: str) -> np.ndarray:
    own = getattr(getattr(data, "dtype", None), "numpy_dtype", None)  # of pandas' types with missing values
    if own is not None and data.isna().any():
        raise DataError(
            f"{name}: some values of type {data.dtype} are missing (NA), which an array of numbers cannot "
            "hold. Fill them in (fillna(0)), or leave those rows out (dropna())."
        )
    return np.asarray(data, own)
