"""Reads a folder of images with one subfolder for each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from looplab.data.host_sources import Singles
from looplab.errors import ConfigurationError, DataError, nearest
from looplab.targets import configurable

_CHANNELS = {"grayscale": 1, "rgb": 3, "rgba": 4}
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png"}


@configurable(reads=("directory",))
def image_folder(
    directory: str | Path,
    image_size: tuple[int, int] = (256, 256),
    color_mode: str = "rgb",
    seed: int | None = 0,
) -> Images:
    """Reads the images below a folder, with their classes.

    The arguments are those of Keras' `image_dataset_from_directory`. An example is `(image, label)`. The
    image is float32 of shape `[height, width, channels]` with values from 0 to 255. The label is int64: the
    index of the folder's name among the sorted names, which `class_names` holds.

    Args:
        directory: A folder with one subfolder for each class, named like the class, with bmp, gif, jpeg or
            png files at any depth.
        image_size: The height and width to which images are resized (bilinear; proportions are not kept).
        color_mode: `"grayscale"`, `"rgb"` or `"rgba"`.
        seed: Determines the order of the images, so that a held-out part (`validation_split`) has all
            classes. The order does not depend on the run's seed. None sorts them by class and name.

    Raises:
        ConfigurationError: If an argument has another value.
        DataError: If there are no images, or the first image cannot be decoded.
    """
    if color_mode not in _CHANNELS:
        raise ConfigurationError(
            f"color_mode: {color_mode!r} is not one of {', '.join(_CHANNELS)}."
            + nearest(str(color_mode), _CHANNELS)
        )
    if len(image_size) != 2 or any(length < 1 for length in image_size):
        raise ConfigurationError(f"image_size: expected (height, width), got {image_size!r}.")
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise DataError(f"there is no folder {root}.")
    classes = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [
        (path, label)
        for label, folder in enumerate(classes)
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]
    if not found:
        raise DataError(
            f"{root} has no images: expected a folder for each class with files that end in "
            f"{', '.join(sorted(_SUFFIXES))}; found the folders {[path.name for path in classes]}."
        )
    if seed is not None:
        found = [found[index] for index in np.random.default_rng(seed).permutation(len(found))]
    return Images(root, found, [path.name for path in classes], tuple(image_size), _CHANNELS[color_mode])


class Images(Singles):
    """See `image_folder`.

    Attributes:
        class_names: The classes in the order of their labels.
    """

    kind = "images"
    faster = (
        "images are decoded and resized on threads: store them in the size of training, use arrays if they "
        "fit into memory, or use more processor cores"
    )

    def __init__(
        self,
        root: Path,
        found: list[tuple[Path, int]],
        class_names: list[str],
        image_size: tuple[int, ...],
        channels: int,
    ) -> None:
        self.class_names = class_names
        self._found, self._image_size, self._channels = found, image_size, channels
        super().__init__(len(found), f"images in {len(class_names)} classes of {root}")

    def example(self, row: int) -> Any:
        """See `Singles`."""
        path, label = self._found[row]
        with tf.device("/CPU:0"):
            image = tf.io.decode_image(tf.io.read_file(str(path)), self._channels, expand_animations=False)
            return tf.image.resize(image, self._image_size).numpy(), np.int64(label)

    def place(self, row: int) -> str:
        """See `Singles`."""
        return f"reading image {row} (counted from 0), {self._found[row][0]}"
