"""The reference workloads: plain Keras networks and seeded, synthetic data; TensorFlow is imported late.

The peers train the very same networks by Adam on batches of 32 and report the mean of loss and accuracy over
an epoch (the GAN: of its two losses). An epoch is one pass over the data, in an order drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

BATCH = 32
EPOCHS = 500  # what the frameworks are asked for; the clock stops them long before


@dataclass(frozen=True)
class Workload:
    """What is trained.

    Attributes:
        name: What it goes by.
        about: It in a few words.
        nets: Makes the networks by name: `model` alone, or `generator` and `discriminator`.
        data: Makes so many examples, a pair of arrays: inputs and targets, or images and noise.
        epoch: Steps of an epoch, a multiple of `call`. About a second for most ways.
        call: Steps that a hand-written loop, Orbit and `steps_per_execution` run at once.
    """

    name: str
    about: str
    nets: Callable[[], dict[str, Any]]
    data: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
    epoch: int
    call: int

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the data of one epoch."""
        return self.data(np.random.default_rng(0), self.epoch * BATCH)

    def shortened(self, steps: int) -> Workload:
        """Returns the same with epochs of so many steps, for trying things out."""
        return replace(self, epoch=steps, call=max(c for c in range(1, self.call + 1) if steps % c == 0))


def _mlp() -> dict[str, Any]:
    from keras import Sequential, layers

    return {
        "model": Sequential(
            [
                layers.Input([64]),
                layers.Dense(64, activation="relu"),
                layers.Dense(64, activation="relu"),
                layers.Dense(10),
            ]
        )
    }


def _wide() -> dict[str, Any]:
    from keras import Sequential, layers

    hidden = [layers.Dense(1024, activation="relu") for _ in range(5)]
    return {"model": Sequential([layers.Input([64]), *hidden, layers.Dense(10)])}


def _cnn() -> dict[str, Any]:
    from keras import Sequential, layers

    return {
        "model": Sequential(
            [
                layers.Input([28, 28, 1]),
                layers.Conv2D(16, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(32, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dense(10),
            ]
        )
    }


def _resnet() -> dict[str, Any]:
    from keras import Input, Model, layers

    def normalized(x: Any, filters: int, strides: int = 1) -> Any:
        x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = Input([32, 32, 3])
    x = layers.ReLU()(normalized(inputs, 16))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = normalized(layers.ReLU()(normalized(x, filters, strides)), filters)
        if strides > 1:
            x = layers.Conv2D(filters, 1, strides)(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    return {"model": Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))}


def _lstm() -> dict[str, Any]:
    from keras import Sequential, layers

    return {"model": Sequential([layers.Input([32, 16]), layers.LSTM(64), layers.Dense(10)])}


def _transformer() -> dict[str, Any]:
    from keras import Input, Model, layers, ops

    tokens = Input([64], dtype="int32")
    x = layers.Embedding(100, 64)(tokens) + layers.Embedding(64, 64)(ops.arange(64))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 16)(y, y, use_causal_mask=True)
        y = layers.Dense(256, activation="relu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(64)(y)
    return {"model": Model(tokens, layers.Dense(100)(layers.LayerNormalization()(x)))}


def _embedding() -> dict[str, Any]:
    from keras import Sequential, layers

    return {
        "model": Sequential(
            [
                layers.Input([32], dtype="int32"),
                layers.Embedding(20_000, 64),
                layers.GlobalAveragePooling1D(),
                layers.Dense(10),
            ]
        )
    }


def _gan() -> dict[str, Any]:
    from keras import Sequential, layers

    def net(inputs: int, outputs: int) -> Any:
        return Sequential(
            [layers.Input([inputs]), layers.Dense(64, activation="relu"), layers.Dense(outputs)]
        )

    return {"generator": net(16, 64), "discriminator": net(64, 1)}


def _numbers(*shape: int) -> Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]:
    def make(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(size=(rows, *shape)).astype("float32"), rng.integers(0, 10, rows, "int32")

    return make


def _tokens(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    text = rng.integers(0, 100, (rows, 65), "int32")
    return text[:, :-1].copy(), text[:, 1:].copy()


def _words(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(0, 20_000, (rows, 32), "int32"), rng.integers(0, 10, rows, "int32")


def _images_and_noise(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.random((rows, 64), "float32"), rng.normal(size=(rows, 16)).astype("float32")


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("mlp", "64-64-10 on 64 features", _mlp, _numbers(64), 2000, 100),
        Workload("cnn", "2 convolutions, 28x28", _cnn, _numbers(28, 28, 1), 240, 20),
        Workload("resnet", "3 residual blocks, 32x32x3", _resnet, _numbers(32, 32, 3), 20, 5),
        Workload("lstm", "64 units, 32 steps x 16", _lstm, _numbers(32, 16), 240, 40),
        Workload("transformer", "2 layers x 64, 64 tokens", _transformer, _tokens, 40, 20),
        Workload("embedding", "20000 x 64", _embedding, _words, 300, 50),
        Workload("gan", "two networks, two optimizers", _gan, _images_and_noise, 2000, 100),
        Workload("wide", "50 MB with Adam's moments", _wide, _numbers(64), 20, 10),
    )
}
REFERENCE = tuple(name for name in WORKLOADS if name != "wide")  # that one is for checkpoints alone
