"""`looplab.Trainer.fit`, as its users write it."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

import looplab
from benchmarks.clock import Clock
from benchmarks.workloads import BATCH, EPOCHS, Workload


def train(
    workload: Workload, clock: Clock, *, execution: str, strategy: Any, extra: str, folder: str
) -> None:
    """Trains until the clock has seen enough.

    Args:
        workload: What to train.
        clock: Told of epochs.
        execution: As `looplab.Trainer` takes it.
        strategy: None for one device.
        extra: `"log"` records every step to JSONL and TensorBoard, `"keep"` an epoch, with a watchdog,
            `"save"` saves after each epoch, `"wait"` likewise and waits until that is done.
        folder: Where.
    """
    options: dict[str, Any] = {
        "execution": execution,
        "strategy": strategy or "auto",
        "callbacks": [_Told(clock)],
        "log_every": 1 if extra == "log" else "1ep",
        "run_dir": f"{folder}/run" if extra else None,
        "hang_timeout": "60min" if extra == "keep" else None,
    }
    if extra in ("log", "keep"):
        # The loss falls, so no epoch after the first is best: nothing is saved while the clock runs.
        options["checkpoint"] = looplab.CheckpointPolicy(every="1000ep", mode="max")
    elif extra == "wait":
        options["checkpoint"] = looplab.CheckpointPolicy(asynchronous=False)
    trainer = _trainer(workload, options)
    trainer.fit(workload.arrays(), batch_size=BATCH, epochs=EPOCHS, verbose=0)


def _trainer(workload: Workload, options: dict[str, Any]) -> looplab.Trainer:
    if workload.name == "gan":
        nets = {name: lambda name=name: workload.nets()[name] for name in ("generator", "discriminator")}
        return GAN(models=nets, optimizers=dict.fromkeys(nets, "adam"), **options)
    return looplab.Trainer(
        lambda: workload.nets()["model"],
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **options,
    )


class _Told(looplab.Callback):
    """Hears of executions and of epochs; no execution becomes shorter by it."""

    every = None

    def __init__(self, clock: Clock) -> None:
        self._clock, self._step = clock, 0

    def on_clock(self, event: Any, controls: Any) -> None:
        self._clock.first(event.step)

    def on_epoch_end(self, event: Any, controls: Any) -> None:
        steps, self._step = event.step - self._step, event.step
        values = event.values
        if self._clock.mark(steps, values.get("loss", values.get("discriminator/loss"))):
            controls.stop("the clock has seen enough")


class GAN(looplab.Trainer):
    """Two networks and two optimizers."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        """Makes both updates."""
        d = self.minimize(self.discriminator_loss, batch, "discriminator")
        g = self.minimize(self.generator_loss, batch, "generator")
        return {**d, **g}

    def discriminator_loss(self, batch: Any, training: bool) -> tf.Tensor:
        """Should tell images from what the generator makes."""
        images, noise = batch
        real = self.models["discriminator"](images, training=training)
        fake = self.models["discriminator"](
            self.models["generator"](noise, training=training), training=training
        )
        return tf.nn.softplus(-real)[:, 0] + tf.nn.softplus(fake)[:, 0]

    def generator_loss(self, batch: Any, training: bool) -> tf.Tensor:
        """Should be taken for images."""
        fake = self.models["generator"](batch[1], training=training)
        return tf.nn.softplus(-self.models["discriminator"](fake, training=training))[:, 0]
