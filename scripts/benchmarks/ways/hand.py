"""Loops written by hand, with care: what somebody who knows TensorFlow writes for this very step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks.clock import Clock
from benchmarks.pipeline import orders, pipeline
from benchmarks.steps import Step, step_of
from benchmarks.workloads import BATCH, Workload

# Runs the next steps and returns the sums of what is tracked, shape [2], on the device.
Advance = Callable[[], tf.Tensor]


def train(workload: Workload, clock: Clock, *, kind: str, strategy: Any, extra: str, folder: str) -> None:
    """Trains until the clock has seen enough.

    Args:
        workload: What to train.
        clock: Told of epochs.
        kind: One of `KINDS`.
        strategy: For `loop` alone; None for one device.
        extra: Nothing; there is nothing to log or to save here.
        folder: Not used.
    """
    assert not extra, extra
    keras.utils.set_random_seed(0)
    calls = workload.epoch if kind == "function" else workload.epoch // workload.call
    if strategy is not None:
        assert kind == "loop", kind
        advance = _replicated(workload, strategy)
    else:
        advance = KINDS[kind](workload, step_of(workload.nets()))
    float(advance()[0])
    clock.first(workload.epoch // calls)
    while True:
        sums = [advance() for _ in range(calls)]
        loss, _ = tf.add_n(sums).numpy() / workload.epoch
        if clock.mark(workload.epoch, loss):
            return


def _function(workload: Workload, step: Step) -> Advance:
    """One call of a `tf.function` for each step, which takes its batch inside."""
    iterator = iter(pipeline(workload.arrays()))

    @tf.function
    def one(iterator: Any) -> tf.Tensor:
        return step(*next(iterator))

    return lambda: one(iterator)


def _loop(workload: Workload, step: Step) -> Advance:
    """An in-graph loop over the pipeline's iterator."""
    iterator = iter(pipeline(workload.arrays()))

    @tf.function
    def loop(iterator: Any) -> tf.Tensor:
        total = tf.zeros([2])
        for _ in tf.range(workload.call):
            total += step(*next(iterator))
        return total

    return lambda: loop(iterator)


def _loop_xla(workload: Workload, step: Step) -> Advance:
    """The same, with the step compiled by XLA."""
    return _loop(workload, tf.function(step, jit_compile=True))


def _stacked(workload: Workload, step: Step) -> Advance:
    """An in-graph loop over batches that the pipeline has stacked: it is asked once, not for each batch."""
    return _over_stacks(workload, step, jit_compile=None)


def _xla_loop(workload: Workload, step: Step) -> Advance:
    """The whole loop in XLA, over batches that the pipeline has stacked."""
    return _over_stacks(workload, step, jit_compile=True)


def _over_stacks(workload: Workload, step: Step, jit_compile: bool | None) -> Advance:
    iterator = iter(pipeline(workload.arrays(), stack=(workload.call,)))

    @tf.function(jit_compile=jit_compile)
    def loop(xs: tf.Tensor, ys: tf.Tensor) -> tf.Tensor:
        total = tf.zeros([2])
        for i in tf.range(workload.call):
            total += step(xs[i], ys[i])
        return total

    return lambda: loop(*next(iterator))


def _resident(workload: Workload, step: Step) -> Advance:
    """The whole loop in XLA over data that lives on the device; rows are drawn outside, gathered inside."""
    return _over_rows(workload, step, jit_compile=True)


def _resident_graph(workload: Workload, step: Step) -> Advance:
    """An in-graph loop over data that lives on the device."""
    return _over_rows(workload, step, jit_compile=None)


def _resident_step(workload: Workload, step: Step) -> Advance:
    """The same, with the step compiled by XLA."""
    return _resident_graph(workload, tf.function(step, jit_compile=True))


def _over_rows(workload: Workload, step: Step, jit_compile: bool | None) -> Advance:
    x, y = (tf.constant(array) for array in workload.arrays())

    @tf.function(jit_compile=jit_compile)
    def loop(order: tf.Tensor) -> tf.Tensor:
        total = tf.zeros([2])
        for i in tf.range(workload.call):
            total += step(tf.gather(x, order[i]), tf.gather(y, order[i]))
        return total

    return _over_passes(workload, loop)


def _over_passes(workload: Workload, loop: Callable[[tf.Tensor], tf.Tensor]) -> Advance:
    """Feeds a loop the rows of its batches, an order drawn anew for each pass."""
    rows = workload.epoch * BATCH
    draw = tf.function(lambda number: tf.unstack(orders(rows, number, (workload.call,))))
    waiting: list[tf.Tensor] = []
    passes = 0

    def advance() -> tf.Tensor:
        nonlocal passes
        if not waiting:
            waiting.extend(reversed(draw(tf.constant(passes))))
            passes += 1
        return loop(waiting.pop())

    return advance


def _replicated(workload: Workload, strategy: Any) -> Advance:
    """An in-graph loop around `strategy.run`."""
    with strategy.scope():
        step = step_of(workload.nets(), strategy.num_replicas_in_sync)
    iterator = iter(strategy.experimental_distribute_dataset(pipeline(workload.arrays())))

    @tf.function
    def loop(iterator: Any) -> tf.Tensor:
        total = tf.zeros([2])
        for _ in tf.range(workload.call):
            total += strategy.reduce("mean", strategy.run(step, args=next(iterator)), axis=None)
        return total

    return lambda: loop(iterator)


KINDS: dict[str, Callable[[Workload, Step], Advance]] = {
    "function": _function,
    "loop": _loop,
    "loop_xla": _loop_xla,
    "stacked": _stacked,
    "xla_loop": _xla_loop,
    "resident": _resident,
    "resident_graph": _resident_graph,
    "resident_step": _resident_step,
}
