"""The properties that every trainer must have, checked on one small case: for tests here and elsewhere.

A case is run once, step by step, on one device or several; each property runs it in another way and checks
what must be equal. A property raises an `AssertionError` that names the first difference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from looplab.callbacks import Callback, EpochEvent, EvaluateEvent, SaveEvent, StepEvent
from looplab.checkpoint import Policy, Store, read, read_manifest, state
from looplab.loggers import read_records
from looplab.protocols import Controls
from looplab.trainer import Trainer
from looplab.training.trainer_parts import parts_of

_ROUNDING = 2e-5  # of float32, in weights after some steps
_POLICY = Policy(every="5st", keep_last=3)

Events = list[tuple[str, int, Any]]


@dataclass
class Case:
    """How to create a trainer, and its data.

    Attributes:
        make: Creates the trainer, from its options by name.
        fit: Arguments of `fit`; or a function that returns them, for data that counts its passes.
        random: Whether a step draws random numbers, which are others in 16 bits.
        xla: Whether its gradients compile on several replicas.
        xla_ops: Whether the step's own operations compile at all.
        whole: Whether micro-batches would change the step (BatchNormalization, losses that depend on the
            whole batch, updates with its own tape).
    """

    make: Callable[..., Trainer]
    fit: dict[str, Any] | Callable[[], dict[str, Any]] = field(default_factory=dict)
    random: bool = False
    xla: bool = True
    xla_ops: bool = True
    whole: bool = False

    def data(self) -> dict[str, Any]:
        """Returns the arguments of `fit`, as in a new process."""
        return self.fit() if callable(self.fit) else self.fit


class EventLog(Callback):
    """Records every event with its values.

    Attributes:
        events: `(kind, step, values)`; for a checkpoint the name of its folder instead of values.
    """

    def __init__(self, every: str = "3st", stop_at: int | None = None) -> None:
        """Receives steps at the interval `every`, and stops at a step, if one is given."""
        self.every, self._stop_at = every, stop_at
        self.events: Events = []
        self.epochs: list[Any] = []  # a state, which the checkpoint must contain

    def on_step(self, event: StepEvent, controls: Controls) -> None:
        """Records the step, and stops at the given one."""
        self.events.append(("step", event.step, dict(event.values)))
        if self._stop_at is not None and event.step >= self._stop_at:
            controls.stop("asked to")

    def on_evaluate(self, event: EvaluateEvent, controls: Controls) -> None:
        """Records the evaluation."""
        self.events.append(("evaluate", event.step, dict(event.values)))

    def on_epoch_end(self, event: EpochEvent, controls: Controls) -> None:
        """Records the epoch, also as a state of the callback."""
        self.events.append(("epoch", event.step, dict(event.values)))
        self.epochs.append([event.step, sorted(event.values.items())])

    def on_save(self, event: SaveEvent, controls: Controls) -> None:
        """Records the checkpoint."""
        self.events.append(("save", event.step, event.path.name))

    def state(self) -> dict[str, Any]:
        """Returns the epochs so far."""
        return {"epochs": self.epochs}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the epochs so far."""
        self.epochs = state["epochs"]


@dataclass(frozen=True)
class Ran:
    """The results of a case.

    Attributes:
        trainer: The trained trainer.
        events: The events that its callback received.
        state: All variables, by path.
        left: The other contents of the run directory: the log, and the values of the last checkpoint; None
            without one.
    """

    trainer: Trainer
    events: Events
    state: Mapping[str, np.ndarray]
    left: Any = None

    @property
    def moments(self) -> list[tuple[str, int]]:
        """Kind and step of each event, except the events that only a run directory has."""
        return [(kind, step) for kind, step, _ in self.events if kind != "save"]


def run_case(
    case: Case,
    strategy: tf.distribute.Strategy | str,
    run_dir: Path | None = None,
    log: EventLog | None = None,
    **options: Any,
) -> Ran:
    """Fits a case, on the host.

    Args:
        case: The case.
        strategy: The strategy to train under.
        run_dir: The directory to record it in, with a checkpoint every five steps and every other step
            logged; or None.
        log: The callback that records the events; None for a new one.
        **options: Further options of the trainer.
    """
    log = log or EventLog()
    if run_dir is not None:
        options = {"checkpoint": _POLICY, "log_every": "2st", **options}
    trainer = case.make(strategy=strategy, callbacks=[log], run_dir=run_dir, seed=5, **options)
    trainer.fit(**case.data(), verbose=0)
    variables = state.read(parts_of(trainer).engine.variables)
    return Ran(trainer, log.events, variables, None if run_dir is None else _left(run_dir))


