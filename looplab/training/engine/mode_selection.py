"""Chooses how training steps run, if the user leaves it to looplab."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import tensorflow as tf

from looplab.checkpoint import state
from looplab.data import GeneratedFeed, explained
from looplab.execution import CompiledLoop, autotune, autotune_cache, autotune_trials, xla_random
from looplab.execution.graph_operations import operations
from looplab.execution.row_random import Placed
from looplab.options import compatibility
from looplab.options.execution import MODES
from looplab.protocols import Agreement, Feed
from looplab.training.engine.modes import LATER, Modes
from looplab.training.engine.row_draws import RowDraws
from looplab.training.engine.step_loops import StepLoops

_AS_BEFORE = "as when the run began"


class Trains(Protocol):
    """An engine, prepared for training, whose mode is chosen here."""

    precision: str
    graph: tf.Graph | None
    agreement: Agreement
    modes: Modes
    loops: StepLoops
    draws: RowDraws

    @property
    def step(self) -> tf.Variable:
        """The number of completed steps."""

    @property
    def variables(self) -> state.Variables:
        """Everything that a checkpoint holds, by path."""

    @property
    def trained(self) -> Mapping[str, list[Any]]:
        """The variables that each optimizer trains."""

    def settings(self) -> compatibility.Settings:
        """Returns the settings that must be compatible."""

    def speed_facts(self) -> list[Any]:
        """Returns what affects the speed of a step, in addition to its graph, batches and machine."""


def choose_micro_batches(engine: Trains, feed: Feed) -> None:
    """Finds the fewest micro-batches whose step fits in memory, if not known yet; see `choose_mode`."""
    modes = engine.modes
    if not modes.chooses_micro_batches:
        return
    modes.chooses_micro_batches = False
    if modes.before is not None and modes.before.micro_batches is not None:
        modes.micro_batches = modes.before.micro_batches
        return
    before, sample = state.read(engine.variables), autotune_trials.sample(feed)

    def run(count: int) -> None:
        _divide_by(engine, count)
        try:
            engine.loops.of("train").run(sample, 1)
        finally:
            state.assign(engine.variables, dict(before), "the state before a step was tried")

    found = autotune.fewest(run, most=feed.examples(1) or 1)
    _divide_by(engine, engine.agreement.decide("micro-batches", found))


def _divide_by(engine: Trains, count: int) -> None:
    if engine.modes.micro_batches != count:
        engine.loops.forget()
    engine.modes.micro_batches = count


def choose_mode(engine: Trains, feed: Feed, left: int) -> list[float]:
    """Chooses the mode of training steps, if that is left to looplab; restores the state.

    Args:
        engine: An engine prepared for training.
        feed: The training batches, at the next one; the caller must seek it again afterwards.
        left: The number of remaining steps.

    Returns:
        The seconds of each call in which XLA compiled steps for the choice.
    """
    modes = engine.modes
    if not modes.chooses_mode:
        return []
    choice, tried = _chosen(engine, feed, left)
    modes.choice = engine.agreement.decide("execution mode", choice)
    if modes.mode != modes.choice.mode:
        modes.mode = modes.choice.mode
        engine.loops.forget()
    return [seconds for loop in tried for seconds in loop.compiled.values()]


def _chosen(engine: Trains, feed: Feed, left: int) -> tuple[autotune.Choice, Iterable[CompiledLoop]]:
    """Returns the choice, and the loops that were created to try the modes."""
    offered = _offered(engine)
    choice = _unmeasured(engine, feed, left, offered)
    if choice.mode != "auto":
        return choice, ()
    with explained(feed, int(engine.step.numpy()), autotune_trials.SAMPLE):
        return _measured(engine, feed, left, offered, choice.key)


def foreseen(engine: Trains, feed: Feed, left: int) -> autotune.Choice | None:
    """Returns how training steps will run, as far as that is known now; None where the mode was given.

    Args:
        engine: Prepared for training.
        feed: The training batches.
        left: Steps there are to make.
    """
    if not engine.modes.chooses_mode:
        return engine.modes.choice
    return _unmeasured(engine, feed, left, _offered(engine))


def _unmeasured(engine: Trains, feed: Feed, left: int, offered: list[str]) -> autotune.Choice:
    """Returns the choice if nothing is to be measured for it, or else "auto"."""
    before = engine.modes.before
    if before is not None and before.key is None and before.mode in offered:  # replicas may have changed
        return autotune.Choice(before.mode, why=_AS_BEFORE)
    if isinstance(feed, GeneratedFeed):
        return autotune.Choice("graph", why="a step that makes its own data is not measured")
    assert engine.graph is not None
    facts = [feed.element_spec, feed.examples(1), *engine.speed_facts(), offered]
    key = autotune_cache.key_of(engine.graph, *facts, importlib.metadata.version("looplab"))
    if before is not None and before.key == key and before.mode in offered:
        return autotune.Choice(before.mode, why=_AS_BEFORE, key=key)
    choice = autotune.without_measuring(offered, left, key)
    return replace(choice or autotune.Choice("auto", why=LATER), key=key)


def _measured(
    engine: Trains, feed: Feed, left: int, offered: list[str], key: str | None
) -> tuple[autotune.Choice, Iterable[CompiledLoop]]:
    modes, made, graph = engine.modes, dict[str, CompiledLoop](), engine.graph  # by mode; of the first trace
    assert graph is not None

    def make(mode: str) -> CompiledLoop:
        modes.mode = mode  # a step reads it while it is traced
        made[mode] = engine.loops.make("train")
        return made[mode]

    kinds = [operation.type for operation, _ in operations(graph)]
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
        modes.mode = "graph"
    if choice.mode in made:  # compiled already
        modes.mode = choice.mode
        engine.loops.keep("train", made[choice.mode])
    return replace(choice, key=key), made.values()


def _offered(engine: Trains) -> list[str]:
    """Returns the modes that are compatible with the other settings."""
    settings = engine.settings()
    possible = [mode for mode in MODES if not compatibility.refusals(replace(settings, execution=mode))]
    if isinstance(engine.draws.of("train"), Placed) and engine.draws.others_in_xla:
        possible = [mode for mode in possible if not mode.startswith("xla")]  # there draws are not placed
    return possible
