"""The compiled loops of a trainer's steps: created at first use, discarded when something changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from looplab.checkpoint import state
from looplab.execution import BatchMap, CompiledLoop, Measure, StepScope, Undo, in_scope, why_not
from looplab.strategy import batch_norm
from looplab.training.engine.metric_set import MetricSet
from looplab.training.engine.modes import Modes
from looplab.training.engine.row_draws import RowDraws
from looplab.training.engine.step_scopes import RunningScope, StepParts
from looplab.training.engine.traced_values import TracedValues
from looplab.training.engine.tracked_variables import TrackedVariables

_log = logging.getLogger("looplab")

Method = Callable[[Any], Any]  # from a replica's rows to the values of a step


class StepLoops:
    """The loops that run steps of training and evaluation, and the map from batches to predictions."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        modes: Modes,
        *,
        models: Mapping[str, keras.Model],
        optimizers: Mapping[str, keras.optimizers.Optimizer],
        tracked: TrackedVariables,
        metrics: MetricSet,
        traced: TracedValues,
        run_eagerly: bool,
        guarded: bool,
        local_batch_norm: bool,
        draws: RowDraws,
    ) -> None:
        """Creates no loop yet.

        Args:
            strategy: The strategy under which steps run.
            modes: The execution modes; read whenever a loop is created.
            models: The models by name.
            optimizers: The optimizers by name.
            tracked: The trainer's variables.
            metrics: The trainer's metrics.
            traced: Records the values that the traces of steps read.
            run_eagerly: Whether steps run in Python.
            guarded: Whether a training step fails, and is undone, if something is not finite.
            local_batch_norm: Whether BatchNormalization uses only its replica's rows.
            draws: Makes the random draws of steps.
        """
        self._draws = draws
        self._strategy, self._modes = strategy, modes
        self._models, self._optimizers, self._tracked, self._metrics = models, optimizers, tracked, metrics
        self._traced = traced
        self._run_eagerly, self._guarded, self._local_batch_norm = run_eagerly, guarded, local_batch_norm
        self._steps: dict[str, Method] = {}
        self._loops: dict[str, CompiledLoop] = {}
        self._batch_map: BatchMap | None = None
        self._in_graph = set[str]()  # purposes whose steps XLA could not compile
        self._measures: Sequence[Measure] = ()

    def add(self, purpose: str, method: Method) -> None:
        """Adds the step of a purpose; all its variables exist."""
        self._steps[purpose] = method
        self._traced.begin(purpose)

    def method(self, purpose: str) -> Method:
        """Returns the step of a purpose."""
        return self._steps[purpose]

    def __contains__(self, purpose: str) -> bool:
        """Whether the step of a purpose was added."""
        return purpose in self._steps

    @property
    def measures(self) -> int:
        """The number of functions that measure every update."""
        return len(self._measures)

    def measure_with(self, measures: Sequence[Measure]) -> None:
        """Sets the functions that measure every update of training; see `Measure`."""
        if measures or self._measures:
            self.drop("train")
        self._measures = measures

    def of(self, purpose: str) -> CompiledLoop:
        """Returns the only loop of `"train"` or of `"test"`."""
        if purpose not in self._loops:
            self._loops[purpose] = self.make(purpose)
        return self._loops[purpose]

    def make(self, purpose: str) -> CompiledLoop:
        """Creates a loop of `"train"` or of `"test"` in the present mode."""
        trains = purpose == "train"
        return CompiledLoop(
            self._noted(purpose),
            self._strategy,
            mode=self.mode_of(purpose),
            run_eagerly=self._run_eagerly,
            counter=self._tracked.step if trains else None,
            undoing=self._tracked.undo(self._guarded) if trains else Undo(),
            averaged=self._averaged_over_replicas() if trains else (),
            watch=self._tracked.watch if trains else None,
        )

    def keep(self, purpose: str, loop: CompiledLoop) -> None:
        """Keeps a loop from `make` as the loop of a purpose."""
        self._loops[purpose] = loop

    def drop(self, purpose: str) -> None:
        """Discards the loop of a purpose; its steps are traced again when they run next."""
        self._loops.pop(purpose, None)
        if purpose == "predict":
            self._batch_map = None
        self._traced.will_be_traced(purpose)

    def forget(self) -> None:
        """Discards all loops; each is created again when it runs next."""
        for purpose in ("train", "test"):
            self.drop(purpose)

    def rebuild(self) -> None:
        """Discards all traces, for a caller that knows what has changed: each step is traced again."""
        for purpose in self._steps:
            self.drop(purpose)
            self._traced.forget(purpose)
            self._traced.begin(purpose)

    def batch_map(self) -> BatchMap:
        """Returns the map from batches to predictions."""
        if self._batch_map is None:
            step = self._noted("predict")
            # If the mode was measured, it is not known whether one pass pays for a compilation.
            requested = self._modes.mode == "xla_step" and self._modes.choice is None
            in_xla = requested and self._strategy.num_replicas_in_sync == 1
            self._batch_map = BatchMap(step, self._strategy, in_xla=in_xla, run_eagerly=self._run_eagerly)
        return self._batch_map

    def mode_of(self, purpose: str) -> str:
        """Returns the mode of a purpose's steps, one of `looplab.options.execution.MODES`."""
        # Evaluations have batches of several sizes, and are too short for a loop in XLA.
        if purpose in self._in_graph or (purpose != "train" and self._modes.mode == "xla_loop"):
            return "graph"
        return self._modes.mode

    def leaves_xla(self, purpose: str, error: Exception) -> bool:
        """Makes evaluations run in the graph after XLA failed, unless the user has requested XLA.

        looplab has measured that XLA can run the steps of training, but not that it can run these.

        Args:
            purpose: `"test"`.
            error: The error of its loop.

        Returns:
            Whether they run in the graph from now on, and did not before.
        """
        if self._modes.choice is None or self._loops[purpose].mode == "graph":
            return False
        self._in_graph.add(purpose)
        del self._loops[purpose]
        _log.info("evaluations run without XLA, unlike training steps: %s", why_not(error))
        return True

    def parts(self) -> StepParts:
        """Returns the objects for a step that is traced now."""
        several = self._strategy.num_replicas_in_sync > 1
        return StepParts(
            self._optimizers,
            self._tracked,
            self._metrics,
            self._modes.micro_batches,
            compiles_gradients=self._modes.mode == "xla_step" and several,
        )

    def _noted(self, purpose: str) -> Callable[..., Any]:
        """Returns the step of a purpose, which records the values that it reads while it is traced."""
        step = self._draws.unseeded.in_use()(in_scope(self._steps[purpose], self._running(purpose)))

        def noted(*arguments: Any, **keywords: Any) -> Any:
            if tf.executing_eagerly():
                return step(*arguments, **keywords)
            with self._traced.tracing(purpose, self._metrics.of(purpose)):
                return step(*arguments, **keywords)

        return noted

    def _running(self, purpose: str) -> Callable[..., StepScope]:
        draws = self._draws.of(purpose)
        if purpose != "train":
            return partial(RunningScope, self.parts(), purpose, draws=draws)
        recompute = self._modes.recompute
        recompute.chosen = recompute.choose(self._models)
        return partial(
            RunningScope,
            self.parts(),
            purpose,
            measures=self._measures,
            draws=draws,
            recomputes=recompute.chosen,
        )

    def _averaged_over_replicas(self) -> list[tuple[Any, ...]]:
        """Returns the moving statistics that each replica updates separately."""
        if self._strategy.num_replicas_in_sync == 1 or not self._local_batch_norm:
            return []
        layers = batch_norm.layers_of(self._models)
        return [state.parts(variable) for variable in batch_norm.moving_statistics(layers)]
