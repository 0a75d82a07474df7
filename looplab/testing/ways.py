"""The ways to run a step, and trainers made for each of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from looplab import strategy as replication
from looplab.errors import ConfigurationError, nearest
from looplab.schedule import FollowStep
from looplab.trainer import Trainer

MODES = ("eager", "graph", "xla_step")
# Of a trainer that is made again: what writes or watches, and another word for execution=.
_LEFT_OUT = ("run_dir", "callbacks", "loggers", "jit_compile")


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


def maker(given: Trainer | Callable[..., Trainer]) -> Callable[[Way], Trainer]:
    """Returns what makes a trainer for a way, all with the same seed; none of them is `given`."""
    make, seed = (_remaker(given), given.seed) if isinstance(given, Trainer) else (given, 0)
    name = f"{type(given).__name__}(...)" if isinstance(given, Trainer) else "make_trainer"

    def made_for(way: Way) -> Trainer:
        options = {**way.options(), "seed": seed}
        _check_takes(make, options, name)
        trainer = make(**options)
        _check_made(trainer, way)
        return trainer

    return made_for


def _check_takes(make: Callable[..., Trainer], options: Mapping[str, Any], name: str) -> None:
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise ConfigurationError(
            f"check_step: {name} cannot be called with {', '.join(f'{key}=' for key in options)} ({error}). "
            "Give a function that hands them on: check_step(lambda **options: Mine(..., **options), batch)."
        ) from None


def _check_made(trainer: Any, way: Way) -> None:
    if not isinstance(trainer, Trainer):
        raise ConfigurationError(
            f"check_step: make_trainer returned {trainer!r}, which is no looplab.Trainer."
        )
    engine = trainer._engine
    mode = "eager" if engine.run_eagerly else engine.mode
    got = Way(trainer.num_replicas, engine.micro_batches, mode)
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


def _remaker(trainer: Trainer) -> Callable[..., Trainer]:
    """Returns what makes a trainer again with other options, from copies of what it was made of."""
    again = trainer._made_by
    kept = {key: value for key, value in again.keywords.items() if key not in _LEFT_OUT}

    def remake(**options: Any) -> Trainer:
        arguments, given = _fresh(again.args), _fresh({**kept, **options})
        try:
            inspect.signature(again.func).bind(*arguments, **given)
        except TypeError as error:
            raise ConfigurationError(
                f"check_step: {type(trainer).__name__} cannot be made again with {', '.join(options)} "
                f"({error}). Let its __init__ take **options and hand them on, or give a function: "
                f"check_step(lambda **options: {type(trainer).__name__}(...), batch)."
            ) from None
        made: Trainer = again.func(*arguments, **given)
        return made

    return remake


def _fresh(value: Any) -> Any:
    """Returns an argument of a Trainer such that nothing is shared with the first one."""
    match value:
        case keras.Model():
            return lambda: _cloned(value)
        case keras.optimizers.Optimizer():
            return lambda: _copied(value)
        case keras.Metric():
            return type(value).from_config(value.get_config())
        case dict():
            return {key: _fresh(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(map(_fresh, value))
    return value


def _cloned(model: keras.Model) -> keras.Model:
    try:
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
    except (ValueError, TypeError, NotImplementedError):
        kind = type(model).__name__
        raise ConfigurationError(
            f"check_step: the trainer was given a model object, and Keras cannot clone {kind}. Give the "
            f"trainer a function instead, Trainer(lambda: {kind}(...)), or check_step a function that makes "
            "the trainer."
        ) from None
    return clone


def _copied(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    config, rate = optimizer.get_config(), optimizer._learning_rate
    if isinstance(rate, FollowStep):  # the first trainer is prepared already
        config["learning_rate"] = rate.base
    return type(optimizer).from_config(config)
