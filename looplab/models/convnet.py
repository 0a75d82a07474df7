"""A small convolutional network for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from looplab.targets import configurable


@keras.saving.register_keras_serializable("looplab")
@configurable
class ConvNet(keras.Model):
    """A convolutional classifier of images.

    Each block has two 3x3 convolutions, each followed by batch normalization and ReLU, and halves the image
    by max pooling. Global average pooling, dropout and a dense layer follow. The model takes images of shape
    `[examples, height, width, channels]` and returns logits of shape `[examples, classes]`.
    """

    def __init__(
        self,
        classes: int = 10,
        filters: Sequence[int] = (32, 64),
        dropout: float = 0.25,
        **kwargs: Any,
    ) -> None:
        """Creates the layers. Keras creates their weights at the first batch.

        Args:
            classes: The number of classes.
            filters: The number of filters in each block, for at least one block.
            dropout: The fraction of features that is dropped before the classifier, from 0 to below 1.
            **kwargs: Further arguments of `keras.Model`, such as `name`.
        """
        super().__init__(**kwargs)
        self.classes, self.filters, self.dropout = classes, tuple(filters), dropout
        self.blocks = [
            keras.Sequential(
                [
                    keras.layers.Conv2D(width, 3, padding="same", use_bias=False),
                    keras.layers.BatchNormalization(momentum=0.9),
                    keras.layers.ReLU(),
                    keras.layers.Conv2D(width, 3, padding="same", use_bias=False),
                    keras.layers.BatchNormalization(momentum=0.9),
                    keras.layers.ReLU(),
                    keras.layers.MaxPooling2D(2, padding="same"),
                ],
                name=f"block_{index}",
            )
            for index, width in enumerate(self.filters)
        ]
        self.pool = keras.layers.GlobalAveragePooling2D()
        self.drop = keras.layers.Dropout(dropout)
        self.classifier = keras.layers.Dense(classes)

    def call(self, images: Any, training: bool = False) -> Any:
        """Returns the logits of a batch of images.

        Args:
            images: Floating point, shape `[examples, height, width, channels]`.
            training: Whether dropout is active and batch normalization uses the batch's statistics.

        Returns:
            Logits, shape `[examples, classes]`.
        """
        x = images
        for block in self.blocks:
            x = block(x, training=training)
        return self.classifier(self.drop(self.pool(x), training=training))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = {"classes": self.classes, "filters": list(self.filters), "dropout": self.dropout}
        return {**super().get_config(), **own}
