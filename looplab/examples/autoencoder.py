"""An autoencoder of handwritten digits that removes noise (Vincent et al. 2008).

It keeps an image as a few numbers, and learns what is ink from images with noise. At real size, make it
convolutional, with some numbers for each place of a feature map.

    python -m looplab.train +experiment=autoencoder
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import looplab
from looplab.examples import baselines

layers = keras.layers


def mapping(name: str, outputs: int, width: int, dropout: float) -> keras.Sequential:
    """Returns two hidden layers and an output, for vectors."""
    hidden = [layers.Dense(width, "gelu"), layers.Dropout(dropout), layers.Dense(width, "gelu")]
    return keras.Sequential([layers.Flatten(), *hidden, layers.Dense(outputs)], name=name)


@looplab.configurable
class Autoencoder(keras.Model):
    """Maps images, shape `[n, 8, 8, 1]`, to `latent` numbers each, and these to images."""

    def __init__(self, latent: int = 8, width: int = 256, dropout: float = 0.1, **kwargs: Any) -> None:
        """Creates the layers; arguments are the numbers, the hidden units, and the dropout rate."""
        super().__init__(**kwargs)
        self.latent = latent
        self.encoder = mapping("encoder", latent, width, dropout)
        self.decoder = mapping("decoder", 64, width, dropout)

    def call(self, images: Any, training: bool = False) -> Any:
        """Returns the images as they come back."""
        codes = self.encoder(images, training=training)
        return tf.reshape(self.decoder(codes, training=training), tf.shape(images))

    def baseline(self, train: Any, held_out: Any) -> float:
        """Returns the error of as many principal components."""
        return baselines.pca(train, held_out, self.latent)


@looplab.configurable
class Denoiser(looplab.Trainer):
    """Learns to give an image back without the noise that it adds; evaluations add none."""

    def __init__(self, *args: Any, noise: float = 0.2, **kwargs: Any) -> None:
        """Stores the standard deviation of the noise; pixels are from 0 to 1."""
        super().__init__(*args, **kwargs)
        self.noise = noise

    def setup(self) -> None:
        """Creates the layer that adds it, whose source of random numbers is saved with the run."""
        self.add_noise = keras.layers.GaussianNoise(self.noise)

    def compute_loss(self, batch: Any, training: bool) -> Any:
        """Returns the squared error of a pixel, shape `[n]`."""
        given = self.add_noise(batch[0], training=training)
        return tf.reduce_mean((self.model(given, training=training) - batch[0]) ** 2, axis=[1, 2, 3])


@looplab.configurable
class Reconstructions(looplab.Callback):
    """Shows held-out digits above what comes back, and measures the error of a pixel."""

    def __init__(self, data: Any, every: str | int = "10ep") -> None:
        """Stores the digits by split, and the interval."""
        self.every, self.train, self.held_out = every, data["train"][0], data["validation"][0]

    def back(self, event: Any) -> Any:
        """Returns held-out digits as they come back."""
        found = event.models["model"](self.held_out, training=False)
        return np.asarray(found[0] if isinstance(found, tuple) else found)

    def on_step(self, event: looplab.callbacks.StepEvent, controls: Any) -> None:
        """Shows ten digits."""
        pair = np.stack([self.held_out[:10], self.back(event)[:10]])
        rows = np.pad(pair, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0))).transpose(0, 2, 1, 3, 4)
        controls.show("reconstructions", "image", rows.reshape(1, 20, 100, 1))

    def on_train_end(self, event: looplab.callbacks.Event, controls: Any) -> None:
        """States the result."""
        error = np.mean((self.back(event) - self.held_out) ** 2)
        baseline = event.models["model"].baseline(self.train, self.held_out)
        controls.result("squared error of a pixel", error, baseline=baseline, mode="min")
