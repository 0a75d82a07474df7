"""Runs a few steps of a trainer for one way from a given state, and returns the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from looplab import optimization, random
from looplab.callbacks import Freeze
from looplab.checkpoint import state
from looplab.data import GeneratedFeed
from looplab.errors import ConfigurationError
from looplab.execution.batches import batch_at
from looplab.protocols import Feed
from looplab.strategy import precision, tree, unwrapped
from looplab.trainer import Trainer
from looplab.training.trainer_parts import parts_of

Arrays = dict[str, np.ndarray]
_COMPARED = ("models/", "optimizers/", "trainer/", "loop/loss_scale/")


@dataclass(frozen=True)
class Ran:
    """The results of some steps.

    Attributes:
        after: By step: every variable that must be equal by path, the returned values of the step as
            `returned/NAME`, and the metrics so far as `metrics/NAME`. A variable that each replica has
            separately has a leading axis of replicas.
        apart: The paths of such variables, if the replicas differ.
        finite: Whether every update was made.
        moved: The paths of frozen variables that changed, by a single bit, on any replica.
    """

    after: Sequence[Arrays]
    apart: frozenset[str]
    finite: bool
    moved: frozenset[str] = frozenset()


class Probe:
    """Runs the steps of a trainer on the same batches repeatedly.

    Attributes:
        trainer: The trainer.
        engine: Its engine.
        frozen: The paths of variables that no step may change; see `frozen_paths`.
    """

    def __init__(self, trainer: Trainer, batches: Sequence[Any]) -> None:
        """Creates every variable of the trainer, and freezes what its callbacks freeze.

        Args:
            trainer: A new trainer.
            batches: One batch for each step; empty for a trainer that makes its own.
        """
        parts = parts_of(trainer)
        self.trainer, self.engine, self._preparation = trainer, parts.engine, parts.preparation
        self._steps = len(batches) or 2
        with self._precision():
            self._feed = self._fed(batches)
            self._preparation.prepare("train", self._feed)
            self._preparation.initialize()  # as `fit` does at the first step
        for callback in self._preparation.callbacks:
            if isinstance(callback, Freeze):
                callback.freeze(trainer.models)
        self.frozen = frozen_paths(self.engine.variables, layers_of(trainer, keras.Layer).values())

    def state(self) -> Arrays:
        """Returns all variables, including those that are not compared."""
        return state.read(self.engine.variables)

    def trained(self) -> list[str]:
        """Returns the paths of variables that optimizers train now, without frozen ones."""
        own = {id(variable) for variables in self.engine.trained.values() for variable in variables}
        found = [path for path, variable in self.engine.variables.items() if id(variable) in own]
        return [path for path in found if path not in self.frozen]

    def run(self, start: Arrays) -> Ran:
        """Runs all steps from a state of one device, one after another."""
        self.begin(start)
        after: list[Arrays] = []
        apart: set[str] = set()
        moved: set[str] = set()
        finite = True
        before = {path: self._held(path) for path in self.frozen}
        with self._precision():
            for _ in range(self._steps):
                steps = self.engine.loops.of("train").run(self._feed, 1)
                finite &= steps.failed is None
                values = steps.failed or {name: series[0] for name, series in steps.values.items()}
                arrays = self._compared(apart)
                moved |= {path for path, held in before.items() if held != self._held(path)}
                metrics = self.engine.metrics.values("train")
                arrays |= {f"returned/{name}": np.asarray(value) for name, value in values.items()}
                after.append(arrays | {f"metrics/{name}": np.asarray(v) for name, v in metrics.items()})
        return Ran(after, frozenset(apart), finite, frozenset(moved))

    def run_seeded(self, start: Arrays, seed: int) -> Ran:
        """Seeds the generators of the process, and calls `run`."""
        random.seed_everything(seed)
        return self.run(start)

    def begin(self, start: Arrays) -> None:
        """Sets all variables, and returns to the first batch."""
        variables = self.engine.variables
        state.assign(variables, state.regrouped(variables, start), "the state of the reference")
        self.engine.metrics.reset("train")  # including variables that metrics created since
        self._feed.seek(0)

    def first_batch(self, start: Arrays) -> Any:
        """Returns the batch of the first step from a state."""
        self.begin(start)
        return tree.map_structure(np.asarray, batch_at(self._feed.take(1), 0))

    def gradients(self, start: Arrays) -> list[Arrays]:
        """Returns the gradients of every update of the first step, by path; all at the weights of `start`.

        The trainer must run eagerly; do not use it afterwards.
        """
        paths = {id(variable): path for path, variable in self.engine.variables.items()}
        found: list[Arrays] = []

        def measure(_: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> dict[str, tf.Tensor]:
            if _is_first_replica():
                pairs = zip(variables, gradients, strict=True)
                found.append({paths[id(v)]: np.asarray(g, np.float64) for v, g in pairs if g is not None})
            return {}

        self.begin(start)
        with self._precision():
            # No update changes the weights of the next one.
            optimization.scale_learning_rate(self.engine.optimizers, 0.0, None)
            self.engine.loops.measure_with([measure])
            self.engine.loops.of("train").run(self._feed, 1)
        return found

    def _fed(self, batches: Sequence[Any]) -> Feed:
        if batches:
            self._preparation.set_up()
            return GeneratedFeed(lambda step: batches[step % len(batches)], len(batches))
        if type(self.trainer).make_batch is Trainer.make_batch:
            raise ConfigurationError(
                f"check_step: give a batch; {type(self.trainer).__name__} has no make_batch that makes one."
            )
        return self._preparation.feed(None, None, steps_per_epoch=self._steps)

    def _compared(self, apart: set[str]) -> Arrays:
        """Reads the variables to compare, and adds the paths that may differ between replicas to `apart`."""
        variables = {
            path: variable
            for path, variable in self.engine.variables.items()
            if path.startswith(_COMPARED) and not is_of_a_generator(path, variable)
        }
        compared: Arrays = {}
        for name, array in state.read(variables).items():
            path = name.removesuffix("@replicas")
            aggregation = unwrapped(variables[path]).aggregation
            if path == name:
                compared[path] = array
            elif aggregation == tf.VariableAggregation.SUM:
                compared[path] = array.sum(axis=0)
            elif aggregation == tf.VariableAggregation.MEAN:
                compared[path] = array.mean(axis=0)
            else:
                compared[path] = array
                apart.add(path)
        return compared

    def _held(self, path: str) -> list[bytes]:
        """Returns the bytes of each replica's copy of a variable."""
        return [part.numpy().tobytes() for part in state.parts(self.engine.variables[path])]

    def _precision(self) -> Any:
        return precision.scope(self.engine.precision)


