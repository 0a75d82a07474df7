"""The engine of a trainer: its models and optimizers, its metrics, and the compiled loops of its steps.

It knows only the trainer's methods that it is given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from looplab import devices, optimization, random
from looplab.checkpoint import state
from looplab.execution import ChunkSize
from looplab.optimization.losses import make_loss
from looplab.optimization.optimizers import make_optimizer
from looplab.optimization.outputs import names_of
from looplab.options import compatibility
from looplab.options.distribution import Distribution
from looplab.options.execution import Execution
from looplab.options.safeguards import Safeguards
from looplab.protocols import Agreement, Feed
from looplab.strategy import batch_norm, placement, precision, strategies
from looplab.training.engine import recurrent_states
from looplab.training.engine.evaluation_weights import EvaluationWeights
from looplab.training.engine.first_traces import FirstTraces
from looplab.training.engine.kept_fields import KeptFields
from looplab.training.engine.keras_hooks import KerasHooks
from looplab.training.engine.keras_steps import KerasSteps, keras_steps_of
from looplab.training.engine.metric_set import MetricSet
from looplab.training.engine.models import made_model, placed_model, refuse_one_for_two
from looplab.training.engine.modes import Modes
from looplab.training.engine.recipe import Recipe
from looplab.training.engine.row_draws import BY_REPLICA, RowDraws
from looplab.training.engine.shown_values import ShownValues
from looplab.training.engine.step_loops import Method, StepLoops
from looplab.training.engine.traced_values import TracedValues
from looplab.training.engine.tracked_variables import TrackedVariables

_log = logging.getLogger("looplab")


class Engine:
    """Models, optimizers and everything derived from them, under one strategy and precision.

    Attributes:
        strategy: The `tf.distribute.Strategy`.
        precision: The policy in which layers compute; one of `looplab.options.distribution.PRECISIONS`.
        hooks: The Keras steps that the models override.
        keras_steps: The model's own steps, if they are used; otherwise None.
        seed: Sets initial weights, masks and the order of the data.
        models: The models by name.
        optimizers: The optimizers by name.
        recipe: The settings with which models are trained, as given and compiled.
        losses: The losses of the recipe; None if steps compute their own.
        metrics: The metrics.
        weights: The weights that evaluation and prediction use, and those that were restored.
        tracked: The variables; complete after training is prepared.
        values: The values that training and evaluation log.
        agreement: Makes decisions together with other processes of the run.
        chunk_size: The number of steps to run at once.
        steps_per_execution: The user's setting of that number.
        modes: The execution modes of training steps.
        loops: The loops that run steps.
        traced: The values that traces of steps have read and that may change later.
        kept: The part of these values that checkpoints hold.
        batch_norm: `"sync"` or `"local"`.
        run_eagerly: Whether steps run in Python.
        graph: The trace of a training step up to its losses; None before it, and if steps run in Python.
    """

    def __init__(
        self,
        *,
        distribution: Distribution,
        agreement: Agreement,
        safeguards: Safeguards,
        seed: int,
        models: Mapping[str, Any],
        recipe: Recipe,
        hooks: Callable[[Mapping[str, keras.Model]], KerasHooks],
        separable: bool,
    ) -> None:
        """Seeds all random generators and creates models and optimizers, in the strategy's scope.

        Args:
            distribution: How steps are distributed over devices.
            agreement: Makes decisions together with other processes of the run.
            safeguards: Whether a training step fails, and is undone, if it is not finite or its loss spikes.
            seed: Sets initial weights, masks and the order of the data.
            models: The given object for each model.
            recipe: The settings with which they are trained; the only model's own `compile` completes them.
            hooks: Finds the Keras steps that models override, and decides whether they are used.
            separable: Whether micro-batches leave every loss unchanged; see `looplab.Trainer`.

        Raises:
            ConfigurationError: If an argument is invalid.
        """
        devices.refuse_fork()
        self.strategy = strategy = strategies.build(distribution.strategy)
        self.precision, self.seed = precision.settle(distribution.precision), seed
        self.batch_norm, self.agreement = distribution.batch_norm, agreement
        self._guarded, self._separable = safeguards.on_nonfinite != "ignore", separable
        self.models = dict[str, keras.Model]()
        self._run_as(recipe.execution)
        if recipe.optimizers:  # otherwise those of the models, after they are created
            optimization.read_groups(recipe.parameter_groups, list(recipe.optimizers))
        compatibility.check(self.settings())  # before anything is created; BatchNormalization later
        self.graph: tf.Graph | None = None
        self._is_set_up = False
        random.seed_everything(seed)
        with self.scope():
            made = {name: made_model(model, name) for name, model in models.items()}
            self.hooks = hooks(made)
            self.recipe = recipe = recipe.completed(made, own_steps=bool(self.hooks.steps))
            self._run_as(recipe.execution)
            self.models = {name: placed_model(model, name) for name, model in made.items()}
            self.optimizers = {n: make_optimizer(own, strategy, n) for n, own in recipe.optimizers.items()}
            refuse_one_for_two(self.optimizers)  # a function may have returned one object twice
            self.keras_steps = keras_steps_of(
                self.models,
                self.hooks,
                {"optimizer": self.optimizers, **recipe.compile_arguments()},
                replicas=strategy.num_replicas_in_sync,
                precision=self.precision,
                execution=recipe.execution,
                safeguards=safeguards,
                groups=bool(recipe.parameter_groups),
            )
            self._predicts = KerasSteps(self.models, self.hooks) if self.hooks.predicts else None
            self.losses = None if self.keras_steps else make_loss(recipe.loss, recipe.loss_weights)
            self.tracked = TrackedVariables(
                self.optimizers, spikes=safeguards.spikes, scales_losses=self.precision == "mixed_float16"
            )
        self.weights = EvaluationWeights(self.models, self.optimizers)
        self._groups = optimization.read_groups(recipe.parameter_groups, list(self.optimizers))
        self.metrics = (
            MetricSet(None, keras_steps=self.keras_steps)
            if self.keras_steps
            else MetricSet(recipe.metrics, recipe.weighted_metrics, optional=recipe.is_measured_by_compile)
        )
        self.values = ShownValues(self.metrics, self.optimizers, self.loss_scales)
        self.traced = TracedValues(self.models)
        self.kept = KeptFields(self.traced.roots, self.models)
        self.draws = RowDraws(distribution.random)
        self._specs: dict[str, Any] = {}  # by purpose, of the batches of its first trace
        self._to_trace: dict[str, list[str]] = {}  # purposes to trace again, with the changes
        self.loops = StepLoops(
            strategy,
            self.modes,
            models=self.models,
            optimizers=self.optimizers,
            tracked=self.tracked,
            metrics=self.metrics,
            traced=self.traced,
            run_eagerly=self.run_eagerly,
            guarded=self._guarded,
            local_batch_norm=self.batch_norm == "local",
            draws=self.draws,
        )
        self._first = FirstTraces(
            strategy,
            models=self.models,
            keras_steps=self.keras_steps,
            tracked=self.tracked,
            metrics=self.metrics,
            values=self.values,
            loops=self.loops,
            modes=self.modes,
            draws=self.draws,
            run_eagerly=self.run_eagerly,
        )

    def _run_as(self, execution: Execution) -> None:
        self.run_eagerly, self.modes = execution.run_eagerly, Modes(execution)
        self.steps_per_execution = execution.steps_per_execution
        self.chunk_size = ChunkSize(execution.steps_per_execution, clock=self.agreement.clock)

    @property
    def step(self) -> tf.Variable:
        """The number of completed steps, a scalar int64 variable."""
        return self.tracked.step

    @property
    def variables(self) -> state.Variables:
        """Everything that a checkpoint holds, by path; complete after training is prepared."""
        return self.tracked.all

    @property
    def trained(self) -> Mapping[str, list[Any]]:
        """The variables that each optimizer trains; complete after training is prepared."""
        return self.tracked.trained

    @property
    def loss_scales(self) -> Mapping[str, optimization.LossScale]:
        """The loss scale of each optimizer, if layers compute in float16."""
        return self.tracked.loss_scales

    @property
    def watch(self) -> optimization.SpikeWatch | None:
        """The watch that makes steps fail whose loss spikes; None if it is off."""
        return self.tracked.watch

    def how(self) -> dict[str, Any]:
        """Returns the chosen mode and micro-batches, in JSON's types, for a run that continues."""
        return {"mode": self.modes.mode, "micro_batches": self.modes.micro_batches}

    def settings(self) -> compatibility.Settings:
        """Returns the settings that must be compatible, as far as known; models may not exist yet."""
        return compatibility.Settings(
            placement=placement.of(self.strategy),
            replicas=self.strategy.num_replicas_in_sync,
            precision=self.precision,
            execution=self.modes.mode,
            run_eagerly=self.run_eagerly,
            micro_batches=self.modes.micro_batches,
            separable=self._separable,
            batch_norm=self.batch_norm if batch_norm.are_trained(self.models) else "none",
        )

    def idle(self) -> tuple[str, ...]:
        """Returns the arguments of a trainer that no step has used; after training is prepared."""
        used = {
            "optimizer": bool(self.optimizers),
            "loss": self.losses is None or self.losses.counts,
            "loss_weights": self.losses is None or self.losses.counts,
            "metrics": bool(self.metrics.of("train")),
            "weighted_metrics": bool(self.metrics.of("train")),
        }
        return tuple(name for name, is_used in used.items() if not is_used)

    def speed_facts(self) -> list[Any]:
        """Returns what affects the speed of a step, in addition to its graph, the batches and the machine."""
        return [
            self._guarded,
            self.modes.micro_batches,
            *self.modes.recompute.patterns,
            *(type(own).__name__ for own in self.optimizers.values()),
            self.strategy.num_replicas_in_sync,
            self.precision,
            self.batch_norm,
            self.loops.measures,
            None if self.watch is None else self.watch.detection.window,
        ]

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Enters the strategy's scope and the precision for the block."""
        with precision.scope(self.precision), self.strategy.scope():
            yield

    def set_up(self, setup: Callable[[], None], owner: Any) -> None:
        """Calls `setup`, once, where it may create variables.

        Args:
            setup: The owner's method.
            owner: The object whose attributes may hold further models.
        """
        if self._is_set_up:
            return
        self._is_set_up = True
        with self.scope():
            setup()
        if self.precision.startswith("mixed") and self.keras_steps is None:
            held = [part for value in vars(owner).values() for part in keras.tree.flatten(value)]
            precision.widen_outputs([*self.models.values(), *(p for p in held if isinstance(p, keras.Model))])

    def prepare(self, purpose: str, method: Method, feed: Feed, owner: Any) -> None:
        """Creates every variable that a kind of step needs, before it is compiled.

        Args:
            purpose: `"train"`, `"test"` or `"predict"`; a second call only notices changes.
            method: The step.
            feed: The feed for the step.
            owner: The object whose attributes may hold further variables.
        """
        devices.refuse_fork()
        compatibility.check_rows(placement.of(self.strategy), feed.examples(1), purpose)
        method = self._in_force(purpose, method)
        if purpose in self.loops:
            if self.loops.method(purpose) != method:
                _log.info("%s is another function than before, step traced anew", method.__name__)
                self.loops.add(purpose, method)
                self.loops.drop(purpose)
            self.notice_changes(owner, trains=purpose == "train")
            return
        self._specs[purpose] = feed.element_spec
        with self.scope():
            with self.kept.begin():
                self._trace(purpose, method, feed.element_spec, owner)
            recurrent_states.refuse_pieces(
                self.models,
                owner,
                replicas=self.strategy.num_replicas_in_sync,
                micro_batches=self.modes.micro_batches,
            )
            self._spread_batch_norm()
            if purpose == "train":
                compatibility.check(self.settings())
            if purpose != "predict":
                only = next(iter(self.models.values())) if len(self.models) == 1 else None
                self.metrics.make(purpose, names_of(only), eagerly=self.run_eagerly)
            noted = self.values.noted[purpose]
            self.metrics.owned.make(purpose, noted.updated, noted.results)
            if purpose == "train":
                if "optimizer" in self.recipe.of_compile and "optimizer" not in self.trained:
                    self.tracked.drop("optimizer")  # the step has its own
                if self.keras_steps is not None:
                    self.tracked.take_built(self.keras_steps)
                self.tracked.complete(self.models, self.metrics, self._groups, owner, self.keras_steps)
                if self.watch is not None:
                    self.watch.check(self.values.noted["train"].scalars)
            self.tracked.hold(self.draws.unseeded.generator)
            if purpose == "train" and self.draws.rule == BY_REPLICA:
                self.draw_by_replica()
            if purpose != "predict":
                self.values.check(purpose)
        self.loops.add(purpose, method)
        self.weights.give(owner)

    def build(self, method: Method, feed: Feed, owner: Any) -> None:
        """Creates every variable of the models that training needs; `prepare` builds the optimizers.

        Args:
            method: The training step.
            feed: See `prepare`.
            owner: See `prepare`.
        """
        if "train" not in self.loops:
            with self.scope():
                self._trace("train", self._in_force("train", method), feed.element_spec, owner)
            self.weights.give(owner)

    def _in_force(self, purpose: str, method: Method) -> Method:
        """Returns the model's own step of a purpose, if it is used; otherwise the trainer's method."""
        if purpose == "predict" and self._predicts is not None:
            return self._predicts.predict_step
        if purpose == "predict" or self.keras_steps is None:
            return method
        self.keras_steps.check_compiled(purpose)
        return self.keras_steps.train_step if purpose == "train" else self.keras_steps.test_step

    def notice_changes(self, owner: Any, *, trains: bool) -> int:
        """Prepares steps again whose traces have read values that differ now; on the host, between calls.

        Args:
            owner: See `prepare`.
            trains: Whether training is about to continue.

        Returns:
            The number of kinds of steps that are traced again.

        Raises:
            ConfigurationError: If it would continue with other variables than it is prepared for.
        """
        if (changes := self.traced.changes()) is not None:
            what = "counts from here on" if self.run_eagerly else "step traced anew"
            _log.info("%s, %s", "; ".join(changes.lines), what)
            for purpose in changes.purposes:
                self.loops.drop(purpose)
                self._to_trace.setdefault(purpose, []).extend(changes.lines)
        for purpose in [p for p in self._to_trace if p != "train" or trains]:
            first = self.graph
            with self.scope():
                self._trace(purpose, self.loops.method(purpose), self._specs[purpose], owner)
                self._spread_batch_norm()
            noted, self.graph = self.values.noted[purpose], first  # another process begins with it, too
            self.metrics.owned.make(purpose, noted.updated, noted.results)
            if purpose != "predict":
                self.values.check(purpose)
            if purpose == "train":
                self.tracked.refuse_others(self.models, "; ".join(self._to_trace[purpose]))
            del self._to_trace[purpose]
        return 0 if changes is None else len(changes.purposes)

    def _trace(self, purpose: str, method: Method, spec: Any, owner: Any) -> None:
        """Makes the first trace of a step, which creates its variables and shows what it trains and logs."""
        graph = self._first.make(purpose, method, spec, owner)
        self.graph = graph if purpose == "train" and graph is not None else self.graph
        if self._first.look(purpose, method, spec, owner):
            self.draw_by_replica()

    def draw_by_replica(self) -> None:
        """Gives the seed generators of each replica another state, now that no draw is placed."""
        self.loops.forget()
        seeds = [v for v in self.variables.values() if isinstance(v, keras.Variable)]
        random.separate_replicas(self.strategy, seeds)

    def _spread_batch_norm(self) -> None:
        """Makes BatchNormalization use the right statistics, also in slices without rows."""
        batch_norm.spread(
            self.models,
            several=self.strategy.num_replicas_in_sync > 1,
            in_pieces=self.modes.micro_batches > 1 or self.modes.chooses_micro_batches,
            policy=self.batch_norm,
        )
