"""What a trainer runs on: its variables, its compiled functions, its metrics; made once each.

Knows nothing of the trainer but the methods it is given.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from looplab import devices, optimization, random
from looplab import strategy as replication
from looplab.checkpoint import state
from looplab.checkpoint.weights import Given
from looplab.data import GeneratedFeed, explained
from looplab.errors import ConfigurationError, LooplabError, nearest
from looplab.execution import (
    MODES,
    BatchMap,
    ChunkSize,
    CompiledLoop,
    Measure,
    Shown,
    Undo,
    autotune,
    autotune_cache,
    autotune_trials,
    in_scope,
    refuse_doubles,
    tracing,
    why_not,
    xla_random,
)
from looplab.execution import explained as xla_explained
from looplab.execution.graph_operations import operations
from looplab.loggers import History, value_names
from looplab.optimization.optimizers import finish_optimizer, make_optimizer
from looplab.options import compatibility
from looplab.protocols import Feed
from looplab.runs import cause
from looplab.runs.wall_time import Ledger
from looplab.strategy import batch_norm, placement, precision
from looplab.training import loop
from looplab.training.audit import Finding
from looplab.training.engine.metric_set import Measurements
from looplab.training.engine.models import make_model
from looplab.training.run_state import Progress

_log = logging.getLogger("looplab")
_LATER = "to be measured when training begins"

Method = Callable[[Any], Any]  # from a replica's rows to what a step returns


class Engine:
    """Models, optimizers and everything derived from them, under one strategy and precision.

    Attributes:
        strategy: The `tf.distribute.Strategy`.
        models: Models by name.
        optimizers: Optimizers by name.
        step: Scalar int64 variable, completed steps.
        measurements: The metrics.
        loss_scales: Of each optimizer, where layers compute in float16.
        watch: Has steps fail whose loss leaps up; None where nobody asked for it.
        variables: Everything that a checkpoint holds, by path; complete once training is prepared.
        trained: The variables that each optimizer trains; complete likewise.
        shows: What a training step shows beside its scalars, by tag.
        group_rows: The parameter groups of each optimizer, as rows of a table.
        batch_norm: `"sync"` or `"local"`.
        mode: See `looplab.execution`; the one that was chosen, where it is to be chosen.
        choice: Why; None where a mode was given.
        before: `how` of a run that is continued.
        earlier: The choice of an earlier start of this run that came to no checkpoint, in JSON's types.
        run_eagerly: Whether steps run in Python.
        micro_batches: In how many pieces an update computes its gradients.
        splits: Whether that is found out when training begins, and was not yet.
        precision: See `looplab.strategy.precision`.
        graph: The trace of a training step up to its losses; None before, and where steps run in Python.
        progress: Where the run stands; None until a fit restored or began it.
        history: The epochs of the fits so far; None before the first.
        initialized_from: What the run's first weights were taken from, or None.
        pictures: Kind and data of what the metrics of the last evaluation show, by tag.
        findings: What of a run no checkpoint holds, as far as it was noticed; see `looplab.training.audit`.
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
        pace: ChunkSize,
        micro_batches: int | str,
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
            mode: See `looplab.execution`, or `"auto"`.
            run_eagerly: Whether steps run in Python.
            pace: How many steps run at once.
            micro_batches: In how many pieces an update computes its gradients, or `"auto"`.
            separable: Whether that changes no loss; see `looplab.Trainer`.
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
        self.mode, self.run_eagerly, self.pace, self.guarded = mode, run_eagerly, pace, guarded
        self.choice: autotune.Choice | None = None
        self.before: dict[str, Any] | None = None
        self.earlier: Mapping[str, Any] = {}
        if mode == "auto":  # until training begins
            self.mode = "graph"
            self.choice = autotune.Choice("graph") if run_eagerly else autotune.Choice("auto", why=_LATER)
        self.batch_norm = batch_norm_policy
        self.micro_batches = 1 if micro_batches == "auto" else int(micro_batches)
        self.splits, self._separable = micro_batches == "auto", separable
        self.models = dict[str, keras.Model]()
        compatibility.check(self.settings())  # before anything is made; BatchNormalization is asked later
        self.measurements, self._groups = Measurements(metrics), groups
        self.group_rows: dict[str, list[optimization.Row]] = {}  # by optimizer
        self.trained: dict[str, list[Any]] = {}  # variables by optimizer
        self._updates = 0  # in one training step
        self._scalars: dict[str, list[str]] = {}  # names of what a step returns, by purpose
        self._steps: dict[str, Method] = {}  # methods by purpose, once they are prepared
        self._executions: dict[str, CompiledLoop] = {}
        self._in_graph = set[str]()  # purposes whose steps XLA could not compile
        self._measures: Sequence[Measure] = ()
        self._mapped: BatchMap | None = None
        self._is_set_up = False
        self._weights: Given | None = None  # without the rest of a checkpoint
        self.initialized_from: str | None = None
        self.variables: state.Variables = {}
        self.shows: dict[str, Shown] = {}
        self.graph: tf.Graph | None = None
        self.progress: Progress | None = None
        self.history: History | None = None
        self.pictures: dict[str, tuple[str, Any]] = {}
        self.findings: list[Finding] = []
        random.seed_everything(seed)
        with self.scope():
            self.models = {n: make_model(given, strategy, n) for n, given in models.items()}
            self.optimizers = {n: make_optimizer(given, strategy, n) for n, given in optimizers.items()}
            self.step = _variable(0, tf.int64)
            self._factors = {name: _variable(1.0, tf.float64) for name in self.optimizers}
            scaled = self.optimizers if self.precision == "mixed_float16" else ()
            self.watch = None if spikes.policy == "ignore" else optimization.SpikeWatch(spikes, _variable)
            self.loss_scales = {name: optimization.LossScale(_variable) for name in scaled}

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Makes what is made within the block belong to the strategy, in the precision."""
        with precision.scope(self.precision), self.strategy.scope():
            yield

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
        """Makes every variable that a kind of step needs, before its first trace.

        Args:
            purpose: `"train"`, `"test"` or `"predict"`; the second time nothing happens.
            method: The step.
            feed: What it will be fed with.
            owner: The object whose attributes may hold variables of its own.
        """
        devices.refuse_fork()
        compatibility.check_rows(placement.of(self.strategy), feed.examples(1), purpose)
        if purpose in self._steps:
            return
        with self.scope():
            shows = self.shows if purpose == "train" else None
            looked = in_scope(method, "look", shows=shows)
            self._look(purpose, looked, feed, owner)
            self._spread_batch_norm()
            if purpose == "train":
                compatibility.check(self.settings())
            if purpose != "predict":
                self.measurements.make(purpose)
            if purpose == "train":
                self._finish(owner)
                if self.watch is not None:
                    self.watch.check(self._scalars["train"])
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
                self._look("train", in_scope(method, "look"), feed, owner)
            if self._weights is not None:
                self._weights.give(self.models, owner)

    def how(self) -> dict[str, Any]:
        """Returns what was found out of how steps run, in JSON's types, for a run that is continued."""
        return {"mode": self.mode, "micro_batches": self.micro_batches}

    def split(self, feed: Feed) -> None:
        """Finds the fewest micro-batches whose step fits in memory, if nobody knows yet; see `choose`."""
        if not self.splits:
            return
        self.splits = False
        if self.before is not None:
            self.micro_batches = int(self.before["micro_batches"])
            return
        before, sample = state.read(self.variables), autotune_trials.sample(feed)

        def run(count: int) -> None:
            self._divide_by(count)
            try:
                self.execution("train").run(sample, 1)
            finally:
                state.assign(self.variables, dict(before), "the state before a step was tried")

        self._divide_by(autotune.fewest(run, most=feed.examples(1) or 1))

    def _divide_by(self, count: int) -> None:
        if self.micro_batches != count:
            self._executions.clear()
        self.micro_batches = count

    def choose(self, feed: Feed, left: int) -> list[float]:
        """Settles how training steps run, where that is to be found out; state and feed's place are kept.

        Args:
            feed: The training batches, at the next one; it must be sought afterwards.
            left: Steps there are to make.

        Returns:
            The seconds of each call in which XLA has compiled steps for that.
        """
        if self.choice is None or self.choice.mode != "auto":
            return []
        self.choice, tried = self._chosen(feed, left)
        if self.mode != self.choice.mode:
            self.mode = self.choice.mode
            self._executions.clear()
        return [seconds for execution in tried for seconds in execution.compiled.values()]

    def _chosen(self, feed: Feed, left: int) -> tuple[autotune.Choice, Iterable[CompiledLoop]]:
        """Returns the choice, and what was made to be tried for it."""
        if self.before is not None and self.before["mode"] in self._offered():  # replicas may have changed
            return autotune.Choice(self.before["mode"], why="as when the run began"), ()
        if isinstance(feed, GeneratedFeed):
            return autotune.Choice("graph", why="a step that makes its own data is not measured"), ()
        with explained(feed, int(self.step.numpy()), autotune_trials.SAMPLE):
            return self._measured(feed, left)

    def _offered(self) -> list[str]:
        """Returns the ways that go together with the other settings."""
        return [m for m in MODES if not compatibility.refusals(replace(self.settings(), execution=m))]

    def _measured(self, feed: Feed, left: int) -> tuple[autotune.Choice, Iterable[CompiledLoop]]:
        offered, made = self._offered(), dict[str, CompiledLoop]()  # by mode
        assert self.graph is not None  # of the first look

        def make(mode: str) -> CompiledLoop:
            self.mode = mode  # a step asks for it while it is traced
            made[mode] = self._made("train")
            return made[mode]

        kinds = [operation.type for operation, _ in operations(self.graph)]
        facts = [feed.element_spec, feed.examples(1), self.guarded, self.micro_batches]
        facts += [type(own).__name__ for own in self.optimizers.values()]
        facts += [self.strategy.num_replicas_in_sync, self.precision, self.batch_norm, len(self._measures)]
        facts += [None if self.watch is None else self.watch.asked.window]
        facts += [offered, importlib.metadata.version("looplab")]
        key = autotune_cache.key_of(self.graph, *facts)
        if self.earlier.get("key") == key and self.earlier.get("mode") in offered:
            return autotune.Choice(self.earlier["mode"], why="as when the run began", key=key), ()
        try:
            choice = autotune.choose(
                make,
                offered,
                feed,
                self.variables,
                trained=[v for own in self.trained.values() for v in own],
                left=left,
                precision=self.precision,
                operations=3 * len(kinds),  # with those of the gradients
                draws=xla_random.others_in_xla(kinds),
                serial=autotune.on_one_core(kinds),
                key=key,
            )
        finally:
            self.mode = "graph"
        if choice.mode in made:  # compiled already
            self.mode, self._executions["train"] = choice.mode, made[choice.mode]
        return replace(choice, key=key), made.values()

    def execution(self, purpose: str) -> CompiledLoop:
        """Returns the one execution of `"train"` or of `"test"`."""
        if purpose not in self._executions:
            self._executions[purpose] = self._made(purpose)
        return self._executions[purpose]

    def _mode_of(self, purpose: str) -> str:
        # Evaluations have batches of several sizes, and are too short for a loop in XLA.
        if purpose in self._in_graph or (purpose != "train" and self.mode == "xla_loop"):
            return "graph"
        return self.mode

    def _made(self, purpose: str) -> CompiledLoop:
        trains = purpose == "train"
        measures = self._measures if trains else ()
        return CompiledLoop(
            in_scope(self._steps[purpose], purpose, measures),
            self.strategy,
            mode=self._mode_of(purpose),
            run_eagerly=self.run_eagerly,
            counter=self.step if trains else None,
            undoing=self._undoing() if trains else Undo(),
            averaged=self._averaged_over_replicas() if trains else (),
            watch=self.watch if trains else None,
        )

    def _leaves_xla(self, purpose: str, error: Exception) -> bool:
        """Has evaluations run in the graph, if that is not what a person has asked for and failed.

        That XLA can run the steps of training was found out, but not that it can run these.
        """
        if self.choice is None or self._executions[purpose].mode == "graph":
            return False
        self._in_graph.add(purpose)
        del self._executions[purpose]
        _log.info("evaluations are not compiled by XLA, as training steps are: %s", why_not(error))
        return True

    def _undoing(self) -> Undo:
        """Returns what is undone where a training step fails, or skips an update in float16."""
        updated, loop = self._updated(), {id(v) for p, v in self.variables.items() if p.startswith("loop/")}
        # Of several updates in a step the others were made, and where a loss leaps all: they are undone too.
        held_back = updated if self._updates == 1 and self.watch is None else set()
        beside = self._parts_but({id(self.step)} | held_back)
        skipped = self._parts_but(loop | updated) if self.loss_scales else []
        if not self.guarded:
            return Undo(skipped=skipped)
        shown = [] if self.loss_scales else optimization.traces(self.optimizers, self.trained)
        parts = [part for variable in shown for part in state.parts(variable)]
        return Undo(True, beside, skipped, changed=self._parts_but(set()), traces=parts)

    def _updated(self) -> set[int]:
        """Returns the ids of what updates change: what is trained, and the optimizers' own variables."""
        trained = {id(v) for own in self.trained.values() for v in own}
        return trained | {id(v) for optimizer in self.optimizers.values() for v in optimizer.variables}

    def _parts_but(self, kept: set[int]) -> list[tf.Variable]:
        """Returns what each replica holds of all variables but those of these ids."""
        held = [v for v in self.variables.values() if id(v) not in kept]
        return [part for variable in held for part in state.parts(variable)]

    def _spread_batch_norm(self) -> None:
        """Has BatchNormalization see what it should, also in pieces without rows."""
        layers, several = batch_norm.layers_of(self.models), self.strategy.num_replicas_in_sync > 1
        if several and self.batch_norm == "sync":
            batch_norm.synchronize(layers, in_pieces=self.micro_batches > 1 or self.splits)
        elif several or self.micro_batches > 1 or self.splits:
            batch_norm.localize(layers)

    def _averaged_over_replicas(self) -> list[tuple[Any, ...]]:
        """Returns the moving statistics that each replica has moved for itself."""
        if self.strategy.num_replicas_in_sync == 1 or self.batch_norm == "sync":
            return []
        return [state.parts(v) for v in batch_norm.moving_statistics(batch_norm.layers_of(self.models))]

    def measure_with(self, measures: Sequence[Measure]) -> None:
        """Has every update of training measured, or none; see `Measure`."""
        if measures or self._measures:
            self._executions.pop("train", None)
        self._measures = measures

    def rebuild(self) -> None:
        """Forgets all traces: each step is traced anew when it runs next."""
        self._executions.clear()
        self._mapped = None

    def evaluator(self, feed: Feed) -> Callable[..., dict[str, float] | None]:
        """Returns what evaluates on a whole feed.

        It may be given a function that says whether to give up, and where its time is counted.

        Where weights are averaged the values are those of the averages; beside them, as `raw_<name>`,
        stand those of the weights themselves.
        """
        pace = self.pace.copy()

        def evaluate(
            give_up: Callable[[], bool] = lambda: False, ledger: Ledger | None = None
        ) -> dict[str, float] | None:
            def values_of() -> dict[str, float] | None:
                with self.measurements.apart("test"):
                    means = loop.evaluate(self.execution("test"), feed, pace, give_up, ledger)
                    self.pictures = self.measurements.pictures("test")
                    return None if means is None else means | self.measurements.values("test")

            try:
                return values_of()
            except tf.errors.OpError as error:
                if not self._leaves_xla("test", error):
                    with xla_explained(self._mode_of("test")):
                        raise
                return values_of()

        def evaluate_both(
            give_up: Callable[[], bool] = lambda: False, ledger: Ledger | None = None
        ) -> dict[str, float] | None:
            if not self._averages():
                return evaluate(give_up, ledger)
            raw = evaluate(give_up, ledger)
            if raw is None:
                return None
            with self.averaged():  # the last, so that what metrics show is of the averages too
                averaged = evaluate(give_up, ledger)
            return None if averaged is None else averaged | _named_raw(raw)

        return evaluate_both

    def predictions(self, feed: Feed) -> Iterator[Any]:
        """Gives the predictions of each batch of a whole feed, in order, as NumPy arrays."""
        if self._mapped is None:
            step = in_scope(self._steps["predict"], "predict")
            # Where the mode was found by measuring, nobody knows that one pass pays for a compilation.
            asked = self.mode == "xla_step" and self.choice is None
            in_xla = asked and self.strategy.num_replicas_in_sync == 1
            self._mapped = BatchMap(step, self.strategy, in_xla=in_xla, run_eagerly=self.run_eagerly)
        batches = self._mapped.run(feed)
        while True:
            # Not while it waits for whoever takes the next.
            with (
                precision.scope(self.precision),
                self.averaged(),
                xla_explained(self.mode),
                explained(feed, 0, feed.steps_per_epoch or 0),
            ):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Puts averages in the place of the weights within the block, where there are some."""
        with optimization.exchanged(self._averages()):
            yield

    def _averages(self) -> optimization.Averages:
        live = optimization.averages_of(self.optimizers.values())
        if live or self._weights is None:
            return live
        return self._weights.averages()

    @property
    def has_weights(self) -> bool:
        """Whether weights were restored, or trained."""
        return self._weights is not None or self.progress is not None

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
        """Returns what a person is told of weights that come from elsewhere, as `(label, text)`."""
        return self._weights.lines() if self._weights is not None else []

    def settings(self) -> compatibility.Settings:
        """Returns what must go together, as far as it is known: models may not be made yet."""
        return compatibility.Settings(
            placement=placement.of(self.strategy),
            replicas=self.strategy.num_replicas_in_sync,
            precision=self.precision,
            execution=self.mode,
            run_eagerly=self.run_eagerly,
            micro_batches=self.micro_batches,
            separable=self._separable,
            batch_norm=self.batch_norm if batch_norm.are_trained(self.models) else "none",
        )

    def produces(self, purpose: str) -> list[str]:
        """Returns the names of the values that an epoch, or an evaluation, comes to."""
        pictures = {*self.measurements.of(purpose)} - {*self.measurements.values(purpose)}
        return [
            name
            for _, prefix, own in self.named(purpose)
            for each in own
            if (name := prefix + each) not in pictures
        ]

    def tags(self) -> set[str]:
        """Returns the tags that training logs: of values of steps, and of means over epochs."""
        return {*self._scalars["train"], *(value_names.EPOCH + name for name in self.produces("train"))}

    def named(self, purpose: str) -> list[value_names.Source]:
        """Returns the names of all that an epoch, or an evaluation, shows, by who gives it."""
        step = self._scalars[purpose]
        found: list[value_names.Source] = [
            ("what the step returns", "", step),
            ("the metrics", "", list(self.measurements.of(purpose))),
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

    # --- what a step says while it is looked at, and uses while it runs ---------------------------

    def will_train(self, optimizer: str, variables: Sequence[Any]) -> None:
        """Remembers that an optimizer trains these variables."""
        self._updates += 1
        known = self.trained.setdefault(optimizer, [])
        known.extend(v for v in variables if all(v is not other for other in known))

    # --- what the loop asks for -------------------------------------------------------------------

    def epoch_values(self) -> dict[str, float]:
        """Returns the training metrics so far, and the learning rate of each optimizer in the last step."""
        rates = optimization.learning_rates(self.optimizers)
        return self.measurements.values("train") | rates | optimization.scale_values(self.loss_scales)

    def scale_learning_rate(self, factor: float, name: str | None) -> None:
        """Multiplies the factor on the schedule of one optimizer, or of all."""
        if name is not None and name not in self._factors:
            raise ConfigurationError(
                f"scale_learning_rate: there is no optimizer {name!r}; there are {list(self._factors)}."
                + nearest(name, self._factors)
            )
        for own, optimizer in self.optimizers.items():
            if name in (None, own):
                optimizer._learning_rate.scale(factor)

    def _look(self, purpose: str, method: Method, feed: Feed, owner: Any) -> None:
        def step(rows: Any) -> None:
            said = method(rows)
            self._scalars[purpose] = list(said) if isinstance(said, Mapping) else []

        def once() -> None:
            self._updates = 0
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

    def _finish(self, owner: Any) -> None:
        """Builds the optimizers and enumerates the state."""
        for name, optimizer in self.optimizers.items():
            if name not in self.trained:
                raise ConfigurationError(
                    f"optimizer {name!r} is never used: train_step calls neither minimize nor "
                    f"apply_gradients with it (only with {sorted(self.trained)})."
                )
            finish_optimizer(optimizer, self.trained[name], self.step, self._factors[name])
        models = state.of_models(self.models)
        trainable = {**models, **state.of_attributes(owner, known=models)}
        for name, groups in self._groups.items():
            trained = {id(variable) for variable in self.trained[name]}
            named = state.shortened(trainable)
            own = {path: variable for path, variable in named.items() if id(variable) in trained}
            self.group_rows[name] = optimization.install(self.optimizers[name], groups, own)
        known = {
            **models,
            **state.of_optimizers(self.optimizers, trainable),
            **state.of_metrics(self.measurements.of("train")),
            **{f"loop/learning_rate_factor/{name}": v for name, v in self._factors.items()},
            **{
                f"loop/loss_scale/{name}/{what}": variable
                for name, own in self.loss_scales.items()
                for what, variable in own.variables.items()
            },
            **({} if self.watch is None else self.watch.variables),
            "loop/step": self.step,
        }
        self.variables = {**known, **state.of_attributes(owner, known=known)}
        self._refuse_lost()
        variables = self.variables.values()
        random.separate_replicas(self.strategy, [v for v in variables if isinstance(v, keras.Variable)])

    def _refuse_lost(self) -> None:
        """Refuses to train what no checkpoint would hold."""
        held = {id(replication.unwrapped(variable)) for variable in self.variables.values()}
        for name, trained in self.trained.items():
            lost = [variable.name for variable in trained if id(replication.unwrapped(variable)) not in held]
            if lost:
                raise ConfigurationError(
                    f"optimizer {name!r} trains {', '.join(lost)}, which is in no model of the trainer and "
                    "in none of its attributes, so no checkpoint would hold it. Make it in setup and keep it "
                    "on the trainer (self.scale = tf.Variable(...)), or in a list or dict there."
                )


def _variable(value: Any, dtype: tf.DType) -> tf.Variable:
    return tf.Variable(
        value, dtype=dtype, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
    )


def _named_raw(values: Mapping[str, Any]) -> dict[str, Any]:
    return {value_names.RAW + name: value for name, value in values.items()}