def run_step_by_step(case: Case, strategy: tf.distribute.Strategy | str, run_dir: Path) -> Ran:
    """Runs the case with one step in each execution, as the reference of each property."""
    return run_case(case, strategy, run_dir, steps_per_execution=1)


def loop_length_changes_nothing(unbroken: Ran, again: Ran) -> None:
    """Checks that events, values, state and files are equal for another length of executions."""
    assert again.events == unbroken.events
    assert again.left == unbroken.left
    same(again.state, unbroken.state)
    for ran in (unbroken, again):
        step, loop = parts_of(ran.trainer).engine.loops.of("train").traces()
        assert (step, loop) == (1, 1), "the step or its loop was traced more than once"


def a_stopped_run_is_the_unbroken_one(
    case: Case, strategy: tf.distribute.Strategy | str, unbroken: Ran, run_dir: Path, stop_at: int = 7
) -> None:
    """Stops a case after a step, starts it again, and compares the end with the unbroken run."""
    for stop in (stop_at, None):
        resumed = run_case(case, strategy, run_dir, EventLog(every="1st", stop_at=stop))
    assert resumed.left == unbroken.left
    same(resumed.state, unbroken.state)


def replicas_make_the_same_updates(one: Ran, several: Ran, tolerance: float = _ROUNDING) -> None:
    """Compares several replicas or micro-batches with one device with the whole batch."""
    close(several.state, one.state, tolerance)
    assert several.moments == one.moments


def events_have_the_same_values(one: Ran, other: Ran) -> None:
    """Checks that every event of two runs has the same values, except for rounding."""
    assert [event[:2] for event in one.events] == [event[:2] for event in other.events]
    for (kind, step, values), (_, _, others) in zip(one.events, other.events, strict=True):
        if kind != "save":
            assert values.keys() == others.keys(), (kind, step)
            for name in values:
                np.testing.assert_allclose(
                    others[name], values[name], rtol=1e-3, atol=1e-5, err_msg=f"{kind} {step}: {name}"
                )


def modes_agree(compiled: Ran, other: Ran, tolerance: float = 2e-3) -> None:
    """Compares steps in another execution mode with those in the graph, including random numbers."""
    assert other.moments == compiled.moments
    same(other.state, compiled.state, tolerance)


def same(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray], tolerance: float = 0.0) -> None:
    """Compares two states, bit by bit or within a tolerance."""
    assert left.keys() == right.keys()
    for path, value in left.items():
        if tolerance:
            np.testing.assert_allclose(value, right[path], rtol=tolerance, atol=tolerance, err_msg=path)
        else:
            np.testing.assert_array_equal(value, right[path], err_msg=path)


def close(
    split: Mapping[str, np.ndarray], whole: Mapping[str, np.ndarray], tolerance: float = _ROUNDING
) -> None:
    """Compares the state after a split step with that after the whole step, except for rounding."""
    split = {path.removesuffix("@replicas"): value for path, value in split.items()}
    for path, value in whole.items():
        if path.startswith(("models/", "optimizers/", "trainer/")) and "seed_generator" not in path:
            np.testing.assert_allclose(split[path], value, rtol=2e-4, atol=tolerance, err_msg=path)


def _left(run_dir: Path) -> Any:
    """Returns the log, and the values of the last checkpoint.

    The state of a stream's pipeline is left out, because it depends on the clock: it is from this save or an
    earlier one. Its effects are in all other values.
    """
    store = Store(run_dir / "checkpoints")
    folder = store.path(store.steps()[-1])
    values = {name: own for name, own in read_manifest(folder)["values"].items() if name != "snapshot"}
    among = {
        path: array.tolist()
        for path, array in read(folder).items()
        if path.startswith("values/") and not path.startswith("values/snapshot/")
    }
    log = [
        (record.step, record.epoch, record.split, dict(record.values))
        for record in read_records(run_dir / "metrics.jsonl")
    ]
    return {"log": log, "checkpoint": json.loads(json.dumps(values)), "among": among}
