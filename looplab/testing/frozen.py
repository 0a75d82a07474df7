"""Finds out what changes frozen variables, by removing possible causes one by one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras

from looplab.compat import patches
from looplab.errors import ConfigurationError
from looplab.testing.probe import Arrays, Probe, layers_of
from looplab.testing.step_variants import Way
from looplab.trainer import Trainer


class Movers(NamedTuple):
    """The paths of frozen variables that changed, by what changed them.

    Attributes:
        optimizer: Variables that do not change if the optimizers do nothing.
        layer: Variables that the call of a frozen layer changes.
        step: Variables that the rest of the step changes, which assigns them itself (a target network).
    """

    optimizer: list[str]
    layer: list[str]
    step: list[str]

    @property
    def wrong(self) -> list[str]:
        """The paths that should not have changed."""
        return [*self.optimizer, *self.layer]

    def text(self) -> str:
        """Describes the findings and the remedy."""
        said = []
        if self.optimizer:
            said.append(
                f"{_listed(self.optimizer)} is frozen, but an optimizer changes it. Either the step passes "
                "frozen weights to the optimizer (variables= of minimize, or the arguments of "
                "apply_gradients): take model.trainable_variables inside the step, not before. Or the "
                "optimizer changes weights that it was not given (by its own decay or average): let "
                "it change only those of apply."
            )
        if self.layer:
            said.append(
                f"{_listed(self.layer)} belongs to a frozen layer, but its call changes it. Let the layer "
                "test self.trainable, as BatchNormalization does: `if training and self.trainable: ...`."
            )
        return " ".join(said)


def movers(
    make: Callable[[Way], Trainer], way: Way, batches: Sequence[Any], start: Arrays, moved: Collection[str]
) -> Movers:
    """Finds out what changed frozen variables.

    Args:
        make: Creates a trainer for a way.
        way: The way in which they changed.
        batches: See `Probe`.
        start: The state before the change.
        moved: The paths of the changed variables.

    Raises:
        ConfigurationError: If patches are off, which the search needs.
    """
    if not patches.are_on():
        changed = _listed(sorted(moved))
        raise ConfigurationError(
            f"check_step: {changed} is frozen, but it changed; finding the cause {patches.NEEDED}"
        )
    without = Probe(make(way), batches)
    _disarm(without.trainer)
    still = without.run(start).moved
    try:
        called = _in_calls(Probe(make(Way(mode="eager")), batches), start)
    except Exception:  # the step cannot run in Python: assume that the step intends it
        called = set()
    by_step = [path for path in sorted(moved) if path in still and path not in called]
    return Movers(
        [path for path in sorted(moved) if path not in still],
        [path for path in sorted(moved) if path in still and path in called],
        by_step,
    )


def _disarm(trainer: Trainer) -> None:
    for optimizer in trainer.optimizers.values():
        patches.patch("keras.optimizers.Optimizer.apply", optimizer, lambda *arguments, **keywords: None)


def _in_calls(probe: Probe, start: Arrays) -> set[str]:
    """Returns the paths of variables that change within the calls of their own layers."""
    paths = {id(variable): path for path, variable in probe.engine.variables.items()}
    found: set[str] = set()
    for layer in layers_of(probe.trainer, keras.Layer).values():
        own = {paths[id(v)]: v for v in _own(layer) if paths.get(id(v)) in probe.frozen}
        if own:
            patches.patch("keras.Layer.call", layer, _watched(layer.call, own, found))
    _disarm(probe.trainer)
    probe.run(start)
    return found


def _own(layer: Any) -> Iterator[Any]:
    yield from layer._trainable_variables
    yield from layer._non_trainable_variables


def _watched(call: Callable[..., Any], own: Mapping[str, Any], found: set[str]) -> Callable[..., Any]:
    @contextmanager
    def watching() -> Iterator[None]:
        before = {path: variable.numpy().tobytes() for path, variable in own.items()}
        yield
        found.update(path for path, variable in own.items() if variable.numpy().tobytes() != before[path])

    def watched(*arguments: Any, **keywords: Any) -> Any:
        with watching():
            return call(*arguments, **keywords)

    return watched


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
