"""A small convolutional network for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from looplab.targets import configurable


@keras.saving.register_keras_serializable("looplab")
@configurable
class ConvNet(keras.Model):
    """Blocks of convolution, normalisation and ReLU, each halving the image; then a classifier.

    Takes images of shape `[examples, height, width, channels]`, returns logits of shape
    `[examples, classes]`.
    """

    def __init__(
        self,
        classes: int = 10,
        filters: Sequence[int] = (32, 64),
        dropout: float = 0.25,
        **kwargs: Any,
    ) -> None:
        """Makes the layers; their weights come with the first batch.

        Args:
            classes: Number of classes.
            filters: Filters of each block, at least one.
            dropout: Fraction dropped before the classifier, from 0 to below 1.
            **kwargs: Of `keras.Model`, such as `name`.
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
        """Returns the logits of images."""
        x = images
        for block in self.blocks:
            x = block(x, training=training)
        return self.classifier(self.drop(self.pool(x), training=training))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = {"classes": self.classes, "filters": list(self.filters), "dropout": self.dropout}
        return {**super().get_config(), **own}
