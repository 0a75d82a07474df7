"""What a trainer runs on: its models and optimizers, its metrics, and the compiled loops of its steps.

Knows nothing of the trainer but the methods it is given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from looplab import devices, optimization, random
from looplab import strategy as replication
from looplab.checkpoint import state
from looplab.checkpoint.weights import Given
from looplab.errors import ConfigurationError, LooplabError, nearest
from looplab.execution import (
    BatchMap,
    ChunkSize,
    CompiledLoop,
    Measure,
    Shown,
    StepScope,
    Undo,
    autotune,
    in_scope,
    refuse_doubles,
    tracing,
    why_not,
)
from looplab.loggers import value_names
from looplab.optimization.optimizers import make_optimizer
from looplab.options import compatibility
from looplab.options.execution import Execution
from looplab.protocols import Feed
from looplab.runs import cause
from looplab.strategy import batch_norm, precision
from looplab.training.engine.metric_set import MetricSet
from looplab.training.engine.mode_selection import Decision, ModeSelection
from looplab.training.engine.models import make_model
from looplab.training.engine.step_scopes import RunningScope, StepParts, TracingScope
from looplab.training.engine.tracked_variables import TrackedVariables

_log = logging.getLogger("looplab")

Method = Callable[[Any], Any]  # from a replica's rows to what a step returns


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
        shows: What a training step shows beside its scalars, by tag.
        chunk_size: How many steps run at once.
        batch_norm: `"sync"` or `"local"`.
        run_eagerly: Whether steps run in Python.
        graph: The trace of a training step up to its losses; None before, and where steps run in Python.
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
        execution: Execution,
        separable: bool,
        guarded: bool,
        spikes: optimization.SpikeDetection,
        batch_norm_policy: str,
        groups: Mapping[str, optimization.Groups],
    ) -> None:
        """Seeds all random generators and makes models and optimizers, in the strategy's scope.

        Args:
            strategy: Where everything lives.
            precision: See `looplab.strategy.precision`.
            seed: See `looplab.random`.
            models: What was given for each model.
            optimizers: What was given for each optimizer.
            metrics: What was given as metrics; made when targets and predictions are known.
            execution: How steps run.
            separable: Whether micro-batches change no loss; see `looplab.Trainer`.
            guarded: Whether a training step fails, and is undone, if its loss or a gradient is not finite.
            spikes: Whether one fails likewise if its loss leaps up; guarded ones only.
            batch_norm_policy: Whether BatchNormalization sees the batch of all replicas, `"sync"`, or its
                replica's rows, `"local"`.
            groups: Parameter groups by optimizer; see `looplab.optimization.read_groups`.

        Raises:
            ConfigurationError: If one of these cannot be what it is given as.
        """
        devices.refuse_fork()
        self.strategy, self.precision, self.seed = strategy, precision, seed
        self.run_eagerly, self.batch_norm = execution.run_eagerly, batch_norm_policy
        self.chunk_size = ChunkSize(execution.steps_per_execution)
        self._guarded, self._separable, self._groups = guarded, separable, groups
        self._modes = ModeSelection(execution)
        self.models = dict[str, keras.Model]()
        compatibility.check(self.settings())  # before anything is made; BatchNormalization is asked later
        self.metrics = MetricSet(metrics)
        self.shows: dict[str, Shown] = {}
        self.graph: tf.Graph | None = None
        self._returned: dict[str, list[str]] = {}  # names of what a step returns, by purpose
        self._steps: dict[str, Method] = {}  # methods by purpose, once they are prepared
        self._loops: dict[str, CompiledLoop] = {}
        self._batch_map: BatchMap | None = None
        self._in_graph = set[str]()  # purposes whose steps XLA could not compile
        self._measures: Sequence[Measure] = ()
        self._is_set_up = False
        self._weights: Given | None = None  # without the rest of a checkpoint
        random.seed_everything(seed)
        with self.scope():
            self.models = {n: make_model(given, strategy, n) for n, given in models.items()}
            self.optimizers = {n: make_optimizer(given, strategy, n) for n, given in optimizers.items()}
            self.tracked = TrackedVariables(
                self.optimizers, spikes=spikes, scales_losses=precision == "mixed_float16"
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

    @property
    def mode(self) -> str:
        """How training steps run, of `looplab.options.execution.MODES`."""
        return self._modes.mode

    @property
    def choice(self) -> autotune.Choice | None:
        """Why they run so; None where a mode was given."""
        return self._modes.choice

    @property
    def micro_batches(self) -> int:
        """In how many pieces an update computes its gradients."""
        return self._modes.micro_batches

    @property
    def chooses_micro_batches(self) -> bool:
        """Whether that number is found out when training begins, and was not yet."""
        return self._modes.is_open

    def how(self) -> dict[str, Any]:
        """Returns what was found out of how steps run, in JSON's types, for a run that is continued."""
        return {"mode": self.mode, "micro_batches": self.micro_batches}

    def resume(self, before: Decision | None) -> None:
        """Takes up how the run's steps have run before; None where that is not known."""
        self._modes.resume(before)

    def choose_micro_batches(self, feed: Feed) -> None:
        """Finds the fewest micro-batches whose step fits in memory, if nobody knows yet."""
        self._modes.choose_micro_batches(self, feed)

    def choose_mode(self, feed: Feed, left: int) -> list[float]:
        """Settles how training steps run; see `ModeSelection.choose_mode`."""
        return self._modes.choose_mode(self, feed, left)

    def settings(self) -> compatibility.Settings:
        """Returns what must go together, as far as it is known: models may not be made yet."""
        return compatibility.Settings(
            kind=replication.kind(self.strategy),
            replicas=self.strategy.num_replicas_in_sync,
            precision=self.precision,
            execution=self.mode,
            run_eagerly=self.run_eagerly,
            micro_batches=self.micro_batches,
            separable=self._separable,
            batch_norm=self.batch_norm if batch_norm.are_trained(self.models) else "none",
        )

    def speed_facts(self) -> list[Any]:
        """Returns what decides how fast a step is, beside its graph, the batches and the machine."""
        return [
            self._guarded,
            self.micro_batches,
            *(type(own).__name__ for own in self.optimizers.values()),
            self.strategy.num_replicas_in_sync,
            self.precision,
            self.batch_norm,
            len(self._measures),
            None if self.watch is None else self.watch.asked.window,
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
        compatibility.check_rows(replication.kind(self.strategy), feed.examples(1), purpose)
        if purpose in self._steps:
            return
        with self.scope():
            self._trace(purpose, method, feed, owner, self.shows if purpose == "train" else {})
            self._spread_batch_norm()
            if purpose == "train":
                compatibility.check(self.settings())
            if purpose != "predict":
                self.metrics.make(purpose)
            if purpose == "train":
                metrics = self.metrics.of("train")
                self.tracked.complete(self.strategy, self.models, metrics, self._groups, owner)
                if self.watch is not None:
                    self.watch.check(self._returned["train"])
            if purpose != "predict":
                value_names.check(self.named(purpose))
            if purpose == "train":
                refuse_doubles(self.shows, self.produces("train"))
        self._steps[purpose] = method
        if self._weights is not None:
            self._weights.give(self.models, owner)

    def build(self, method: Method, feed: Feed, owner: Any) -> None:
        """Makes every variable of the models that training needs; optimizers are left for `prepare`.

        Args:
            method: The training step.
            feed: As of `prepare`.
            owner: As of `prepare`.
        """
        if "train" not in self._steps:
            with self.scope():
                self._trace("train", method, feed, owner, {})
            if self._weights is not None:
                self._weights.give(self.models, owner)

    def _trace(self, purpose: str, method: Method, feed: Feed, owner: Any, shows: dict[str, Shown]) -> None:
        """Traces a step first, so that its variables come to be and what it trains and shows is known."""
        traced_first = in_scope(method, partial(TracingScope, self._step_parts(), shows))

        def step(rows: Any) -> None:
            returned = traced_first(rows)
            self._returned[purpose] = list(returned) if isinstance(returned, Mapping) else []

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

    def _step_parts(self) -> StepParts:
        compiles_gradients = self.mode == "xla_step" and self.strategy.num_replicas_in_sync > 1
        return StepParts(
            self.optimizers,
            self.tracked,
            self.metrics,
            self.micro_batches,
            compiles_gradients,
        )

    def _spread_batch_norm(self) -> None:
        """Has BatchNormalization see what it should, also in pieces without rows."""
        layers, several = batch_norm.layers_of(self.models), self.strategy.num_replicas_in_sync > 1
        in_pieces = self.micro_batches > 1 or self.chooses_micro_batches
        if several and self.batch_norm == "sync":
            batch_norm.synchronize(layers, in_pieces=in_pieces)
        elif several or in_pieces:
            batch_norm.localize(layers)

    # --- the compiled loops -----------------------------------------------------------------------

    def compiled_loop(self, purpose: str) -> CompiledLoop:
        """Returns the one loop of `"train"` or of `"test"`."""
        if purpose not in self._loops:
            self._loops[purpose] = self.make_loop(purpose)
        return self._loops[purpose]

    def make_loop(self, purpose: str) -> CompiledLoop:
        """Makes a loop of `"train"` or of `"test"` in the present mode."""
        trains = purpose == "train"
        return CompiledLoop(
            in_scope(self._steps[purpose], self._running(purpose)),
            self.strategy,
            mode=self.mode_of(purpose),
            run_eagerly=self.run_eagerly,
            counter=self.step if trains else None,
            undoing=self.tracked.undo(self._guarded) if trains else Undo(),
            averaged=self._averaged_over_replicas() if trains else (),
            watch=self.watch if trains else None,
        )

    def _running(self, purpose: str) -> Callable[..., StepScope]:
        measures = self._measures if purpose == "train" else ()
        return partial(RunningScope, self._step_parts(), purpose, measures=measures)

    def keep_loop(self, purpose: str, loop: CompiledLoop) -> None:
        """Keeps a loop that `make_loop` has made, as that of a purpose."""
        self._loops[purpose] = loop

    def forget_loops(self) -> None:
        """Has each loop made anew when it runs next."""
        self._loops.clear()

    def rebuild(self) -> None:
        """Forgets all traces: each step is traced anew when it runs next."""
        self.forget_loops()
        self._batch_map = None

    def batch_map(self) -> BatchMap:
        """Returns what maps batches to predictions."""
        if self._batch_map is None:
            step = in_scope(self._steps["predict"], self._running("predict"))
            # Where the mode was found by measuring, nobody knows that one pass pays for a compilation.
            asked = self.mode == "xla_step" and self.choice is None
            in_xla = asked and self.strategy.num_replicas_in_sync == 1
            self._batch_map = BatchMap(step, self.strategy, in_xla=in_xla, run_eagerly=self.run_eagerly)
        return self._batch_map

    def mode_of(self, purpose: str) -> str:
        """Returns how the steps of a purpose run, of `looplab.options.execution.MODES`."""
        # Evaluations have batches of several sizes, and are too short for a loop in XLA.
        if purpose in self._in_graph or (purpose != "train" and self.mode == "xla_loop"):
            return "graph"
        return self.mode

    def leaves_xla(self, purpose: str, error: Exception) -> bool:
        """Has evaluations run in the graph, if that is not what the user has asked for and failed.

        That XLA can run the steps of training was found out, but not that it can run these.

        Args:
            purpose: `"test"`.
            error: With which its loop has failed.

        Returns:
            Whether they do from now on, and did not before.
        """
        if self.choice is None or self._loops[purpose].mode == "graph":
            return False
        self._in_graph.add(purpose)
        del self._loops[purpose]
        _log.info("evaluations are not compiled by XLA, as training steps are: %s", why_not(error))
        return True

    def _averaged_over_replicas(self) -> list[tuple[Any, ...]]:
        """Returns the moving statistics that each replica has moved for itself."""
        if self.strategy.num_replicas_in_sync == 1 or self.batch_norm == "sync":
            return []
        return [state.parts(v) for v in batch_norm.moving_statistics(batch_norm.layers_of(self.models))]

    def measure_with(self, measures: Sequence[Measure]) -> None:
        """Has every update of training measured, or none; see `Measure`."""
        if measures or self._measures:
            self._loops.pop("train", None)
        self._measures = measures

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

    # --- the values that steps and metrics give ---------------------------------------------------

    def produces(self, purpose: str) -> list[str]:
        """Returns the names of the values that an epoch, or an evaluation, comes to."""
        pictures = {*self.metrics.of(purpose)} - {*self.metrics.values(purpose)}
        return [
            name
            for _, prefix, own in self.named(purpose)
            for each in own
            if (name := prefix + each) not in pictures
        ]

    def tags(self) -> set[str]:
        """Returns the tags that training logs: of values of steps, and of means over epochs."""
        return {*self._returned["train"], *(value_names.EPOCH + name for name in self.produces("train"))}

    def named(self, purpose: str) -> list[value_names.Source]:
        """Returns the names of all that an epoch, or an evaluation, shows, by who gives it."""
        step = self._returned[purpose]
        found: list[value_names.Source] = [
            ("what the step returns", "", step),
            ("the metrics", "", list(self.metrics.of(purpose))),
        ]
        if purpose == "train":
            # A step that returns a rate under this name shows its own in the place of looplab's.
            own = {
                **optimization.learning_rates(self.optimizers),
                **optimization.scale_values(self.loss_scales),
            }
            return [*found, ("looplab itself", "", [name for name in own if name not in step])]
        if purpose == "test" and any(made.use_ema for made in self.optimizers.values()):
            found += [(f"{who}, of the weights themselves", value_names.RAW, own) for who, _, own in found]
        return found

    def epoch_values(self) -> dict[str, float]:
        """Returns the training metrics so far, and the learning rate of each optimizer in the last step."""
        rates = optimization.learning_rates(self.optimizers)
        return self.metrics.values("train") | rates | optimization.scale_values(self.loss_scales)

    def epoch_pictures(self) -> dict[str, tuple[str, Any]]:
        """Returns kind and data of what the training metrics show so far, by tag."""
        return self.metrics.pictures("train")

    def begin_epoch(self) -> None:
        """Has the training metrics forget what they have seen."""
        self.metrics.reset("train")

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

    def pass_over(self) -> None:
        """Counts a step that was not made."""
        self.step.assign_add(1)
