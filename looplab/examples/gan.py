"""A GAN and its WGAN-GP variant on handwritten digits: two models, two optimizers, one step.

`GAN` uses the game of Goodfellow et al. 2014, "Generative Adversarial Nets", with the non-saturating loss for
the generator. In `WGANGP` (Gulrajani et al. 2017, "Improved Training of Wasserstein GANs") the critic takes
several steps for each step of the generator, and a tape inside a tape keeps its slope
near 1.

    python -m looplab.train +experiment=gan  # or wgan_gp
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import looplab


@looplab.configurable
class Generator(keras.Model):
    """Maps noise, shape `[n, latent]`, to images from 0 to 1, shape `[n, 8, 8, 1]`."""

    def __init__(self, latent: int = 32, width: int = 256, **kwargs: Any) -> None:
        """Creates the layers; arguments are the length of the noise and the units of the hidden layers."""
        noise = keras.Input((latent,))
        x = keras.layers.Dense(width, "relu")(keras.layers.Dense(width, "relu")(noise))
        x = keras.layers.Dense(8 * 8, "sigmoid")(x)
        super().__init__(noise, keras.layers.Reshape((8, 8, 1))(x), **kwargs)


@looplab.configurable
class Critic(keras.Model):
    """Maps images, shape `[n, 8, 8, 1]`, to scores, shape `[n, 1]`: high for images that look real."""

    def __init__(self, width: int = 256, dropout: float = 0.0, **kwargs: Any) -> None:
        """Creates two hidden layers of `width` units, with dropout."""
        image = keras.Input((8, 8, 1))
        x = keras.layers.Flatten()(image)
        for _ in range(2):
            x = keras.layers.LeakyReLU(0.2)(keras.layers.Dense(width)(x))
            x = keras.layers.Dropout(dropout)(x)
        super().__init__(image, keras.layers.Dense(1)(x), **kwargs)


@looplab.configurable
class GAN(looplab.Trainer):
    """The critic learns to distinguish real digits from generated ones; the generator learns to fool it."""

    def setup(self) -> None:
        """Creates the source of noise, which is saved with the run and differs on every replica."""
        self.random = keras.random.SeedGenerator()

    def train_step(self, batch: Any) -> dict[str, Any]:
        """Makes one update of the critic and one of the generator, with the same noise."""
        batch = self.with_noise(batch)
        critic = self.minimize(self.critic_loss, batch, "critic")
        return {**critic, **self.minimize(self.generator_loss, batch, "generator")}

    def test_step(self, batch: Any) -> dict[str, Any]:
        """Returns the score of held-out digits: if it falls, the critic overfits its training digits."""
        return {"critic/held_out": tf.reduce_mean(self.models["critic"](batch[0], training=False))}

    def with_noise(self, batch: Any) -> dict[str, Any]:
        """Draws the losses' noise once per step, because losses must be pure functions of their batch."""
        images, _ = batch
        count, latent = tf.shape(images)[0], self.models["generator"].input_shape[-1]
        return {
            "real": images,
            "noise": keras.random.normal((count, latent), seed=self.random),
            "share": keras.random.uniform((count, 1, 1, 1), seed=self.random),
        }

    def critic_loss(self, batch: Any, training: bool) -> Any:
        """Returns minus the log probability of the right answer, for real and generated digits, `[n, 1]`."""
        critic, made = self.models["critic"], self.models["generator"](batch["noise"])
        return {
            "real": tf.nn.softplus(-critic(batch["real"], training=training)),
            "made": tf.nn.softplus(critic(made, training=training)),
        }

    def generator_loss(self, batch: Any, training: bool) -> Any:
        """Returns values of shape `[n, 1]`, which are low if the critic believes the generated digits."""
        made = self.models["generator"](batch["noise"], training=training)
        return tf.nn.softplus(-self.models["critic"](made, training=training))


@looplab.configurable
class WGANGP(GAN):
    """The critic measures the distance of generated from real digits; the generator reduces it."""

    def __init__(self, *args: Any, critic_steps: int = 3, penalty: float = 10.0, **kwargs: Any) -> None:
        """Stores the critic's updates per step, each on its part of the batch, and the penalty's weight."""
        super().__init__(*args, **kwargs)
        self.critic_steps, self.penalty = critic_steps, penalty

    def train_step(self, batch: Any) -> dict[str, Any]:
        """Makes several updates of the critic, and one of the generator."""
        batch = self.with_noise(batch)
        for index in range(self.critic_steps):
            part = looplab.strategy.rows(batch, index, self.critic_steps)
            critic = self.minimize(self.critic_loss, part, "critic")
        return {**critic, **self.minimize(self.generator_loss, part, "generator")}

    def critic_loss(self, batch: Any, training: bool) -> Any:
        """Returns minus the distance, and the penalty on slopes between real and made digits, `[n, 1]`."""
        critic, made = self.models["critic"], self.models["generator"](batch["noise"])
        between = batch["share"] * batch["real"] + (1 - batch["share"]) * made
        with tf.GradientTape() as tape:  # inside the tape of minimize
            tape.watch(between)
            score = critic(between, training=training)
        squares = tf.reduce_sum(tape.gradient(score, between) ** 2, axis=[1, 2, 3])
        slope = tf.sqrt(squares + 1e-12)[:, None]  # the slope of a square root is infinite at 0
        return {
            "distance": critic(made, training=training) - critic(batch["real"], training=training),
            "penalty": self.penalty * (slope - 1) ** 2,
        }

    def generator_loss(self, batch: Any, training: bool) -> Any:
        """Returns minus the critic's score, shape `[n, 1]`."""
        made = self.models["generator"](batch["noise"], training=training)
        return -self.models["critic"](made, training=training)


@looplab.configurable
class Judge(looplab.Callback):
    """Classifies a thousand samples with a classifier of digits, and shows a hundred of them."""

    def __init__(self, data: Any, every: str | int = "10ep") -> None:
        """Fits the classifier to the digits of the training split, and stores the interval."""
        from sklearn.neighbors import KNeighborsClassifier

        self.every, (images, labels) = every, data["train"]
        # Ten neighbours must agree. A network would be confident about many images of pure noise.
        self.classifier = KNeighborsClassifier(10).fit(images.reshape(-1, 64), labels)

    def on_step(self, event: looplab.callbacks.StepEvent, controls: Any) -> None:
        """Logs the share of samples whose class has p > 0.9, and the number of classes with at least 2 %."""
        generator = event.models["generator"]
        noise = np.random.default_rng(0).normal(size=(1000, generator.input_shape[-1]))
        samples = np.asarray(generator(noise.astype("float32")))
        chances = self.classifier.predict_proba(samples.reshape(-1, 64))
        shares = np.bincount(chances.argmax(axis=1), minlength=10) / len(samples)
        figures = {
            "recognised": np.mean(chances.max(axis=1) > 0.9),
            "confidence": np.mean(chances.max(axis=1)),
            "classes": np.sum(shares >= 0.02),
            "entropy": -np.sum(shares * np.log(shares + 1e-12)),  # of the classes, at most log(10) = 2.30
        }
        controls.log(figures)
        framed = np.pad(samples[:100], ((0, 0), (1, 1), (1, 1), (0, 0)))
        picture = framed.reshape(10, 10, 10, 10).transpose(0, 2, 1, 3).reshape(1, 100, 100, 1)
        controls.show("samples", "image", picture)
