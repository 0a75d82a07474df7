"""The ways to run a step, and trainers made for each of them."""

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
# What writes or watches is left out, and another word for execution=.
_ASKED = Remaking("check_step", "batch", left_out=("run_dir", "callbacks", "loggers", "jit_compile"))


@dataclass(frozen=True)
class Way:
    """One way to run a step; the default is the reference, one device with the whole batch.

    Attributes:
        replicas: Over how many replicas the batch is split.
        micro_batches: In how many pieces gradients are computed.
        mode: One of `MODES`.
    """

    replicas: int = 1
    micro_batches: int = 1
    mode: str = "graph"

    def __str__(self) -> str:
        """Returns it in words."""
        if self.replicas > 1:
            return f"{self.replicas} replicas"
        if self.micro_batches > 1:
            return f"{self.micro_batches} micro-batches"
        return {"eager": "eager", "graph": "graph", "xla_step": "XLA"}[self.mode]

    @property
    def parts(self) -> int:
        """In how many pieces the batch is computed."""
        return self.replicas * self.micro_batches

    def options(self) -> dict[str, Any]:
        """Returns the keywords of a Trainer; the devices must be there already."""
        split = self.replicas > 1
        return {
            # All on the CPU, where several replicas are simulated: another device rounds otherwise.
            "strategy": replication.simulated(self.replicas) if split else _one_cpu(),
            "micro_batches": self.micro_batches,
            "execution": "xla_step" if self.mode == "xla_step" else "graph",
            "run_eagerly": self.mode == "eager",
        }


def ways(replicas: Sequence[int], micro_batches: Sequence[int], modes: Sequence[str]) -> Iterator[Way]:
    """Gives what is compared with the reference: it differs from it in one thing at a time.

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
    """Returns what makes a trainer for a way, all with the same seed; none of them is `given`.

    Args:
        given: As of `check_step`.
        held: What is to be frozen, in the place of the trainer's callbacks; None leaves those as they are.
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
    """Returns the policies of bad steps as they are without a run directory; the step is the same."""
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
            f"check_step: make_trainer returned {trainer!r}, which is no looplab.Trainer."
        )
    engine = parts_of(trainer).engine
    mode = "eager" if engine.run_eagerly else engine.modes.mode
    got = Way(trainer.num_replicas, engine.modes.micro_batches, mode)
    if got != way:
        raise ConfigurationError(
            f"check_step: make_trainer was asked for {way}, and made a trainer for {got}. Hand its keywords "
            "on: check_step(lambda **options: Mine(..., **options), batch)."
        )


def _claim_devices(count: int) -> None:
    try:
        replication.simulated(count)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"check_step: {error} In a test suite that is the top of conftest.py; or compare on fewer: "
            "replicas=(1,)."
        ) from None


def _one_cpu() -> tf.distribute.Strategy:
    return tf.distribute.OneDeviceStrategy("/CPU:0")
