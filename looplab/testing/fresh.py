"""Creates data as in a new process."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab.data.adapters import is_registered
from looplab.data.pipeline_inspection import counts_passes
from looplab.errors import ConfigurationError


def fresh(data: Any, call: str) -> Any:
    """Returns data as in a new process.

    Args:
        data: Data that `fit` takes, or a function that creates it. Other objects are copied if possible.
        call: How it was given, up to the data, such as `"check_resume(trainer, "`; for the message.

    Raises:
        ConfigurationError: If it is a pipeline whose state a new process would not have.
    """
    if isinstance(data, tf.data.Dataset) and counts_passes(data):
        raise ConfigurationError(
            f"{call.partition('(')[0]}: a tf.data.Dataset that shuffles continues to count its passes, but a "
            f"new process starts again. Give a function that creates it: {call}lambda: dataset.shuffle(...))."
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
