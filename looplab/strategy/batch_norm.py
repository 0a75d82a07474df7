"""BatchNormalization on several replicas: over the whole global batch, or over each replica's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from looplab.compat import patches
from looplab.errors import ConfigurationError
from looplab.strategy import collectives

_MOMENTS = "keras.layers.BatchNormalization._moments"


def layers_of(models: Mapping[str, keras.Model]) -> list[keras.layers.BatchNormalization]:
    """Returns every BatchNormalization layer of the models, at any depth."""
    kind = keras.layers.BatchNormalization
    return [
        layer for model in models.values() for layer in model._flatten_layers() if isinstance(layer, kind)
    ]


def are_trained(models: Mapping[str, keras.Model]) -> bool:
    """Whether a layer takes its statistics from batches; a frozen layer does not."""
    return any(layer.trainable for layer in layers_of(models))


def spread(models: Mapping[str, keras.Model], *, several: bool, in_pieces: bool, policy: str) -> None:
    """Makes the layers of models use the right statistics, also in slices without rows.

    Args:
        models: The models by name, built.
        several: Whether there are several replicas.
        in_pieces: Whether gradients are computed in micro-batches.
        policy: `"sync"` or `"local"`.
    """
    layers = layers_of(models)
    if several and policy == "sync":
        synchronize(layers, in_pieces=in_pieces)
    elif several or in_pieces:
        localize(layers)


def synchronize(layers: Sequence[keras.layers.BatchNormalization], *, in_pieces: bool) -> None:
    """Makes BatchNormalization average over all replicas, like one device; with masks too.

    Args:
        layers: The layers of all models.
        in_pieces: Whether a micro-batch may hold no rows at all, on any replica.
    """
    for layer in layers:
        layer.synchronized = True
        moments = partial(_synchronized_moments, layer)
        if in_pieces:
            moments = partial(_known_moments, layer, moments, True)
        patches.patch(_MOMENTS, layer, moments)


def localize(layers: Sequence[keras.layers.BatchNormalization]) -> None:
    """Makes BatchNormalization use a replica's own rows, also if it has none.

    Raises:
        ConfigurationError: If patches are off: a micro-batch without rows would make its statistics NaN.
    """
    if layers and not patches.are_on():
        raise ConfigurationError(f"micro_batches: a BatchNormalization in micro-batches {patches.NEEDED}")
    for layer in layers:
        patches.patch(_MOMENTS, layer, partial(_known_moments, layer, partial(_local_moments, layer), False))


def _synchronized_moments(layer: Any, inputs: tf.Tensor, mask: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Like Keras' method, which with a mask ignores the other replicas."""
    axes = layer._reduction_axes
    if mask is None:
        return keras.ops.moments(inputs, axes=axes, synchronized=True)
    kept = tf.broadcast_to(tf.cast(mask, tf.bool)[..., tf.newaxis], tf.shape(inputs))

    def summed(values: tf.Tensor) -> tf.Tensor:
        own = tf.reduce_sum(tf.where(kept, values, tf.zeros_like(values)), axis=axes)
        return collectives.reduce_sum([own])[0]

    count = summed(tf.ones_like(inputs)) + keras.config.epsilon()
    mean = summed(inputs) / count
    return mean, summed(tf.square(inputs - mean)) / count


def _local_moments(layer: Any, inputs: tf.Tensor, mask: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Like Keras' method, but ignores the layer's `synchronized`, which another trainer may have set."""
    if mask is None:
        return keras.ops.moments(inputs, axes=layer._reduction_axes)
    return type(layer)._moments(layer, inputs, mask)  # with a mask it is local


def _known_moments(
    layer: Any, usual: Any, everywhere: bool, inputs: tf.Tensor, mask: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the moments of the rows; without rows the moving statistics, because NaN would spread."""
    mean, variance = usual(inputs, mask)
    rows = tf.cast(tf.shape(inputs)[0], mean.dtype)
    some = (collectives.reduce_sum([rows])[0] if everywhere else rows) > 0
    known, spread = (tf.cast(own, mean.dtype) for own in (layer.moving_mean, layer.moving_variance))
    return tf.where(some, mean, known), tf.where(some, variance, spread)


def moving_statistics(layers: Sequence[keras.layers.BatchNormalization]) -> list[Any]:
    """Returns the moving statistics of BatchNormalization, which are not trained."""
    return [v for layer in layers for v in layer.weights if v is not layer.gamma and v is not layer.beta]
