"""A variational autoencoder of handwritten digits (Kingma and Welling 2014): named terms, a KL warm-up.

A pixel of these digits counts the inked dots of a 4 x 4 block, 0 to 16 (stored as a fraction of 16). With a
binomial likelihood of the counts, the loss is minus a lower bound (ELBO) on the log probability of the image,
in nats.

    python -m looplab.train +experiment=vae
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import looplab

DOTS = 16.0  # in a pixel


@looplab.configurable
class Sampling(keras.layers.Layer):
    """Draws from normal distributions with given means and log variances, shapes `[n, latent]`."""

    def __init__(self, **kwargs: Any) -> None:
        """Creates the source of noise, which is saved with the run and differs on every replica."""
        super().__init__(**kwargs)
        self.random = keras.random.SeedGenerator()

    def call(self, mean: Any, log_variance: Any) -> Any:
        """Returns a draw from each, differentiable in both arguments (the reparametrisation trick)."""
        noise = keras.random.normal(keras.ops.shape(mean), dtype=mean.dtype, seed=self.random)
        return mean + keras.ops.exp(0.5 * log_variance) * noise


@looplab.configurable
class Autoencoder(keras.Model):
    """Maps images, shape `[n, 8, 8, 1]`, to codes, and codes to the probability of ink in each pixel."""

    def __init__(self, latent: int = 16, width: int = 256, dropout: float = 0.2, **kwargs: Any) -> None:
        """Creates the layers; arguments are the length of a code, the hidden units, and the dropout rate."""
        super().__init__(**kwargs)
        self.latent = latent
        layers = keras.layers
        self.encoder = keras.Sequential(
            [
                layers.Flatten(),
                layers.Dense(width, "relu"),
                layers.Dropout(dropout),
                layers.Dense(width, "relu"),
                layers.Dense(2 * latent),
            ],
            name="encoder",
        )
        self.sampling = Sampling(name="sampling")
        self.decoder = keras.Sequential(
            [
                layers.Dense(width, "relu"),
                layers.Dropout(dropout),
                layers.Dense(width, "relu"),
                layers.Dense(64),
                layers.Reshape((8, 8, 1)),
            ],
            name="decoder",
        )

    def call(self, images: Any, training: bool = False) -> dict[str, Any]:
        """Returns the logits of ink, shape `[n, 8, 8, 1]`, and the distribution of codes, `[n, latent]`."""
        mean, log_variance = keras.ops.split(self.encoder(images, training=training), 2, axis=-1)
        code = self.sampling(mean, log_variance)
        return {"logits": self.decoder(code, training=training), "mean": mean, "log_variance": log_variance}


@looplab.configurable
class VAE(looplab.Trainer):
    """Minimises minus the ELBO; the weight of its KL term rises from 0 to 1 at the start of training."""

    def __init__(self, *args: Any, warmup_steps: int = 1000, **kwargs: Any) -> None:
        """Stores the step at which the KL term has its full weight (Bowman et al. 2016)."""
        super().__init__(*args, **kwargs)
        self.warmup_steps = warmup_steps

    def compute_loss(self, batch: Any, training: bool) -> Any:
        """Returns two terms in nats, shapes `[n]`; an evaluation gives KL its full weight."""
        counts = DOTS * batch[0]
        out = self.model(batch[0], training=training)
        logits, mean, log_variance = out["logits"], out["mean"], out["log_variance"]
        ways = tf.math.lgamma(DOTS + 1) - tf.math.lgamma(counts + 1) - tf.math.lgamma(DOTS - counts + 1)
        likelihood = ways + counts * logits - DOTS * tf.nn.softplus(logits)
        kl = 0.5 * tf.reduce_sum(mean**2 + tf.exp(log_variance) - log_variance - 1, axis=-1)
        weight = tf.minimum(tf.cast(self.step, kl.dtype) / self.warmup_steps, 1.0) if training else 1.0
        return {"reconstruction": -tf.reduce_sum(likelihood, axis=[1, 2, 3]), "kl": weight * kl}


@looplab.configurable
class Pictures(looplab.Callback):
    """Shows held-out digits, their reconstructions below, and a row of images from random codes."""

    def __init__(self, data: Any, every: str | int = "10ep") -> None:
        """Stores ten digits of the validation split, and the interval at which to show them."""
        self.every, self.images = every, data["validation"][0][:10]

    def on_step(self, event: looplab.callbacks.StepEvent, controls: Any) -> None:
        """Shows one picture with three rows."""
        model = event.models["model"]
        codes = np.random.default_rng(0).normal(size=(10, model.latent)).astype("float32")
        mean, _ = keras.ops.split(model.encoder(self.images), 2, axis=-1)
        made = tf.sigmoid(model.decoder(tf.concat([mean, codes], axis=0))).numpy()
        rows = np.pad(np.concatenate([self.images, made]), ((0, 0), (1, 1), (1, 1), (0, 0)))
        picture = rows.reshape(3, 10, 10, 10).transpose(0, 2, 1, 3).reshape(1, 30, 100, 1)
        controls.show("reconstructions", "image", picture)
