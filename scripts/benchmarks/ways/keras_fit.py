"""`model.fit`, with its defaults and with what one would try by hand."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import tensorflow as tf

from benchmarks.clock import Clock
from benchmarks.pipeline import pipeline
from benchmarks.steps import gan_step
from benchmarks.workloads import EPOCHS, Workload


def train(
    workload: Workload,
    clock: Clock,
    *,
    jit_compile: bool | str,
    many: bool,
    strategy: Any,
    extra: str,
    folder: str,
) -> None:
    """Trains until the clock has seen enough.

    Args:
        workload: What to train.
        clock: Told of epochs.
        jit_compile: As in `model.compile`, whose default is `"auto"`.
        many: Whether `steps_per_execution` is the workload's `call`, not 1.
        strategy: None for one device.
        extra: `"log"` writes every batch to TensorBoard, `"save"` the model after each epoch.
        folder: Where.
    """
    keras.utils.set_random_seed(0)
    execution = workload.call if many else 1
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        nets = workload.nets()
        model = GAN(nets) if "generator" in nets else nets["model"]
        model.compile(
            optimizer="adam",
            loss=None
            if "generator" in nets
            else keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=None if "generator" in nets else ["accuracy"],
            jit_compile=jit_compile,
            steps_per_execution=execution,
        )
    data = pipeline(workload.arrays())
    model.fit(data, epochs=1, steps_per_epoch=execution, verbose=0, shuffle=False)
    clock.first(execution)
    callbacks: list[Any] = [_Told(clock, workload.epoch)]
    if extra == "log":
        callbacks.insert(0, keras.callbacks.TensorBoard(folder, update_freq="batch"))
    if extra == "save":
        callbacks.insert(0, keras.callbacks.ModelCheckpoint(f"{folder}/model.keras"))
    steps = workload.epoch
    model.fit(data, epochs=EPOCHS, steps_per_epoch=steps, verbose=0, shuffle=False, callbacks=callbacks)


class _Told(keras.callbacks.Callback):
    """Hooks into the ends of epochs alone: hooks of batches would cost every step."""

    def __init__(self, clock: Clock, steps: int) -> None:
        super().__init__()
        self._clock, self._steps = clock, steps

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.stop_training = self._clock.mark(self._steps, logs.get("loss", logs.get("d_loss")))


class GAN(keras.Model):
    """Two networks and two optimizers under `model.fit`, as Keras' own guide writes it."""

    def __init__(self, nets: dict[str, Any]) -> None:
        super().__init__()
        self.generator, self.discriminator = nets["generator"], nets["discriminator"]
        self.d_optimizer, self.g_optimizer = keras.optimizers.Adam(), keras.optimizers.Adam()
        self.d_optimizer.build(self.discriminator.trainable_variables)
        self.g_optimizer.build(self.generator.trainable_variables)
        self.d_loss, self.g_loss = keras.metrics.Mean("d_loss"), keras.metrics.Mean("g_loss")
        self.built = True

    @property
    def metrics(self) -> list[Any]:
        """What is reset at each epoch."""
        return [self.d_loss, self.g_loss]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Says whether images look real; training does not use it."""
        return self.discriminator(inputs)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Makes both updates."""
        nets = {"generator": self.generator, "discriminator": self.discriminator}
        optimizers = {"generator": self.g_optimizer, "discriminator": self.d_optimizer}
        losses = gan_step(nets, optimizers, *data)
        self.d_loss.update_state(losses[0])
        self.g_loss.update_state(losses[1])
        return {metric.name: metric.result() for metric in self.metrics}
