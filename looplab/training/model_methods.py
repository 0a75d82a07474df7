"""Evaluation and prediction of a trainer, and its services for the `model` of a Keras callback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import keras

from looplab.callbacks import Event, adapt
from looplab.callbacks.keras.batch_calls import Calls, only_keras
from looplab.callbacks.keras.model_view import ModelView
from looplab.data import join
from looplab.options.safeguards import Safeguards
from looplab.protocols import Feed
from looplab.training.engine.engine import Engine
from looplab.training.evaluation import Evaluator, predictions
from looplab.training.progress import RunSoFar


class Prepares(Protocol):
    """The preparation of a trainer: `looplab.training.preparation.Preparation`."""

    engine: Engine
    safeguards: Safeguards
    so_far: RunSoFar

    def feed(
        self, data: Any, batch_size: int | None, shuffle: bool = False, steps_per_epoch: int | None = None
    ) -> Feed:
        """Returns the batches of data."""

    def prepare(self, purpose: str, feed: Feed) -> None:
        """Creates every variable that a kind of step needs."""

    def evaluator(self, feed: Feed) -> Evaluator:
        """Prepares the evaluation of a feed."""

    def restore_newest(self) -> None:
        """Restores the newest checkpoint's weights, if this process has none."""


class ModelMethods:
    """Evaluates and predicts for a trainer.

    Attributes:
        is_guarded: Whether steps that are not finite fail and are undone.
    """

    def __init__(self, preparation: Prepares) -> None:
        """Stores the trainer's preparation."""
        self._preparation = preparation
        self.is_guarded = preparation.safeguards.on_nonfinite != "ignore"

    def compile_arguments(self) -> Mapping[str, Any] | None:
        """Returns arguments for `model.compile`, except the optimizer; None if `compile` was called."""
        engine = self._preparation.engine
        if engine.keras_steps is not None:
            return None
        steps = engine.steps_per_execution
        return {
            **engine.recipe.compile_arguments(),
            "run_eagerly": engine.run_eagerly,
            "jit_compile": engine.modes.mode.startswith("xla"),
            "steps_per_execution": steps if isinstance(steps, int) else 1,
        }

    def metrics(self) -> Mapping[str, keras.Metric]:
        """Returns the metrics of training by tag."""
        return self._preparation.engine.metrics.of("train")

    def loss(self) -> float:
        """Returns the mean loss of the present epoch so far; not a number before its first step."""
        progress = self._preparation.so_far.progress
        found = {} if progress is None else progress.means.result()
        return float(found.get("loss", float("nan")))

    def evaluate(
        self,
        x: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        batch_size: int | None = None,
        steps: int | None = None,
        callbacks: Sequence[Any] = (),
    ) -> dict[str, float]:
        """Implements `Trainer.evaluate`; also works during training."""
        own = only_keras(adapt(callbacks), "evaluate")
        data = join(x, y, sample_weight)
        feed = self._preparation.feed(data, batch_size, steps_per_epoch=steps)
        evaluator = self._preparation.evaluator(feed)
        calls = self._calls("test", own)
        if calls is None:
            values = evaluator.run()
        else:
            calls.begin(feed.steps_per_epoch)
            values = evaluator.run(batches=calls.batches)
        assert values is not None  # nothing gives up here
        if calls is not None:
            calls.end(values)
        return values

    def predict_batches(
        self, x: Any, batch_size: int | None, steps: int | None, callbacks: Sequence[Any] = ()
    ) -> Iterator[Any]:
        """Implements `Trainer.predict_batches`."""
        own = only_keras(adapt(callbacks), "predict")
        feed = self._preparation.feed(x, batch_size, steps_per_epoch=steps)
        self._preparation.prepare("predict", feed)
        self._preparation.restore_newest()
        return predictions(self._preparation.engine, feed, self._calls("predict", own))

    def _calls(self, kind: str, callbacks: Sequence[Any]) -> Calls | None:
        """Returns the hooks for a call of Keras callbacks, or None without callbacks."""
        if not callbacks:
            return None
        engine, so_far = self._preparation.engine, self._preparation.so_far
        step = int(engine.step.numpy())
        epochs = None if so_far.progress is None else so_far.progress.epochs
        epoch, length = (1, 1) if epochs is None else (epochs.epoch(step), epochs.length)
        event = Event(step, epoch, step, length, None, engine.models, engine.optimizers)
        said = engine.steps_per_execution
        view, count = ModelView(self), said if isinstance(said, int) else 1
        for callback in callbacks:
            callback.serve(view, count)
        return Calls(kind, callbacks, event, count)
