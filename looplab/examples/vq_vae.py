"""A vector-quantised autoencoder of handwritten digits (VQ-VAE, van den Oord et al. 2017).

It keeps an image as a few indices into a codebook. The gradient passes through the choice of an index as if
it were not there (straight-through). Codes that are hardly used are replaced by what the encoder made of a
batch. At real size, make it convolutional, with an index for each place of a feature map.

    python -m looplab.train +experiment=vq_vae
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import looplab
from looplab.examples import baselines
from looplab.examples.autoencoder import Reconstructions, mapping


@looplab.configurable
class VQVAE(keras.Model):
    """Maps images, shape `[n, 8, 8, 1]`, to `slots` indices of codes each, and these to images.

    Attributes:
        codes: The codebook, shape `[number, dimension]`.
        used: How often each code was used lately; 1 is its fair share.
    """

    def __init__(
        self, slots: int = 4, number: int = 64, dimension: int = 8, width: int = 256, dropout: float = 0.1
    ) -> None:
        """Creates the layers and the codebook."""
        super().__init__()
        self.slots = slots
        self.encoder = mapping("encoder", slots * dimension, width, dropout)
        self.decoder = mapping("decoder", 64, width, dropout)
        self.codes = self.add_weight((number, dimension), "random_normal", name="codes")
        self.used = self.add_weight((number,), "ones", trainable=False, name="used")

    def points(self, images: Any, training: bool = False) -> Any:
        """Returns what is to be replaced by codes, shape `[n * slots, dimension]`."""
        return tf.reshape(self.encoder(images, training=training), [-1, self.codes.shape[1]])

    def nearest(self, points: Any) -> Any:
        """Returns the index of the code that is nearest to each point."""
        codes = tf.convert_to_tensor(self.codes)
        return tf.argmin(tf.reduce_sum(codes**2, axis=1) - 2 * points @ tf.transpose(codes), axis=1)

    def call(self, images: Any, training: bool = False) -> Any:
        """Returns the images as they come back, the points and their codes."""
        points = self.points(images, training)
        codes = tf.gather(tf.convert_to_tensor(self.codes), self.nearest(points))
        passed = points + tf.stop_gradient(codes - points)
        passed = tf.reshape(passed, [-1, self.slots * self.codes.shape[1]])
        return tf.reshape(self.decoder(passed, training=training), tf.shape(images)), points, codes

    def baseline(self, train: Any, held_out: Any) -> float:
        """Returns the error of principal components of as many bits."""
        return baselines.quantised_pca(train, held_out, self.slots * int(np.log2(self.codes.shape[0])))


@looplab.configurable
class Codebook(looplab.Trainer):
    """Trains a VQ-VAE, and replaces codes that are hardly used by points of the batch."""

    def compute_loss(self, batch: Any, training: bool) -> Any:
        """Returns three terms, shape `[n]`: the error of a pixel, of codes, and of points far from them."""
        images, points, codes = self.model(batch[0], training=training)
        apart = [points - tf.stop_gradient(codes), tf.stop_gradient(points) - codes]
        near, code = (
            tf.reduce_mean(tf.reshape(each**2, [-1, self.model.slots * codes.shape[1]]), 1) for each in apart
        )
        error = tf.reduce_mean((images - batch[0]) ** 2, axis=[1, 2, 3])
        return {"error": error, "codes": code, "commitment": 0.25 * near}

    def train_step(self, batch: Any) -> dict[str, Any]:
        """Makes an update, and counts which codes the points of the global batch use."""
        logs = self.minimize(self.compute_loss, batch)
        model, points = self.model, self.all_gather(self.model.points(batch[0]))
        number = model.codes.shape[0]
        share = tf.reduce_mean(tf.one_hot(model.nearest(points), number), axis=0) * number
        model.used.assign(0.98 * model.used + 0.02 * share)
        unused = model.used < 0.05
        with looplab.random.shared():
            seed = [self.seed, tf.cast(self.step, tf.int32)]
            chosen = tf.random.stateless_uniform([number], seed, 0, tf.shape(points)[0], tf.int32)
        model.codes.assign(tf.where(unused[:, None], tf.gather(points, chosen), model.codes))
        model.used.assign(tf.where(unused, 1.0, model.used))
        return logs


@looplab.configurable
class CodebookUse(Reconstructions):
    """Shows reconstructions, and logs the share of codes that held-out digits use."""

    def on_step(self, event: looplab.callbacks.StepEvent, controls: Any) -> None:
        """Shows and logs them."""
        super().on_step(event, controls)
        model = event.models["model"]
        used = np.unique(model.nearest(model.points(self.held_out)))
        controls.log({"codes_used": len(used) / model.codes.shape[0]})
