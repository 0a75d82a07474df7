"""What a trainer runs on: its models and optimizers, its metrics, and the compiled loops of its steps.

Knows nothing of the trainer but the methods it is given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from looplab import devices, optimization, random
from looplab.checkpoint import state
from looplab.checkpoint.weights import Given
from looplab.errors import ConfigurationError, LooplabError, nearest
from looplab.execution import (
    ChunkSize,
    Shown,
    in_scope,
    tracing,
)
from looplab.optimization.optimizers import make_optimizer
from looplab.options import compatibility
from looplab.options.distribution import Distribution
from looplab.options.execution import Execution
from looplab.options.safeguards import Safeguards
from looplab.protocols import Agreement, Feed
from looplab.runs import cause
from looplab.strategy import batch_norm, placement, precision, strategies
from looplab.training.engine.metric_set import MetricSet
from looplab.training.engine.models import make_model
from looplab.training.engine.modes import Modes
from looplab.training.engine.shown_values import ShownValues
from looplab.training.engine.step_loops import Method, StepLoops
from looplab.training.engine.step_scopes import TracingScope
from looplab.training.engine.tracked_variables import TrackedVariables

_log = logging.getLogger("looplab")


class Engine:
    """Models, optimizers and everything derived from them, under one strategy and precision.

    Attributes:
        strategy: The `tf.distribute.Strategy`.
        precision: See `looplab.strategy.precision`.
        seed: See `looplab.random`.
        models: Models by name.
        optimizers: Optimizers by name.
        metrics: The metrics.
        tracked: The variables; complete once training is prepared.
        values: What training and evaluation show.
        agreement: How this process decides with others that train with it.
        chunk_size: How many steps run at once.
        steps_per_execution: What the user said of it.
        modes: How training steps run.
        loops: What runs steps.
        batch_norm: `"sync"` or `"local"`.
        run_eagerly: Whether steps run in Python.
        graph: The trace of a training step up to its losses; None before, and where steps run in Python.
    """

    def __init__(
        self,
        *,
        distribution: Distribution,
        agreement: Agreement,
        execution: Execution,
        safeguards: Safeguards,
        seed: int,
        models: Mapping[str, Any],
        optimizers: Mapping[str, Any],
        metrics: Any,
        separable: bool,
        groups: Mapping[str, optimization.Groups],
    ) -> None:
        """Seeds all random generators and makes models and optimizers, in the strategy's scope.

        Args:
            distribution: How steps are spread over devices.
            agreement: How this process decides with others that train with it.
            execution: How they run.
            safeguards: Whether a training step fails, and is undone, where it is not finite or leaps up.
            seed: See `looplab.random`.
            models: What was given for each model.
            optimizers: What was given for each optimizer.
            metrics: What was given as metrics; made when targets and predictions are known.
            separable: Whether micro-batches change no loss; see `looplab.Trainer`.
            groups: Parameter groups by optimizer; see `looplab.optimization.read_groups`.

        Raises:
            ConfigurationError: If one of these cannot be what it is given as.
        """
        devices.refuse_fork()
        self.strategy = strategy = strategies.build(distribution.strategy)
        self.precision, self.seed = precision.check(distribution.precision), seed
        self.run_eagerly, self.batch_norm = execution.run_eagerly, distribution.batch_norm
        self.chunk_size = ChunkSize(execution.steps_per_execution, clock=agreement.clock)
        self.steps_per_execution = execution.steps_per_execution
        self.agreement = agreement
        self._guarded = safeguards.on_nonfinite != "ignore"
        self._separable, self._groups = separable, groups
        self.modes = Modes(execution)
        self.models = dict[str, keras.Model]()
        compatibility.check(self.settings())  # before anything is made; BatchNormalization is asked later
        self.metrics = MetricSet(metrics)
        self.graph: tf.Graph | None = None
        self._is_set_up = False
        self._weights: Given | None = None  # without the rest of a checkpoint
        random.seed_everything(seed)
        with self.scope():
            self.models = {n: make_model(given, strategy, n) for n, given in models.items()}
            self.optimizers = {n: make_optimizer(given, strategy, n) for n, given in optimizers.items()}
            self.tracked = TrackedVariables(
                self.optimizers, spikes=safeguards.spikes, scales_losses=self.precision == "mixed_float16"
            )
        self.values = ShownValues(self.metrics, self.optimizers, self.loss_scales)
        self.loops = StepLoops(
            strategy,
            self.modes,
            models=self.models,
            optimizers=self.optimizers,
            tracked=self.tracked,
            metrics=self.metrics,
            run_eagerly=execution.run_eagerly,
            guarded=self._guarded,
            local_batch_norm=self.batch_norm == "local",
        )

    # --- what it is, and how its steps run --------------------------------------------------------

    @property
    def step(self) -> tf.Variable:
        """Scalar int64 variable, completed steps."""
        return self.tracked.step

    @property
    def variables(self) -> state.Variables:
        """Everything that a checkpoint holds, by path; complete once training is prepared."""
        return self.tracked.all

    @property
    def trained(self) -> Mapping[str, list[Any]]:
        """The variables that each optimizer trains; complete likewise."""
        return self.tracked.trained

    @property
    def loss_scales(self) -> Mapping[str, optimization.LossScale]:
        """Of each optimizer, where layers compute in float16."""
        return self.tracked.loss_scales

    @property
    def watch(self) -> optimization.SpikeWatch | None:
        """Has steps fail whose loss leaps up; None where nobody asked for it."""
        return self.tracked.watch

    def how(self) -> dict[str, Any]:
        """Returns what was found out of how steps run, in JSON's types, for a run that is continued."""
        return {"mode": self.modes.mode, "micro_batches": self.modes.micro_batches}

    def settings(self) -> compatibility.Settings:
        """Returns what must go together, as far as it is known: models may not be made yet."""
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

    def speed_facts(self) -> list[Any]:
        """Returns what decides how fast a step is, beside its graph, the batches and the machine."""
        return [
            self._guarded,
            self.modes.micro_batches,
            *(type(own).__name__ for own in self.optimizers.values()),
            self.strategy.num_replicas_in_sync,
            self.precision,
            self.batch_norm,
            self.loops.measures,
            None if self.watch is None else self.watch.detection.window,
        ]

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Makes what is made within the block belong to the strategy, in the precision."""
        with precision.scope(self.precision), self.strategy.scope():
            yield

    # --- prepared once, by the first trace --------------------------------------------------------

    def set_up(self, setup: Callable[[], None], owner: Any) -> None:
        """Calls `setup`, once, where it may make variables.

        Args:
            setup: Of the owner.
            owner: The object whose attributes may hold models of its own.
        """
        if self._is_set_up:
            return
        self._is_set_up = True
        with self.scope():
            setup()
        if self.precision.startswith("mixed"):
            held = [part for value in vars(owner).values() for part in keras.tree.flatten(value)]
            precision.widen_outputs([*self.models.values(), *(p for p in held if isinstance(p, keras.Model))])

    def prepare(self, purpose: str, method: Method, feed: Feed, owner: Any) -> None:
        """Makes every variable that a kind of step needs, before it is compiled.

        Args:
            purpose: `"train"`, `"test"` or `"predict"`; the second time nothing happens.
            method: The step.
            feed: What it will be fed with.
            owner: The object whose attributes may hold variables of its own.
        """
        devices.refuse_fork()
        compatibility.check_rows(placement.of(self.strategy), feed.examples(1), purpose)
        if purpose in self.loops:
            return
        with self.scope():
            self._trace(purpose, method, feed, owner, self.values.shows if purpose == "train" else {})
            self._spread_batch_norm()
            if purpose == "train":
                compatibility.check(self.settings())
            if purpose != "predict":
                self.metrics.make(purpose)
            if purpose == "train":
                metrics = self.metrics.of("train")
                self.tracked.complete(self.strategy, self.models, metrics, self._groups, owner)
                if self.watch is not None:
                    self.watch.check(self.values.returned["train"])
            if purpose != "predict":
                self.values.check(purpose)
        self.loops.add(purpose, method)
        if self._weights is not None:
            self._weights.give(self.models, owner)

    def build(self, method: Method, feed: Feed, owner: Any) -> None:
        """Makes every variable of the models that training needs; optimizers are left for `prepare`.

        Args:
            method: The training step.
            feed: As of `prepare`.
            owner: As of `prepare`.
        """
        if "train" not in self.loops:
            with self.scope():
                self._trace("train", method, feed, owner, {})
            if self._weights is not None:
                self._weights.give(self.models, owner)

    def _trace(self, purpose: str, method: Method, feed: Feed, owner: Any, shows: dict[str, Shown]) -> None:
        """Traces a step first, so that its variables come to be and what it trains and shows is known."""
        traced_first = in_scope(method, partial(TracingScope, self.loops.parts(), shows))

        def step(rows: Any) -> None:
            returned = traced_first(rows)
            self.values.returned[purpose] = list(returned) if isinstance(returned, Mapping) else []

        def once() -> None:
            if purpose == "train":
                self.tracked.updates = 0
            if self.run_eagerly and self.strategy.num_replicas_in_sync == 1:  # it may ask for values
                models = state.of_models(self.models)
                known = {**models, **state.of_attributes(owner, known=models)}
                tracing.eagerly(step, known, feed.element_spec)
            else:
                traced = tracing.symbolically(step, self.strategy, feed.element_spec)
                self.graph = traced if purpose == "train" else self.graph

        refused: LooplabError | None = None
        try:
            once()
            if not all(self.trained.values()):
                once()  # the step asked a model for its variables before its first call built them
        except Exception as error:
            own = cause.origin(error)
            if own is error or not isinstance(own, LooplabError):
                raise
            refused = own  # of which Keras has made another one
        if refused is not None:  # not in its place, or that one would be its context
            raise refused

    def _spread_batch_norm(self) -> None:
        """Has BatchNormalization see what it should, also in pieces without rows."""
        layers, several = batch_norm.layers_of(self.models), self.strategy.num_replicas_in_sync > 1
        in_pieces = self.modes.micro_batches > 1 or self.modes.chooses_micro_batches
        if several and self.batch_norm == "sync":
            batch_norm.synchronize(layers, in_pieces=in_pieces)
        elif several or in_pieces:
            batch_norm.localize(layers)

    # --- weights ----------------------------------------------------------------------------------

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Puts averages in the place of the weights within the block, where there are some."""
        with optimization.exchanged(self.averages()):
            yield

    def averages(self) -> optimization.Averages:
        """Returns the averages of weights, those of optimizers or those that were restored; may be none."""
        live = optimization.averages_of(self.optimizers.values())
        if live or self._weights is None:
            return live
        return self._weights.averages()

    @property
    def has_weights(self) -> bool:
        """Whether weights were restored, without the rest of a run."""
        return self._weights is not None

    def restore_weights(self, weights: Given, owner: Any) -> None:
        """Gives models and the owner's attributes what there is for them, when they are built.

        Args:
            weights: Of a checkpoint, or the first ones of a run.
            owner: The object whose attributes may hold variables of its own.

        Raises:
            CheckpointError: If what is built already does not fit.
        """
        weights.give(self.models, owner)
        self._weights = weights
        restored = {id(variable): average for variable, average in weights.averages()}
        for variable, average in optimization.averages_of(self.optimizers.values()):
            average.assign(restored.get(id(variable), variable))

    def weights_lines(self) -> list[tuple[str, str]]:
        """Returns where weights come from that were restored, as `(label, text)`."""
        return self._weights.lines() if self._weights is not None else []

    # --- what training changes --------------------------------------------------------------------

    def scale_learning_rate(self, factor: float, name: str | None) -> None:
        """Multiplies the factor on the schedule of one optimizer, or of all."""
        if name is not None and name not in self.optimizers:
            raise ConfigurationError(
                f"scale_learning_rate: there is no optimizer {name!r}; there are {list(self.optimizers)}."
                + nearest(name, self.optimizers)
            )
        for own, optimizer in self.optimizers.items():
            if name in (None, own):
                optimizer._learning_rate.scale(factor)

    def follow_schedules(self) -> None:
        """Has schedules that were set since the last fit follow the step, and steps traced anew with them."""
        if any([optimization.follow_again(optimizer) for optimizer in self.optimizers.values()]):
            self.loops.rebuild()

    def pass_over(self) -> None:
        """Counts a step that was not made."""
        self.step.assign_add(1)
