"""Creates data as in a new process."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab.data.adapters import is_registered
from looplab.data.passes import Copies, counting
from looplab.errors import ConfigurationError


def fresh(data: Any, call: str) -> Any:
    """Returns data as in a new process.

    Args:
        data: Data that `fit` takes, or a function that creates it. Other objects are copied if possible.
        call: How it was given, up to the data, such as `"check_resume(trainer, "`; for the message.

    Raises:
        ConfigurationError: If it is a pipeline whose state a new process would not have.
    """
    if isinstance(data, tf.data.Dataset) and counting(data) and Copies(data).new() is None:
        raise ConfigurationError(
            f"{call.partition('(')[0]}: a tf.data.Dataset that shuffles continues to count its passes, but a "
            "new process starts again; and looplab cannot copy this one, because it holds more than 64 MB of "
            "arrays or because TensorFlow cannot save its graph. Give a function that creates it: "
            f"{call}lambda: dataset.shuffle(...))."
        )
    if callable(data) and not isinstance(data, keras.utils.PyDataset) and not is_registered(data):
        found = data()
        return data if isinstance(found, Iterator) else found
    if data is None or isinstance(data, tf.data.Dataset | np.ndarray | tuple | list | dict):
        return data
    try:
        return copy.deepcopy(data)
    except Exception:  # then each run gets the same object
        return data
