"""The step that runs in this thread, and the conversion of a trainer's step method to a step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common.stateless_scope import in_stateless_scope

from looplab import strategy
from looplab.compat import patches
from looplab.errors import LossError
from looplab.execution import cross_replica, moved_draws, recomputed_calls
from looplab.execution.autograph import translated
from looplab.execution.moved_draws import Call, Place
from looplab.execution.recomputed import is_recomputed
from looplab.execution.step_result import Guard
from looplab.execution.step_scope import StepScope
from looplab.runs.tags import EPOCH
from looplab.strategy import layer_losses

_running = threading.local()  # MirroredStrategy runs each replica in its own thread


@contextmanager
def entered(scope: StepScope) -> Iterator[StepScope]:
    """Makes `scope` the running step of this thread within the block."""
    before = getattr(_running, "scope", None)
    _running.scope = scope
    try:
        yield scope
    finally:
        _running.scope = before


def running() -> StepScope:
    """Returns the running step.

    Raises:
        LossError: If no step is running in this thread.
    """
    scope = found_running()
    if scope is None:
        raise LossError(
            "minimize, apply_gradients, update_metrics, log and looplab.summary work only inside a step: "
            "call them from compute_loss, train_step or test_step, and let fit or evaluate run those."
        )
    return scope


def found_running() -> StepScope | None:
    """Returns the running step of this thread, if there is one."""
    return getattr(_running, "scope", None)


def _place(rows: Any, examples: Any) -> Place:
    """Returns the place of this replica's rows in the global batch."""
    first, whole = strategy.place_of(rows, examples)
    return Place(first, rows.size if isinstance(rows, strategy.Padded) else strategy.rows_of(rows), whole)


def _drawn(call: Call) -> tf.Tensor:
    """Makes a random draw for the running step, or as TensorFlow does."""
    scope = found_running()
    if scope is None or scope.draws is None or scope.is_aside or _is_elsewhere():
        return call.run()
    return scope.draws.draw(call, scope.part)


def _is_elsewhere() -> bool:
    """Whether Keras computes something that is no part of the step, such as a shape."""
    return in_stateless_scope() and not recomputed_calls.is_in_pass()


def _advanced(original: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a replacement of `SeedGenerator.next` that tells the running step."""

    def next(generator: Any, ordered: bool = True) -> Any:
        scope = found_running()
        if scope is not None and not scope.is_aside and not in_stateless_scope():
            if scope.draws is not None:
                scope.draws.advance(generator, scope.part)
            if is_recomputed():
                scope.note_recomputed(generator)
        return original(generator, ordered)

    return next


moved_draws.install(_drawn)
patches.patch(
    "keras.random.SeedGenerator.next", keras.random.SeedGenerator, _advanced(keras.random.SeedGenerator.next)
)


def refuse_doubles(shows: Iterable[str], logged: Collection[str]) -> None:
    """Refuses a summary under a tag that is logged anyway.

    Args:
        shows: The tags of `looplab.summary`.
        logged: The names of the values that steps return, of metrics and of learning rates.

    Raises:
        LossError: If a tag is one of these names, or the name of its mean over an epoch.
    """
    for tag in shows:
        if tag in logged or tag.removeprefix(EPOCH) in logged:
            raise LossError(
                f"looplab.summary: the tag {tag!r} is logged already, as a value of the step, a metric or a "
                "learning rate, and one tag has one value at a step. Use another tag, such as "
                f"{f'shown/{tag}'!r}."
            )


def in_scope(method: Callable[[Any], Any], make_scope: Callable[..., StepScope]) -> Callable[..., Any]:
    """Makes a step function from a trainer's step method.

    Args:
        method: A function from a replica's rows to scalars by name, or to predictions.
        make_scope: Creates the scope of a step, from the arguments of `StepScope` by name.

    Returns:
        A function from a replica's rows, the global number of examples and a `Guard` to the `result` of the
        scope.
    """

    def step(rows: Any, examples: Any = None, guard: Guard = Guard.OFF) -> Any:
        count = tf.cast(strategy.batch_size(rows), tf.float32)
        valid = None
        place = partial(_place, rows, examples)
        if isinstance(rows, strategy.Padded):
            rows, valid = rows.rows, rows.valid()
        whole = count if examples is None else examples
        fixed = strategy.static_rows(rows)
        scope = make_scope(
            examples=whole, rows=count, fixed_rows=fixed, guard=guard, valid=valid, place=place
        )
        with entered(scope), cross_replica.explained(), layer_losses.apart(), recomputed_calls.in_step(scope):
            return scope.result(translated(method)(rows))

    return step
