"""Orbit's `StandardTrainer` and `Controller` around the same step and the same Keras 3 network."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import keras
import tensorflow as tf

from benchmarks import orbit_packages
from benchmarks.clock import Clock
from benchmarks.pipeline import pipeline
from benchmarks.steps import Step, step_of
from benchmarks.workloads import Workload


def train(
    workload: Workload, clock: Clock, *, jit_compile: bool, strategy: Any, extra: str, folder: str
) -> None:
    """Trains until the clock has seen enough.

    Args:
        workload: What to train.
        clock: Told of epochs.
        jit_compile: Whether the step in Orbit's loop is compiled by XLA.
        strategy: None; one device only.
        extra: Nothing.
        folder: Not used.
    """
    assert strategy is None and not extra, (strategy, extra)
    keras.utils.set_random_seed(0)
    sys.path.append(str(orbit_packages.FOLDER))
    step = step_of(workload.nets())
    controller = _controller(workload, tf.function(step, jit_compile=True) if jit_compile else step)
    with contextlib.redirect_stdout(sys.stderr):  # it prints a line for each loop
        controller.train(workload.call)
        clock.first(workload.call)
        done = workload.call
        while True:
            done += workload.epoch
            controller.train(done)
            if clock.mark(workload.epoch, controller.trainer.loss):
                return


def _controller(workload: Workload, step: Step) -> Any:
    import orbit

    class Trainer(orbit.StandardTrainer):
        """Tracks its two numbers in a variable, as Orbit's own trainers do in metrics."""

        def __init__(self) -> None:
            super().__init__(train_dataset=pipeline(workload.arrays()))
            self.global_step = tf.Variable(0, dtype=tf.int64, trainable=False)
            self.total = tf.Variable(tf.zeros([2]), trainable=False)

        def train_loop_begin(self) -> None:
            self.total.assign(tf.zeros([2]))

        def train_step(self, iterator: Any) -> None:
            self.total.assign_add(step(*next(iterator)))
            self.global_step.assign_add(1)

        def train_loop_end(self) -> dict[str, Any]:
            mean = self.total / workload.call
            self.loss = float(mean[0])  # of the last loop
            return {"loss": mean[0], "accuracy": mean[1]}

    trainer = Trainer()
    return orbit.Controller(trainer=trainer, global_step=trainer.global_step, steps_per_loop=workload.call)
