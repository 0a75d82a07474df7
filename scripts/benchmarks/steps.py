"""One training step written by hand, for the hand-written loops and Orbit; and the GAN of `model.fit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

Step = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def step_of(nets: dict[str, Any], replicas: int = 1) -> Step:
    """Makes the step of a workload, its optimizers built; call it in the strategy's scope.

    Args:
        nets: As `Workload.nets` returns them.
        replicas: Over how many the batch is split evenly: Keras' optimizers add their gradients.

    Returns:
        From a batch to the two numbers that are tracked, shape `[2]`: loss and accuracy, or two losses.
    """
    optimizers = {name: keras.optimizers.Adam() for name in nets}
    for name, optimizer in optimizers.items():
        optimizer.build(nets[name].trainable_variables)
    if "generator" in nets:
        return lambda images, noise: gan_step(nets, optimizers, images, noise)
    model, optimizer = nets["model"], optimizers["model"]

    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
            loss = tf.reduce_mean(losses)
            shared = loss / replicas
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(shared, variables), variables)
        right = tf.argmax(logits, axis=-1, output_type=y.dtype) == y
        return tf.stack([loss, tf.reduce_mean(tf.cast(right, tf.float32))])

    return step


def gan_step(
    nets: dict[str, Any], optimizers: dict[str, Any], images: tf.Tensor, noise: tf.Tensor
) -> tf.Tensor:
    """Updates the discriminator, then the generator; returns both losses, shape `[2]`."""
    generator, discriminator = nets["generator"], nets["discriminator"]
    with tf.GradientTape() as tape:
        real = discriminator(images, training=True)
        fake = discriminator(generator(noise, training=True), training=True)
        d_loss = tf.reduce_mean(tf.nn.softplus(-real)) + tf.reduce_mean(tf.nn.softplus(fake))
    variables = discriminator.trainable_variables
    optimizers["discriminator"].apply(tape.gradient(d_loss, variables), variables)
    with tf.GradientTape() as tape:
        fake = discriminator(generator(noise, training=True), training=True)
        g_loss = tf.reduce_mean(tf.nn.softplus(-fake))
    variables = generator.trainable_variables
    optimizers["generator"].apply(tape.gradient(g_loss, variables), variables)
    return tf.stack([d_loss, g_loss])