def frozen_paths(variables: Mapping[str, Any], layers: Iterable[Any]) -> frozenset[str]:
    """Returns the paths of variables that must keep every bit while layers and weights are frozen.

    These are weights that are not trainable, with their slots in optimizers and their averages; and all other
    variables of a frozen layer, such as moving statistics, except the states of random generators.
    """
    paths = {id(variable): path for path, variable in variables.items()}
    weights: set[str] = set()
    kept: set[str] = set()
    for layer in layers:
        weights |= {paths.get(id(v), "") for v in layer._trainable_variables if not v.trainable}
        if not layer.trainable:
            kept |= {paths.get(id(v), "") for v in layer._non_trainable_variables}
    kept = {path for path in kept - {""} if not is_of_a_generator(path, variables[path])}
    owners = {path.removeprefix("models/") for path in weights - {""}}
    slots = {path for path in variables if path.startswith("optimizers/") and _owner(path) in owners}
    return frozenset((weights - {""}) | kept | slots)


def _owner(slot: str) -> str:
    return slot.split("/", 2)[-1].rpartition("/")[0]


def is_of_a_generator(path: str, variable: Any) -> bool:
    """Whether a variable is the state of a random generator, which no two replicas share."""
    whole = np.issubdtype(tf.as_dtype(variable.dtype).as_numpy_dtype, np.integer)
    return bool(whole) and path.endswith(("seed_generator_state", "/state"))


def rows_of(batch: Any, first: int, last: int) -> Any:
    """Returns some rows of a batch."""
    return tree.map_structure(lambda part: part[first:last], batch)


def size_of(batch: Any) -> int:
    """Returns the number of examples in a batch."""
    return len(tree.first(batch))


def layers_of(trainer: Trainer, kind: type[keras.Layer]) -> dict[str, Any]:
    """Returns the layers of a kind in a trainer's models and attributes, by name."""
    owners = {**trainer.models, **{k: v for k, v in vars(trainer).items() if isinstance(v, keras.Layer)}}
    return {
        f"{name}/{layer.name}": layer
        for name, owner in owners.items()
        for layer in owner._flatten_layers()
        if isinstance(layer, kind)
    }


def _is_first_replica() -> bool:
    context = tf.distribute.get_replica_context()
    return context is None or int(tf.get_static_value(context.replica_id_in_sync_group)) == 0
