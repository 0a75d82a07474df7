"""How training steps run: as the user says, or as is found out when training begins."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import tensorflow as tf

from looplab.checkpoint import state
from looplab.data import GeneratedFeed, explained
from looplab.execution import CompiledLoop, autotune, autotune_cache, autotune_trials, xla_random
from looplab.execution.graph_operations import operations
from looplab.options import compatibility
from looplab.options.execution import MODES, Execution
from looplab.protocols import Feed

_LATER = "to be measured when training begins"
_AS_BEFORE = "as when the run began"


@dataclass(frozen=True)
class Decision:
    """How the steps of a run have run before.

    Attributes:
        mode: Of `looplab.options.execution.MODES`.
        micro_batches: In how many pieces an update computed its gradients; None where that is not known.
        key: Of the step for which the mode was measured, by a start that came to no checkpoint: it holds for
            that step only. None for the decision of a checkpoint, which holds for the run.
    """

    mode: str
    micro_batches: int | None = None
    key: str | None = None

    @classmethod
    def of_checkpoint(cls, saved: Mapping[str, Any] | None) -> Decision | None:
        """Reads what `Engine.how` gave to a checkpoint; None where it has nothing."""
        return None if saved is None else cls(saved["mode"], int(saved["micro_batches"]))

    @classmethod
    def of_environment(cls, choice: Mapping[str, Any]) -> Decision | None:
        """Reads the choice that `environment.json` records; None where it has none."""
        mode, key = choice.get("mode"), choice.get("key")
        return cls(mode, key=key) if isinstance(mode, str) and isinstance(key, str) else None


class Trains(Protocol):
    """What is asked of an engine, prepared for training, whose mode is to be chosen."""

    precision: str
    graph: tf.Graph | None

    @property
    def step(self) -> tf.Variable:
        """Completed steps."""

    @property
    def variables(self) -> state.Variables:
        """Everything that a checkpoint holds, by path."""

    @property
    def trained(self) -> Mapping[str, list[Any]]:
        """The variables that each optimizer trains."""

    def settings(self) -> compatibility.Settings:
        """Returns what must go together."""

    def speed_facts(self) -> list[Any]:
        """Returns what decides how fast a step is, beside its graph, the batches and the machine."""

    def compiled_loop(self, purpose: str) -> CompiledLoop:
        """Returns the loop of a purpose."""

    def make_loop(self, purpose: str) -> CompiledLoop:
        """Makes a loop in the present mode."""

    def keep_loop(self, purpose: str, loop: CompiledLoop) -> None:
        """Keeps a loop as that of a purpose."""

    def forget_loops(self) -> None:
        """Has each loop made anew when it runs next."""


class ModeSelection:
    """The execution mode and the number of micro-batches of training steps.

    Attributes:
        mode: Of `looplab.options.execution.MODES`; the one that was chosen, where it is to be chosen.
        choice: Why; None where a mode was given.
        micro_batches: In how many pieces an update computes its gradients.
        is_open: Whether that number is found out when training begins, and was not yet.
    """

    def __init__(self, execution: Execution) -> None:
        """Settles what is given."""
        self.mode, micro_batches = execution.mode, execution.micro_batches
        self.choice: autotune.Choice | None = None
        if execution.mode == "auto":  # until training begins
            self.mode = "graph"
            eagerly = execution.run_eagerly
            self.choice = autotune.Choice("graph") if eagerly else autotune.Choice("auto", why=_LATER)
        self.micro_batches = 1 if micro_batches == "auto" else int(micro_batches)
        self.is_open = micro_batches == "auto"
        self._before: Decision | None = None

    def resume(self, before: Decision | None) -> None:
        """Takes up how the run's steps have run before; None where that is not known."""
        self._before = before

    def choose_micro_batches(self, engine: Trains, feed: Feed) -> None:
        """Finds the fewest micro-batches whose step fits in memory, if nobody knows yet; as `choose_mode`."""
        if not self.is_open:
            return
        self.is_open = False
        if self._before is not None and self._before.micro_batches is not None:
            self.micro_batches = self._before.micro_batches
            return
        before, sample = state.read(engine.variables), autotune_trials.sample(feed)

        def run(count: int) -> None:
            self._divide_by(engine, count)
            try:
                engine.compiled_loop("train").run(sample, 1)
            finally:
                state.assign(engine.variables, dict(before), "the state before a step was tried")

        self._divide_by(engine, autotune.fewest(run, most=feed.examples(1) or 1))

    def _divide_by(self, engine: Trains, count: int) -> None:
        if self.micro_batches != count:
            engine.forget_loops()
        self.micro_batches = count

    def choose_mode(self, engine: Trains, feed: Feed, left: int) -> list[float]:
        """Settles how training steps run, where that is to be found out; state and feed's place are kept.

        Args:
            engine: Prepared for training.
            feed: The training batches, at the next one; it must be sought afterwards.
            left: Steps there are to make.

        Returns:
            The seconds of each call in which XLA has compiled steps for that.
        """
        if self.choice is None or self.choice.mode != "auto":
            return []
        self.choice, tried = self._chosen(engine, feed, left)
        if self.mode != self.choice.mode:
            self.mode = self.choice.mode
            engine.forget_loops()
        return [seconds for loop in tried for seconds in loop.compiled.values()]

    def _chosen(
        self, engine: Trains, feed: Feed, left: int
    ) -> tuple[autotune.Choice, Iterable[CompiledLoop]]:
        """Returns the choice, and what was made to be tried for it."""
        offered, before = _offered(engine), self._before
        if before is not None and before.key is None and before.mode in offered:  # replicas may have changed
            return autotune.Choice(before.mode, why=_AS_BEFORE), ()
        if isinstance(feed, GeneratedFeed):
            return autotune.Choice("graph", why="a step that makes its own data is not measured"), ()
        with explained(feed, int(engine.step.numpy()), autotune_trials.SAMPLE):
            return self._measured(engine, feed, left, offered)

    def _measured(
        self, engine: Trains, feed: Feed, left: int, offered: list[str]
    ) -> tuple[autotune.Choice, Iterable[CompiledLoop]]:
        made, graph = dict[str, CompiledLoop](), engine.graph  # by mode; of the first trace
        assert graph is not None

        def make(mode: str) -> CompiledLoop:
            self.mode = mode  # a step asks for it while it is traced
            made[mode] = engine.make_loop("train")
            return made[mode]

        kinds = [operation.type for operation, _ in operations(graph)]
        facts = [feed.element_spec, feed.examples(1), *engine.speed_facts(), offered]
        key = autotune_cache.key_of(graph, *facts, importlib.metadata.version("looplab"))
        before = self._before
        if before is not None and before.key == key and before.mode in offered:
            return autotune.Choice(before.mode, why=_AS_BEFORE, key=key), ()
        try:
            choice = autotune.choose(
                make,
                offered,
                feed,
                engine.variables,
                trained=[v for own in engine.trained.values() for v in own],
                left=left,
                precision=engine.precision,
                operations=3 * len(kinds),  # with those of the gradients
                draws=xla_random.others_in_xla(kinds),
                serial=autotune.on_one_core(kinds),
                key=key,
            )
        finally:
            self.mode = "graph"
        if choice.mode in made:  # compiled already
            self.mode = choice.mode
            engine.keep_loop("train", made[choice.mode])
        return replace(choice, key=key), made.values()


def _offered(engine: Trains) -> list[str]:
    """Returns the modes that go together with the other settings."""
    settings = engine.settings()
    return [mode for mode in MODES if not compatibility.refusals(replace(settings, execution=mode))]
