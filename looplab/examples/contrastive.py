"""Contrastive learning with a momentum encoder, on handwritten digits without their labels.

Two random views of one image should be closer to each other than to the views of all other images. A slow
copy of the encoder, which follows it as a moving average ("MoCo", He et al. 2020), encodes the views to
compare with; the other images are those of the whole batch ("MoCo v3", Chen et al. 2021).

    python -m looplab.train +experiment=contrastive
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import looplab


@looplab.configurable
class Encoder(keras.Model):
    """Maps images, shape `[n, 8, 8, 1]`, to `features` and to their unit-length `projection`."""

    def __init__(self, filters: Sequence[int] = (32, 64), dimension: int = 64, **kwargs: Any) -> None:
        """Creates the layers; arguments are the filters of each block and the length of a projection."""
        image = x = keras.Input((8, 8, 1))
        for width in filters:
            x = keras.layers.Conv2D(width, 3, padding="same")(x)
            x = keras.layers.GroupNormalization(8)(x)
            x = keras.layers.ReLU()(x)
            x = keras.layers.MaxPooling2D()(x)
        features = keras.layers.GlobalAveragePooling2D()(x)
        x = keras.layers.Dense(2 * dimension, "relu")(features)
        projection = keras.layers.UnitNormalization()(keras.layers.Dense(dimension)(x))
        super().__init__(image, {"features": features, "projection": projection}, **kwargs)


@looplab.configurable
class MomentumContrast(looplab.Trainer):
    """Trains an encoder on pairs of views, against the keys of a slow copy of it."""

    def __init__(self, *args: Any, momentum: float = 0.99, temperature: float = 0.2, **kwargs: Any) -> None:
        """Stores the momentum of the slow copy, and the temperature that divides similarities."""
        super().__init__(*args, **kwargs)
        self.momentum, self.temperature = momentum, temperature

    def setup(self) -> None:
        """Creates the slow copy and the random views; both are saved, with their seeds, like the encoder."""
        self.slow = keras.models.clone_model(self.model)
        self.slow.set_weights(self.model.get_weights())
        self.view = keras.Sequential(
            [
                keras.layers.RandomTranslation(0.15, 0.15, fill_mode="constant"),
                keras.layers.RandomRotation(0.06, fill_mode="constant"),
                keras.layers.RandomZoom(0.2, fill_mode="constant"),
                keras.layers.GaussianNoise(0.1),
            ]
        )

    def train_step(self, batch: Any) -> dict[str, Any]:
        """Updates the encoder, and then moves the slow copy a little towards it."""
        logs = self.minimize(*self.contrast(batch))
        for slow, fast in zip(self.slow.variables, self.model.variables, strict=True):
            slow.assign(self.momentum * slow + (1 - self.momentum) * fast)
        return logs

    def test_step(self, batch: Any) -> dict[str, Any]:
        """Measures the same loss on views of held-out digits."""
        return self.measure(*self.contrast(batch))

    def contrast(self, batch: Any) -> tuple[Any, Any]:
        """Returns the loss and its batch: two views of each image, and their keys from the slow copy."""
        images, _ = batch
        views = self.view(images, training=True), self.view(images, training=True)
        keys = [self.slow(view)["projection"] for view in views]
        # The other images' keys are the same for every part of the batch: no gradient flows into them.
        everyone = [self.all_gather(own) for own in keys]

        def info_nce(query: Any, key: Any, others: Any) -> tf.Tensor:
            query = self.model(query, training=True)["projection"]
            alike = tf.reduce_sum(query * key, axis=-1) / self.temperature
            return tf.reduce_logsumexp(query @ tf.transpose(others) / self.temperature, axis=-1) - alike

        def loss(part: Any, training: bool) -> tf.Tensor:
            (first, second), (first_key, second_key) = part
            there = info_nce(first, second_key, everyone[1])
            return there + info_nce(second, first_key, everyone[0])

        return loss, (views, keys)


@looplab.configurable
class LinearProbe(looplab.Callback):
    """Fits a linear classifier to frozen features, and tests it on held-out digits."""

    def __init__(self, data: Any, every: str | int = "10ep", few: int = 10) -> None:
        """Stores the digits by split, the interval, and the labels per class of the probe with few labels."""
        self.every = every
        (self.images, self.labels), (self.held_out, self.truth) = data["train"], data["validation"]
        self.few = np.concatenate([np.flatnonzero(self.labels == digit)[:few] for digit in range(10)])

    def on_step(self, event: looplab.callbacks.StepEvent, controls: Any) -> None:
        """Logs the accuracy on held-out digits, with all labels and with a few of each class."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        known, unknown = (
            event.models["model"](images)["features"].numpy() for images in (self.images, self.held_out)
        )
        accuracy = {}
        for name, rows in (("probe_accuracy", slice(None)), ("probe_accuracy_few", self.few)):
            probe = make_pipeline(StandardScaler(), LogisticRegression()).fit(known[rows], self.labels[rows])
            accuracy[name] = probe.score(unknown, self.truth)
        controls.log(accuracy)
