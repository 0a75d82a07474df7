"""The first traces of a step: one that creates its variables, and two looks at what it draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from looplab import strategy as replication
from looplab.checkpoint import state
from looplab.execution import StepScope, in_scope, random_operations, tracing
from looplab.execution.random_looks import Look
from looplab.execution.row_random import Draws
from looplab.strategy import placement, tree
from looplab.training.engine import recurrent_states
from looplab.training.engine.keras_steps import KerasSteps
from looplab.training.engine.metric_set import MetricSet
from looplab.training.engine.modes import Modes
from looplab.training.engine.row_draws import RowDraws
from looplab.training.engine.shown_values import ShownValues
from looplab.training.engine.step_loops import Method, StepLoops
from looplab.training.engine.step_scopes import LookingScope, Noted, TracingScope
from looplab.training.engine.tracked_variables import TrackedVariables

_ROWS = 48  # of a look, if batches may have any number: steps may work on pairs, or groups of 3, 4 or 16


class FirstTraces:
    """Traces each kind of step on placeholders, before it is compiled; nothing is computed."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        *,
        models: Mapping[str, keras.Model],
        keras_steps: KerasSteps | None,
        tracked: TrackedVariables,
        metrics: MetricSet,
        values: ShownValues,
        loops: StepLoops,
        modes: Modes,
        draws: RowDraws,
        run_eagerly: bool,
    ) -> None:
        """Traces nothing yet.

        Args:
            strategy: The strategy under which steps run.
            models: The models by name.
            keras_steps: The model's own steps, if they are used; otherwise None.
            tracked: The trainer's variables.
            metrics: The trainer's metrics.
            values: The values that steps log; what a trace finds is noted there.
            loops: The loops that run steps.
            modes: The execution modes of training steps.
            draws: How steps draw random numbers.
            run_eagerly: Whether steps run in Python.
        """
        self._strategy, self._models, self._keras_steps = strategy, models, keras_steps
        self._tracked, self._metrics, self._values = tracked, metrics, values
        self._loops, self._modes, self._draws = loops, modes, draws
        self._several = strategy.num_replicas_in_sync > 1
        self._runs_in_python = run_eagerly and not self._several  # it may read values

    def make(self, purpose: str, method: Method, spec: Any, owner: Any) -> tf.Graph | None:
        """Makes the trace that creates a step's variables and shows what it trains and logs.

        Args:
            purpose: `"train"`, `"test"` or `"predict"`.
            method: The step.
            spec: A nested structure of `tf.TensorSpec`: the batch.
            owner: The object whose attributes may hold further variables.

        Returns:
            The trace; None if the step ran in Python.
        """
        noted = self._values.noted[purpose] = Noted()
        self._find_metrics(owner)
        traced: list[tf.Graph | None] = []

        def once() -> None:
            if purpose == "train":
                self._tracked.updates = 0
            self._saw = self._looks(purpose, spec)
            make_scope = partial(TracingScope, self._loops.parts(), purpose, noted, sees=self._saw)
            traced.append(self._trace(make_scope, method, spec, owner))

        # A step may read a model's variables or metrics before its first call has built them.
        tracing.until_known(
            once, lambda: self._find_metrics(owner) or not all(self._tracked.trained.values())
        )
        self._graph = traced[-1]
        if purpose == "train":
            self._modes.recompute.choose(self._models)  # refuses patterns that match nothing
        return self._graph

    def look(self, purpose: str, method: Method, spec: Any, owner: Any) -> bool:
        """Finds where the rows are in the step's random draws, if it runs on several parts of a batch.

        Args:
            purpose: See `make`.
            method: See `make`.
            spec: See `make`.
            owner: See `make`.

        Returns:
            Whether training draws by replica from here on, and did not before.
        """
        if not self._is_looked_at(purpose):
            return False
        if self._graph is not None and not any(random_operations.drawing(self._graph)):
            return False
        if self._saw is not None and self._graph is not None:
            self._saw.finish(self._graph)
        parts = self._loops.parts()

        def trace(draws: Draws, rows: int) -> tf.Graph | None:
            sized = tree.map_structure(lambda part: tf.TensorSpec([rows, *part.shape[1:]], part.dtype), spec)
            return self._trace(
                partial(LookingScope, parts, purpose, Noted(), draws=draws), method, sized, owner
            )

        in_xla = purpose == "train" and self._modes.mode.startswith("xla")
        in_xla = in_xla or placement.of(self._strategy).fixed_rows
        fixed = replication.static_rows(spec)
        rows = fixed if fixed and self._saw is None else 2 * (fixed or 0) or _ROWS
        return self._draws.look(purpose, self._saw, rows, trace, in_xla=in_xla)

    def _looks(self, purpose: str, spec: Any) -> Look | None:
        """Returns what sees the draws of a first trace."""
        if not self._is_looked_at(purpose) or self._runs_in_python:
            return None
        return Look(replication.static_rows(spec), creates=True)

    def _is_looked_at(self, purpose: str) -> bool:
        """Whether a step runs on several parts of a batch, whose draws looplab may place."""
        divides = purpose == "train" and (self._modes.micro_batches > 1 or self._modes.chooses_micro_batches)
        return (self._several or divides) and self._keras_steps is None

    def _trace(
        self, make_scope: Callable[..., StepScope], method: Method, spec: Any, owner: Any
    ) -> tf.Graph | None:
        step = self._draws.unseeded.in_use()(in_scope(method, make_scope))
        if not self._runs_in_python:
            return tracing.symbolically(step, self._strategy, spec)
        models = state.of_models(self._models)
        known = {**models, **state.of_attributes(owner, known=models)}
        known |= self._metrics.owned.variables() | recurrent_states.variables(self._models, owner)
        if self._keras_steps is not None:  # it makes an update, which is undone
            known |= self._keras_steps.state(known)
        tracing.eagerly(lambda rows: self._strategy.run(step, args=(rows,)), known, spec)
        return None

    def _find_metrics(self, owner: Any) -> bool:
        metrics = self._metrics  # a model's own steps use the model's metrics, as in Keras
        return self._keras_steps is None and metrics.owned.find(self._models, owner, metrics.given())
