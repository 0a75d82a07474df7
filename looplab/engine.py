"""What a trainer runs on: its variables, its compiled functions, its metrics; made once each.

Knows nothing of the trainer but the methods it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.filesize import decimal

from looplab import assembly, loop, optimization, precision, random, state
from looplab import strategy as replication
from looplab.checkpoint import Store
from looplab.errors import ConfigurationError, LooplabError, nearest
from looplab.execution import Execution, Mapped, Pace
from looplab.protocols import Feed

Method = Callable[[Any], Any]  # from a replica's rows to what a step returns


class Engine:
    """Models, optimizers and everything derived from them, under one strategy and precision.

    Attributes:
        strategy: The `tf.distribute.Strategy`.
        models: Models by name.
        optimizers: Optimizers by name.
        step: Scalar int64 variable, completed steps.
        variables: Everything that a checkpoint holds, by path; complete once training is prepared.
        trained: The variables that each optimizer trains; complete likewise.
        progress: Where the run stands; None until a fit restored or began it.
    """

    def __init__(
        self,
        *,
        strategy: tf.distribute.Strategy,
        precision: str,
        seed: int,
        models: Mapping[str, Any],
        optimizers: Mapping[str, Any],
        metrics: Any,
        mode: str,
        run_eagerly: bool,
        pace: Pace,
    ) -> None:
        """Seeds all random generators and makes models and optimizers, in the strategy's scope.

        Args:
            strategy: Where everything lives.
            precision: See `looplab.precision`.
            seed: See `looplab.random`.
            models: What was given for each model.
            optimizers: What was given for each optimizer.
            metrics: What was given as metrics; made when targets and predictions are known.
            mode: See `looplab.execution`.
            run_eagerly: Whether steps run in Python.
            pace: How many steps run at once.

        Raises:
            ConfigurationError: If one of these cannot be what it is given as.
        """
        self.strategy, self.precision, self.seed = strategy, precision, seed
        self.mode, self.run_eagerly, self.pace = mode, run_eagerly, pace
        self._given_metrics = metrics
        self._metrics: dict[str, assembly.Metrics] = {}  # by purpose
        self._outputs: tuple[Any, Any] | None = None  # specs of targets and predictions
        self.trained: dict[str, list[Any]] = {}  # variables by optimizer
        self._scalars: dict[str, list[str]] = {}  # names of what a step returns, by purpose
        self._steps: dict[str, Method] = {}  # methods by purpose, once they are prepared
        self._executions: dict[str, Execution] = {}
        self._mapped: Mapped | None = None
        self._is_set_up = self._is_restored = False
        self.variables: state.Variables = {}
        self.progress: loop.Progress | None = None
        random.seed_everything(seed)
        with self.scope():
            self.models = {n: assembly.make_model(given, strategy, n) for n, given in models.items()}
            self.optimizers = {
                n: assembly.make_optimizer(given, strategy, n) for n, given in optimizers.items()
            }
            self.step = _variable(0, tf.int64)
            self._factors = {name: _variable(1.0, tf.float32) for name in self.optimizers}

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Makes what is made within the block belong to the strategy, in the precision."""
        with precision.scope(self.precision), self.strategy.scope():
            yield

    def set_up(self, setup: Callable[[], None]) -> None:
        """Calls `setup`, once, where it may make variables."""
        if not self._is_set_up:
            self._is_set_up = True
            with self.scope():
                setup()

    def prepare(self, purpose: str, method: Method, feed: Feed, owner: Any) -> None:
        """Makes every variable that a kind of step needs, before its first trace.

        Args:
            purpose: `"train"`, `"test"` or `"predict"`; the second time nothing happens.
            method: The step.
            feed: What it will be fed with.
            owner: The object whose attributes may hold variables of its own.
        """
        if purpose in self._steps:
            return
        with self.scope():
            self._look(purpose, optimization.in_scope(method, "look"), feed, owner)
            if self.strategy.num_replicas_in_sync > 1:
                assembly.synchronize_batch_norm(self.models)
            if purpose != "predict" and self._given_metrics:
                self._metrics[purpose] = assembly.make_metrics(self._given_metrics, *self._known_outputs())
            if purpose == "train":
                self._finish(owner)
        self._steps[purpose] = method

    def execution(self, purpose: str) -> Execution:
        """Returns the one execution of `"train"` or of `"test"`."""
        if purpose not in self._executions:
            self._executions[purpose] = Execution(
                optimization.in_scope(self._steps[purpose], purpose),
                self.strategy,
                mode=self.mode,
                run_eagerly=self.run_eagerly,
                counter=self.step if purpose == "train" else None,
            )
        return self._executions[purpose]

    def evaluator(self, feed: Feed) -> Callable[..., dict[str, float] | None]:
        """Returns what evaluates on a whole feed, given a function that says whether to give up."""
        pace = self.pace.copy()

        def evaluate(give_up: Callable[[], bool] = lambda: False) -> dict[str, float] | None:
            self.reset_metrics("test")
            means = loop.evaluate(self.execution("test"), feed, pace, give_up)
            return None if means is None else means | self.metric_values("test")

        return evaluate

    def predict(self, feed: Feed) -> Any:
        """Returns the predictions for a whole feed, in order."""
        if self._mapped is None:
            step = optimization.in_scope(self._steps["predict"], "predict")
            self._mapped = Mapped(step, self.strategy, self.run_eagerly)
        return self._mapped.run(feed)

    def restore_weights(self, store: Store, owner: Any) -> None:
        """Gives models and the owner's attributes the newest checkpoint's values, the first time.

        Seeds are left out: they belong to training, and to its number of replicas.
        """
        found = None if self._is_restored else store.newest()
        self._is_restored = True
        if found is None:
            return
        path, arrays, _ = found
        models = state.of_models(self.models)
        live = {**models, **state.of_attributes(owner, known=models)}
        live = {own: v for own, v in live.items() if not own.endswith("seed_generator_state")}
        saved = {own: a for own, a in arrays.items() if own.removesuffix("@replicas") in live}
        state.assign(live, saved, str(path))

    def facts(self) -> dict[str, Any]:
        """Returns what `environment.json` records of how steps run."""
        return {
            "devices": [device.name for device in tf.config.list_logical_devices()],
            "strategy": replication.describe(self.strategy),
            "precision": self.precision,
            "execution": {"mode": self.mode, "run_eagerly": self.run_eagerly},
            "seed": self.seed,
        }

    def describe(self) -> list[tuple[str, str]]:
        """Returns what a person is told of how steps run, as `(label, text)`."""
        kinds = [f"{name}: {type(made).__name__}" for name, made in self.optimizers.items()]
        saved = sum(assembly.size_of(variable) for variable in self.variables.values())
        return [
            ("optimizer", ", ".join(kinds).removeprefix("optimizer: ") or "none"),
            ("strategy", replication.describe(self.strategy)),
            ("precision", self.precision),
            ("execution", "eager" if self.run_eagerly else self.mode),
            ("state", f"{len(self.variables)} variables, {decimal(saved)}"),
        ]

    def produces(self, purpose: str) -> list[str]:
        """Returns the names of the values that an epoch, or an evaluation, comes to."""
        rates = self.epoch_values() if purpose == "train" else {}
        return list(dict.fromkeys([*self._scalars[purpose], *self._metrics.get(purpose, {}), *rates]))

    # --- what a step says while it is looked at, and uses while it runs ---------------------------

    def will_train(self, optimizer: str, variables: Sequence[Any]) -> None:
        """Remembers that an optimizer trains these variables."""
        known = self.trained.setdefault(optimizer, [])
        known.extend(v for v in variables if all(v is not other for other in known))

    def update_metrics(self, purpose: str, targets: Any, predictions: Any) -> None:
        """Adds some examples to the metrics; while the step is looked at, learns their shapes."""
        if purpose == "look":
            self._outputs = tf.nest.map_structure(_spec, (targets, predictions))
        else:
            assembly.update_metrics(self._metrics.get(purpose, {}), targets, predictions)

    # --- what the loop asks for -------------------------------------------------------------------

    def epoch_values(self) -> dict[str, float]:
        """Returns the training metrics so far, and the learning rate of each optimizer."""
        several = len(self.optimizers) > 1
        rates = {
            f"{name}/learning_rate" if several else "learning_rate": float(optimizer.learning_rate)
            for name, optimizer in self.optimizers.items()
        }
        return self.metric_values("train") | rates

    def metric_values(self, purpose: str) -> dict[str, float]:
        """Returns the results of the metrics by name; of one with several values their mean."""
        metrics = self._metrics.get(purpose, {})
        return {tag: float(np.mean(metric.result())) for tag, (metric, _) in metrics.items()}

    def reset_metrics(self, purpose: str) -> None:
        """Makes the metrics forget what they have seen."""
        for metric, _ in self._metrics.get(purpose, {}).values():
            metric.reset_state()

    def scale_learning_rate(self, factor: float, name: str | None) -> None:
        """Multiplies the factor on the schedule of one optimizer, or of all."""
        if name is not None and name not in self._factors:
            raise ConfigurationError(
                f"scale_learning_rate: there is no optimizer {name!r}; there are {list(self._factors)}."
                + nearest(name, self._factors)
            )
        for own, variable in self._factors.items():
            if name in (None, own):
                variable.assign(variable.numpy() * factor)

    def _look(self, purpose: str, method: Method, feed: Feed, owner: Any) -> None:
        def step(rows: Any) -> None:
            said = method(rows)
            self._scalars[purpose] = list(said) if isinstance(said, Mapping) else []

        def look() -> None:
            if self.run_eagerly and self.strategy.num_replicas_in_sync == 1:  # it may ask for values
                models = state.of_models(self.models)
                known = {**models, **state.of_attributes(owner, known=models)}
                assembly.look_eagerly(step, known, feed.element_spec)
            else:
                assembly.look(step, self.strategy, feed.element_spec)

        try:
            look()
            if not all(self.trained.values()):
                look()  # the step asked a model for its variables before its first call built them
        except LooplabError as error:  # TensorFlow puts the traced frames before the message
            raise type(error)(str(error).split(f"{type(error).__name__}: ")[-1].strip()) from None

    def _known_outputs(self) -> tuple[Any, Any]:
        if self._outputs is None:
            raise ConfigurationError(
                "metrics: nothing gives them targets and predictions. Call self.update_metrics(targets, "
                "predictions) where your step has them, or log scalars from the step."
            )
        return self._outputs

    def _finish(self, owner: Any) -> None:
        """Builds the optimizers and enumerates the state."""
        for name, optimizer in self.optimizers.items():
            if name not in self.trained:
                raise ConfigurationError(
                    f"optimizer {name!r} is never used: train_step calls neither minimize nor "
                    f"apply_gradients with it (only with {sorted(self.trained)})."
                )
            assembly.finish_optimizer(optimizer, self.trained[name], self.step, self._factors[name])
        models = state.of_models(self.models)
        known = {
            **models,
            **state.of_optimizers(self.optimizers, models),
            **state.of_metrics({tag: metric for tag, (metric, _) in self._metrics.get("train", {}).items()}),
            **{f"loop/learning_rate_factor/{name}": v for name, v in self._factors.items()},
            "loop/step": self.step,
        }
        self.variables = {**known, **state.of_attributes(owner, known=known)}
        variables = self.variables.values()
        random.separate_replicas(self.strategy, [v for v in variables if isinstance(v, keras.Variable)])


def _variable(value: Any, dtype: tf.DType) -> tf.Variable:
    return tf.Variable(
        value, dtype=dtype, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
    )


def _spec(tensor: Any) -> tf.TensorSpec:
    return tf.TensorSpec(tensor.shape, tensor.dtype)
