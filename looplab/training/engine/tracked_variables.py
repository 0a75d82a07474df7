"""The variables of a trainer: those that each optimizer trains, and all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from looplab import optimization
from looplab import strategy as replication
from looplab.checkpoint import state
from looplab.errors import ConfigurationError
from looplab.execution import Undo
from looplab.optimization.optimizers import finish_optimizer
from looplab.training.engine import recurrent_states
from looplab.training.engine.keras_steps import KerasSteps
from looplab.training.engine.metric_set import MetricSet


class TrackedVariables:
    """The variables of a trainer, by path; complete after training is prepared.

    Attributes:
        step: The number of completed steps, a scalar int64 variable.
        factors: The factor on the learning rate of each optimizer, float64.
        watch: Makes steps fail whose loss spikes; None if it is off.
        loss_scales: The loss scale of each optimizer, if layers compute in float16.
        trained: The variables that each optimizer trains.
        updates: The number of updates in a training step; 0 if a model's own step makes them.
        all: Everything that a checkpoint holds, by path.
        group_rows: The parameter groups of each optimizer, as rows of a table.
    """

    def __init__(
        self,
        optimizers: dict[str, keras.optimizers.Optimizer],
        *,
        spikes: optimization.SpikeDetection,
        scales_losses: bool,
    ) -> None:
        """Creates looplab's own variables; in the strategy's scope.

        Args:
            optimizers: The optimizers by name; `take_built` adds to them.
            spikes: The policy for a step whose loss spikes.
            scales_losses: Whether layers compute in float16.
        """
        self._optimizers = optimizers
        self.step = _variable(0, tf.int64)
        self.factors = {name: _variable(1.0, tf.float64) for name in optimizers}
        self.watch = None if spikes.policy == "ignore" else optimization.SpikeWatch(spikes, _variable)
        scaled = optimizers if scales_losses else ()
        self.loss_scales = {name: optimization.LossScale(_variable) for name in scaled}
        self.trained: dict[str, list[Any]] = {}
        self.updates = 0
        self.all: state.Variables = {}
        self.group_rows: dict[str, list[optimization.Row]] = {}
        self._built: dict[str, list[Any]] = {}  # the variables for which each optimizer was built

    def will_train(self, optimizer: str, variables: Sequence[Any]) -> None:
        """Records that an optimizer trains these variables in a training step."""
        self.updates += 1
        known = self.trained.setdefault(optimizer, [])
        known.extend(v for v in variables if all(v is not other for other in known))

    def drop(self, optimizer: str) -> None:
        """Removes an optimizer that no step uses."""
        for held in (self._optimizers, self.factors, self.loss_scales):
            held.pop(optimizer, None)

    def take_built(self, keras_steps: KerasSteps) -> None:
        """Adds the optimizers that a model's own step has built, and the variables that they train."""
        keras_steps.reset()  # its metrics may have been used before
        for found, optimizer in keras_steps.optimizers().items():
            name = next((n for n, given in self._optimizers.items() if given is optimizer), found)
            self._optimizers[name] = optimizer
            self.factors.setdefault(name, _variable(1.0, tf.float64))
            self.trained[name] = list(optimizer._trainable_variables)

    def complete(
        self,
        models: Mapping[str, keras.Model],
        metrics: MetricSet,
        groups: Mapping[str, optimization.Groups],
        owner: Any,
        keras_steps: KerasSteps | None,
    ) -> None:
        """Builds the optimizers and enumerates the state; in the strategy's scope.

        Args:
            models: The models by name, built.
            metrics: The trainer's metrics, with those of training created.
            groups: Parameter groups by optimizer.
            owner: The object whose attributes may hold further variables.
            keras_steps: The model's own steps, if they make the updates: schedules count these, as in Keras.

        Raises:
            ConfigurationError: If an optimizer is never used, or a trained variable would not be saved.
        """
        for name, optimizer in self._optimizers.items():
            if name not in self.trained:
                raise ConfigurationError(
                    f"optimizer {name!r} is never used: train_step calls neither minimize nor "
                    f"apply_gradients with it (only with {sorted(self.trained)})."
                )
            clock = self.step if keras_steps is None else optimizer.iterations
            finish_optimizer(optimizer, self.trained[name], clock, self.factors[name])
        of_models = state.of_models(models)
        trainable = {**of_models, **state.of_attributes(owner, known=of_models)}
        self._install_groups(groups, state.shortened(trainable))
        known = {
            **of_models,
            **state.of_optimizers(self._optimizers, trainable),
            **state.of_metrics(metrics.of("train")),
            **{f"loop/learning_rate_factor/{name}": v for name, v in self.factors.items()},
            **{
                f"loop/loss_scale/{name}/{what}": variable
                for name, own in self.loss_scales.items()
                for what, variable in own.variables.items()
            },
            **({} if self.watch is None else self.watch.variables),
            "loop/step": self.step,
        }
        if keras_steps is not None:
            known |= keras_steps.state(known)
        known |= state.of_attributes(owner, known=known)
        known |= recurrent_states.variables(models, owner)
        held = {id(variable) for variable in known.values()}
        self.all = known | {p: v for p, v in metrics.owned.variables().items() if id(v) not in held}
        self._refuse_lost()
        self._built = {name: list(own) for name, own in self.trained.items()}

    def hold(self, generator: keras.random.SeedGenerator | None) -> None:
        """Adds the generator of draws without a seed, if there is one, to the state of training."""
        if generator is not None and self.all:
            self.all.setdefault("loop/keras_random/seed_generator_state", generator.state)

    def refuse_others(self, models: Mapping[str, keras.Model], changes: str) -> None:
        """Refuses to continue with variables that the optimizers and the checkpoints of this run do not know.

        Args:
            models: The present models by name.
            changes: A description of the changes.

        Raises:
            ConfigurationError: With the variables and the remedy.
        """
        if not self._built:
            return
        now, before = state.of_models(models), {p: v for p, v in self.all.items() if p.startswith("models/")}
        ids = {id(v) for v in now.values()}, {id(v) for v in before.values()}
        new = [path.removeprefix("models/") for path, v in now.items() if id(v) not in ids[1]]
        gone = [path.removeprefix("models/") for path, v in before.items() if id(v) not in ids[0]]
        trained, self.trained = self.trained, {name: list(own) for name, own in self._built.items()}
        if new or gone:
            raise ConfigurationError(
                f"{changes}: training was prepared for other variables (new: {', '.join(new) or 'none'}; "
                f"gone: {', '.join(gone) or 'none'}), and its optimizers and checkpoints know only those. "
                "Create a new Trainer with the changed model, which keeps its weights, and a new run_dir."
            )
        for name, own in trained.items():
            known = {id(v) for v in self._built.get(name, ())}
            if lost := [getattr(v, "path", v.name) for v in own if id(v) not in known]:
                raise ConfigurationError(
                    f"{changes}: optimizer {name!r} would train {', '.join(lost)} from here on, but it was "
                    "built only for the variables that were trainable before. Give the Trainer a model in "
                    "which everything is trainable that it will ever train, and freeze parts of it for a "
                    "time: callbacks=[looplab.callbacks.Freeze('LAYER', until='2ep')], or layer.trainable = "
                    "False in a callback. Or create a new Trainer with this model, which keeps its weights."
                )

    def _install_groups(self, groups: Mapping[str, optimization.Groups], named: state.Variables) -> None:
        for name, own in groups.items():
            trained = {id(variable) for variable in self.trained[name]}
            paths = {path: variable for path, variable in named.items() if id(variable) in trained}
            self.group_rows[name] = optimization.install(self._optimizers[name], own, paths)

    def _refuse_lost(self) -> None:
        """Refuses to train variables that no checkpoint would hold."""
        held = {id(replication.unwrapped(variable)) for variable in self.all.values()}
        for name, trained in self.trained.items():
            lost = [variable.name for variable in trained if id(replication.unwrapped(variable)) not in held]
            if lost:
                raise ConfigurationError(
                    f"optimizer {name!r} trains {', '.join(lost)}, which is in no model of the trainer and "
                    "in none of its attributes, so no checkpoint would hold it. Create it in setup and keep "
                    "it on the trainer (self.scale = tf.Variable(...)), or in a list or dict there."
                )

    def undo(self, guarded: bool) -> Undo:
        """Returns the state to restore if a training step fails, or skips an update in float16.

        Args:
            guarded: Whether a step fails if its loss or a gradient is not finite.
        """
        updated, loop = self._updated(), {id(v) for p, v in self.all.items() if p.startswith("loop/")}
        # If one of several updates fails, the others were made; at a spike all were made: these are undone
        # too.
        held_back = updated if self.updates == 1 and self.watch is None else set()
        beside = self._parts_but({id(self.step)} | held_back)
        skipped = self._parts_but(loop | updated) if self.loss_scales else []
        if not guarded:
            return Undo(skipped=skipped)
        shown = (
            []
            if self.loss_scales or not self.updates
            else optimization.traces(self._optimizers, self.trained)
        )
        parts = [part for variable in shown for part in state.parts(variable)]
        changed = self._parts_but(set())
        return Undo(True, beside, skipped, changed=changed, traces=parts, afterwards=not self.updates)

    def _updated(self) -> set[int]:
        """Returns the ids of the variables that updates change: trained ones, and the optimizers' own."""
        trained = {id(v) for own in self.trained.values() for v in own}
        return trained | {id(v) for optimizer in self._optimizers.values() for v in optimizer.variables}

    def _parts_but(self, kept: set[int]) -> list[tf.Variable]:
        """Returns each replica's copies of all variables except those with these ids."""
        held = [v for v in self.all.values() if id(v) not in kept]
        return [part for variable in held for part in state.parts(variable)]


def _variable(value: Any, dtype: tf.DType) -> tf.Variable:
    return tf.Variable(
        value, dtype=dtype, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
    )
