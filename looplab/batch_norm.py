"""BatchNormalization on several replicas: over the whole global batch, or over each replica's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from looplab import strategy


def layers_of(models: Mapping[str, keras.Model]) -> list[keras.layers.BatchNormalization]:
    """Returns every BatchNormalization of the models, however deep."""
    kind = keras.layers.BatchNormalization
    return [
        layer for model in models.values() for layer in model._flatten_layers() if isinstance(layer, kind)
    ]


def synchronize(layers: Sequence[keras.layers.BatchNormalization]) -> None:
    """Makes BatchNormalization average over all replicas, as one device would; with masks too."""
    for layer in layers:
        layer.synchronized = True
        layer._moments = partial(_moments, layer, layer._reduction_axes)


def _moments(layer: Any, axes: Sequence[int], inputs: tf.Tensor, mask: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """As Keras' own, which forgets the other replicas where there is a mask."""
    if mask is None:
        return keras.ops.moments(inputs, axes=axes, synchronized=True)
    kept = tf.broadcast_to(tf.cast(mask, tf.bool)[..., tf.newaxis], tf.shape(inputs))

    def summed(values: tf.Tensor) -> tf.Tensor:
        own = tf.reduce_sum(tf.where(kept, values, tf.zeros_like(values)), axis=axes)
        return strategy.reduce_sum([own])[0]

    count = summed(tf.ones_like(inputs)) + keras.config.epsilon()
    mean = summed(inputs) / count
    return mean, summed(tf.square(inputs - mean)) / count


def localize(layers: Sequence[keras.layers.BatchNormalization]) -> None:
    """Lets BatchNormalization see a replica's own rows, also where it has none."""
    for layer in layers:
        layer._moments = partial(_finite_moments, type(layer)._moments.__get__(layer))


def _finite_moments(usual: Any, inputs: tf.Tensor, mask: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """The mean of no rows is NaN, and so would be the gradient of what it is multiplied with."""
    mean, variance = usual(inputs, mask)
    some = tf.size(inputs) > 0
    return tf.where(some, mean, tf.zeros_like(mean)), tf.where(some, variance, tf.ones_like(variance))


def moving_statistics(layers: Sequence[keras.layers.BatchNormalization]) -> list[Any]:
    """Returns the variables of BatchNormalization that move without being trained."""
    return [v for layer in layers for v in layer.weights if v is not layer.gamma and v is not layer.beta]
