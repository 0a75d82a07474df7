"""Reads data sets of TensorFlow Datasets by index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from looplab.data.host_sources import SequenceSource
from looplab.errors import ConfigurationError, DataError, nearest
from looplab.targets import configurable


@configurable(user_only=("data_dir", "download"))
def tfds(
    name: str,
    split: str,
    inputs: str = "image",
    target: str | None = "label",
    data_dir: str | Path | None = None,
    download: bool = False,
) -> SequenceSource:
    """Reads a split of a data set that TensorFlow Datasets has prepared for access by index.

    Args:
        name: A name such as `"mnist"`, prepared with `tfds.builder(name, file_format="array_record")`.
        split: A split such as `"train"`, or a part of it, `"train[:90%]"`.
        inputs: The feature that is the input.
        target: The feature that is the target, or None.
        data_dir: The folder of the data sets; None for the default of TensorFlow Datasets.
        download: Whether to download and prepare a data set that is not in the folder.

    Raises:
        ConfigurationError: If TensorFlow Datasets is not installed, or there is no such feature.
        DataError: If the data set cannot be read.
    """
    try:
        import tensorflow_datasets
    except ImportError:
        raise ConfigurationError(
            f"{name}: TensorFlow Datasets is not installed. Run: pip install tensorflow-datasets"
        ) from None
    try:
        found = tensorflow_datasets.data_source(name, split=split, data_dir=data_dir, download=download)
    except Exception as error:
        raise DataError(f"{type(error).__name__}: {error}, reading the data set {name!r}.") from error
    if not len(found):
        raise DataError(f"the data is empty: {name} has no examples in {split!r}.")
    first = found[0]
    for argument, feature in (("inputs", inputs), ("target", target)):
        if feature is not None and feature not in first:
            raise ConfigurationError(
                f"{argument}: {name} has no feature {feature!r}; its features are {', '.join(first)}."
                + nearest(feature, first)
            )
    return SequenceSource(_Features(found, inputs, target))


class _Features:
    """Some features of the examples of a data set."""

    def __init__(self, source: Any, inputs: str, target: str | None) -> None:
        self._source, self._inputs, self._target = source, inputs, target

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        example = self._source[index]
        return (
            example[self._inputs] if self._target is None else (example[self._inputs], example[self._target])
        )
