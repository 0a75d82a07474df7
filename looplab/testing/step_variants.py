"""The ways to run a step, and the creation of trainers for each way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from looplab import strategy as replication
from looplab.callbacks import Freeze
from looplab.errors import ConfigurationError, nearest
from looplab.testing.remaking import Remaking
from looplab.trainer import Trainer
from looplab.training.trainer_parts import parts_of

MODES = ("eager", "graph", "xla_step")
# Without arguments that write or watch, and without a synonym of execution=.
_ASKED = Remaking("check_step", "batch", left_out=("run_dir", "callbacks", "loggers", "jit_compile"))


@dataclass(frozen=True)
class Way:
    """One way to run a step; the default is the reference, one device with the whole batch.

    Attributes:
        replicas: The number of replicas over which the batch is split.
        micro_batches: The number of slices in which gradients are computed.
        mode: One of `MODES`.
    """

    replicas: int = 1
    micro_batches: int = 1
    mode: str = "graph"

    def __str__(self) -> str:
        """Returns the name of the way."""
        if self.replicas > 1:
            return f"{self.replicas} replicas"
        if self.micro_batches > 1:
            return f"{self.micro_batches} micro-batches"
        return {"eager": "eager", "graph": "graph", "xla_step": "XLA"}[self.mode]

    @property
    def parts(self) -> int:
        """The number of slices in which the batch is computed."""
        return self.replicas * self.micro_batches

    def options(self) -> dict[str, Any]:
        """Returns the keywords of a Trainer; the devices must exist already."""
        split = self.replicas > 1
        return {
            # All on the CPU, on which several replicas are simulated: another device rounds differently.
            "strategy": replication.simulated(self.replicas) if split else _one_cpu(),
            "micro_batches": self.micro_batches,
            "execution": "xla_step" if self.mode == "xla_step" else "graph",
            "run_eagerly": self.mode == "eager",
        }


def ways(replicas: Sequence[int], micro_batches: Sequence[int], modes: Sequence[str]) -> Iterator[Way]:
    """Yields the ways to compare with the reference, each of which differs from it in one property.

    Raises:
        ConfigurationError: If there is no such way, or too few devices.
    """
    for name, counts in (("replicas", replicas), ("micro_batches", micro_batches)):
        if any(not isinstance(count, int) or count < 1 for count in counts):
            raise ConfigurationError(f"check_step: {name} must be numbers from 1, got {counts!r}.")
    for mode in modes:
        if mode not in MODES:
            known = ", ".join(MODES)
            raise ConfigurationError(
                f"check_step: there is no mode {mode!r}; {known}." + nearest(mode, MODES)
            )
    if max(replicas, default=1) > 1:
        _claim_devices(max(replicas))
    yield from (Way(mode=mode) for mode in MODES if mode in modes and mode != "graph")
    yield from (Way(replicas=count) for count in sorted(set(replicas)) if count > 1)
    yield from (Way(micro_batches=count) for count in sorted(set(micro_batches)) if count > 1)


def maker(
    given: Trainer | Callable[..., Trainer], held: Sequence[Freeze] | None = None
) -> Callable[[Way], Trainer]:
    """Returns a function that creates a trainer for a way, always with the same seed; never `given` itself.

    Args:
        given: See `check_step`.
        held: The callbacks that freeze, in place of the trainer's callbacks; None keeps those.
    """
    make, seed = (
        (_ASKED.again(given, _without_going_back(given)), given.seed)
        if isinstance(given, Trainer)
        else (given, 0)
    )

    def made_for(way: Way) -> Trainer:
        options = {**way.options(), "seed": seed}
        _ASKED.check_takes(make, options, given)
        trainer = make(**options)
        _check_made(trainer, way)
        if held is not None:
            parts_of(trainer).preparation.callbacks = list(held)
        return trainer

    return made_for


def _without_going_back(trainer: Trainer) -> dict[str, Any]:
    """Returns replacements for policies that need a run directory; the step is the same."""
    changed: dict[str, Any] = {}
    given = parts_of(trainer).made_by.keywords
    if given.get("on_nonfinite") == "rollback":
        changed["on_nonfinite"] = "skip"
    if given.get("spikes") is not None and given["spikes"].policy == "rollback":
        changed["spikes"] = replace(given["spikes"], policy="skip")
    return changed


def _check_made(trainer: Any, way: Way) -> None:
    if not isinstance(trainer, Trainer):
        raise ConfigurationError(
            f"check_step: make_trainer returned {trainer!r}, which is not a looplab.Trainer."
        )
    engine = parts_of(trainer).engine
    mode = "eager" if engine.run_eagerly else engine.modes.mode
    got = Way(trainer.num_replicas, engine.modes.micro_batches, mode)
    if got != way:
        raise ConfigurationError(
            f"check_step: make_trainer was called for {way}, but returned a trainer for {got}. Pass its "
            "keywords on: check_step(lambda **options: Mine(..., **options), batch)."
        )


def _claim_devices(count: int) -> None:
    try:
        replication.simulated(count)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"check_step: {error} In a test suite, call it at the top of conftest.py; or compare with fewer: "
            "replicas=(1,)."
        ) from None


def _one_cpu() -> tf.distribute.Strategy:
    return tf.distribute.OneDeviceStrategy("/CPU:0")
