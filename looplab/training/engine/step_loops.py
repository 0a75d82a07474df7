"""The compiled loops of a trainer's steps: made when first wanted, forgotten when something changes."""

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
from looplab.training.engine.step_scopes import RunningScope, StepParts
from looplab.training.engine.traced_values import TracedValues
from looplab.training.engine.tracked_variables import TrackedVariables

_log = logging.getLogger("looplab")

Method = Callable[[Any], Any]  # from a replica's rows to what a step returns


class StepLoops:
    """What runs the steps of training and evaluation, and what maps batches to predictions."""

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
    ) -> None:
        """Makes no loop yet.

        Args:
            strategy: Where steps run.
            modes: How they run; read whenever a loop is made.
            models: By name.
            optimizers: By name.
            tracked: The trainer's variables.
            metrics: Its metrics.
            traced: Takes note of what the traces of steps read.
            run_eagerly: Whether steps run in Python.
            guarded: Whether a training step fails, and is undone, where something is not finite.
            local_batch_norm: Whether BatchNormalization sees its replica's rows only.
        """
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
        """Takes the step of a purpose, all of whose variables are made."""
        self._steps[purpose] = method
        self._traced.begin(purpose)

    def method(self, purpose: str) -> Method:
        """Returns the step of a purpose."""
        return self._steps[purpose]

    def __contains__(self, purpose: str) -> bool:
        """Whether the step of a purpose was taken."""
        return purpose in self._steps

    @property
    def measures(self) -> int:
        """By how many functions every update is measured."""
        return len(self._measures)

    def measure_with(self, measures: Sequence[Measure]) -> None:
        """Has every update of training measured, or none; see `Measure`."""
        if measures or self._measures:
            self.drop("train")
        self._measures = measures

    def of(self, purpose: str) -> CompiledLoop:
        """Returns the one loop of `"train"` or of `"test"`."""
        if purpose not in self._loops:
            self._loops[purpose] = self.make(purpose)
        return self._loops[purpose]

    def make(self, purpose: str) -> CompiledLoop:
        """Makes a loop of `"train"` or of `"test"` in the present mode."""
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
        """Keeps a loop that `make` has made, as that of a purpose."""
        self._loops[purpose] = loop

    def drop(self, purpose: str) -> None:
        """Has the steps of a purpose traced anew when they run next."""
        self._loops.pop(purpose, None)
        if purpose == "predict":
            self._batch_map = None
        self._traced.will_be_traced(purpose)

    def forget(self) -> None:
        """Has each loop made anew when it runs next."""
        for purpose in ("train", "test"):
            self.drop(purpose)

    def rebuild(self) -> None:
        """Forgets all traces, for somebody who knows what has changed: each step is traced anew."""
        for purpose in self._steps:
            self.drop(purpose)
            self._traced.forget(purpose)
            self._traced.begin(purpose)

    def batch_map(self) -> BatchMap:
        """Returns what maps batches to predictions."""
        if self._batch_map is None:
            step = self._noted("predict")
            # Where the mode was found by measuring, nobody knows that one pass pays for a compilation.
            requested = self._modes.mode == "xla_step" and self._modes.choice is None
            in_xla = requested and self._strategy.num_replicas_in_sync == 1
            self._batch_map = BatchMap(step, self._strategy, in_xla=in_xla, run_eagerly=self._run_eagerly)
        return self._batch_map

    def mode_of(self, purpose: str) -> str:
        """Returns how the steps of a purpose run, of `looplab.options.execution.MODES`."""
        # Evaluations have batches of several sizes, and are too short for a loop in XLA.
        if purpose in self._in_graph or (purpose != "train" and self._modes.mode == "xla_loop"):
            return "graph"
        return self._modes.mode

    def leaves_xla(self, purpose: str, error: Exception) -> bool:
        """Has evaluations run in the graph, if that is not what the user has asked for and failed.

        That XLA can run the steps of training was found out, but not that it can run these.

        Args:
            purpose: `"test"`.
            error: With which its loop has failed.

        Returns:
            Whether they do from now on, and did not before.
        """
        if self._modes.choice is None or self._loops[purpose].mode == "graph":
            return False
        self._in_graph.add(purpose)
        del self._loops[purpose]
        _log.info("evaluations are not compiled by XLA, as training steps are: %s", why_not(error))
        return True

    def parts(self) -> StepParts:
        """Returns what a step works with that is traced now."""
        several = self._strategy.num_replicas_in_sync > 1
        return StepParts(
            self._optimizers,
            self._tracked,
            self._metrics,
            self._modes.micro_batches,
            compiles_gradients=self._modes.mode == "xla_step" and several,
        )

    def _noted(self, purpose: str) -> Callable[..., Any]:
        """Returns the step of a purpose, which takes note of what it reads while it is traced."""
        step = in_scope(self._steps[purpose], self._running(purpose))

        def noted(*arguments: Any, **keywords: Any) -> Any:
            if tf.executing_eagerly():
                return step(*arguments, **keywords)
            with self._traced.tracing(purpose, self._metrics.of(purpose)):
                return step(*arguments, **keywords)

        return noted

    def _running(self, purpose: str) -> Callable[..., StepScope]:
        measures = self._measures if purpose == "train" else ()
        return partial(RunningScope, self.parts(), purpose, measures=measures)

    def _averaged_over_replicas(self) -> list[tuple[Any, ...]]:
        """Returns the moving statistics that each replica has moved for itself."""
        if self._strategy.num_replicas_in_sync == 1 or not self._local_batch_norm:
            return []
        layers = batch_norm.layers_of(self._models)
        return [state.parts(variable) for variable in batch_norm.moving_statistics(layers)]
