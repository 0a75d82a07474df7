"""Runs of one trainer on the same data, each as in a separate process, and their differences."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from looplab.callbacks import CallbackList
from looplab.testing.fresh import fresh
from looplab.testing.remaking import Remaking
from looplab.testing.report import Break
from looplab.testing.snapshots import Snapshots, Unequal, checkpoints_apart, logs_apart
from looplab.trainer import Trainer
from looplab.training.audit import Finding, object_fields
from looplab.training.trainer_parts import parts_of

_WIDTH, _BEFORE = 40, 15  # characters of a value in a message, and of these before the first difference
_CALL = "check_resume(trainer, "
ASKED = Remaking("check_resume", "data", left_out=("run_dir", "resume", "loggers"))
_REMEDIES = {
    "attribute": "No checkpoint holds fields of the trainer: create a tf.Variable(..., trainable=False) in "
    "setup, or derive it from the step.",
    "callback": "Return it in state() and restore it in restore(state).",
}


@dataclass(frozen=True)
class Ran:
    """A run that has ended, and its objects in memory.

    Attributes:
        trainer: The trainer.
        run_dir: The run directory.
        snapshots: The copies of the run directory at the breaks.
        callbacks: All callbacks of the run.
    """

    trainer: Trainer
    run_dir: Path
    snapshots: Snapshots
    callbacks: CallbackList


@dataclass
class Runs:
    """The settings that all runs share.

    Attributes:
        make: Creates a trainer, given `run_dir=`.
        data: The data to train on, or a function that creates it.
        how: The other arguments of `fit`.
        folder: The folder in which everything is written.
    """

    make: Callable[..., Trainer]
    data: Any
    how: Mapping[str, Any]
    folder: Path
    _again: list[Ran] = field(default_factory=list)  # the unbroken run a second time, once it is needed

    def run(self, name: str, breaks: Sequence[int] | None) -> Ran:
        """Trains to the end, from the state in the directory of that name."""
        # As in a process that has seeded nothing yet; the trainer's constructor seeds these generators.
        tf.random.set_seed(None)
        np.random.seed(None)
        random.seed(None)
        how = {**self.how, "validation_data": fresh(self.how.get("validation_data"), _CALL)}
        data, run_dir = fresh(self.data, _CALL), self.folder / name
        trainer = self.make(run_dir=run_dir)
        snapshots = Snapshots(self.folder / f"{name}, broken", breaks)
        own = ASKED.fresh(list(how.pop("callbacks", ())))
        trainer.fit(data, **how, callbacks=[*own, snapshots], verbose=0)
        return Ran(
            trainer, run_dir, snapshots, CallbackList([*parts_of(trainer).preparation.callbacks, *own])
        )

    def resume(self, unbroken: Ran, step: int) -> tuple[list[Unequal], list[Finding], Break]:
        """Continues from a break, and returns the differences, their causes, and a summary of both."""
        where, name = _where(step, unbroken.snapshots.steps_per_epoch), f"resumed after {step}"
        shutil.copytree(unbroken.snapshots.of(step), self.folder / name)
        try:
            resumed = self.run(name, unbroken.snapshots.breaks)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            return [], [Finding("error", f"the run cannot go on: {said}")], Break(step, where, "failed", said)
        found = differences(unbroken, resumed)
        if not found:
            return [], [], Break(step, where, "same")
        first = f"after step {found[0].step}: {found[0].path}"
        return found, self._causes(unbroken, resumed), Break(step, where, "differs", first)

    def _causes(self, unbroken: Ran, resumed: Ran) -> list[Finding]:
        """Returns differences in memory and the audits' findings; without any, the result of a repetition."""
        causes = list(_remembered_otherwise(unbroken, resumed))
        seen, text = {cause.kind for cause in causes}, " ".join(cause.text for cause in causes)
        for finding in dict.fromkeys([*_findings(unbroken), *_findings(resumed)]):
            if finding.kind not in seen or any(f"{name} is " not in text for name in finding.fields):
                causes.append(finding)
        return causes or [self._of_repetition(unbroken, resumed)]

    def _of_repetition(self, unbroken: Ran, resumed: Ran) -> Finding:
        if not self._again:
            self._again.append(self.run("unbroken again", unbroken.snapshots.breaks))
        again = self._again[0]
        if not differences(unbroken, again):
            kept = "the unbroken run repeats itself bit for bit, so no checkpoint holds a state it needs"
            if found := _with_other_objects(unbroken, resumed, again):
                kind, fields = found
                return Finding(kind, f"{kept}, likely {' or '.join(fields)}. {_REMEDIES[kind]}")
            return Finding(
                "elsewhere",
                f"{kept}: of an object that the data refers to, a global variable, a file, the environment. "
                "Keep it in a variable created in setup, or derive it from the step and the seed.",
            )
        return Finding(
            "randomness",
            "the unbroken run does not repeat itself either: something draws random numbers that no seed "
            "determines (from the system, or a generator created without a seed), reads a clock, or "
            "continues to count in a global. Draw from numpy.random.default_rng([self.seed, step]).",
        )


def differences(unbroken: Ran, other: Ran) -> list[Unequal]:
    """Returns the differences at the first break, or at the end, that has any."""
    timed = [type(callback).__name__ for callback in unbroken.callbacks.timed()]
    for step in unbroken.snapshots.breaks:
        left, right = unbroken.snapshots.of(step), other.snapshots.of(step)
        if left.exists() and right.exists() and (found := checkpoints_apart(left, right, timed)):
            return found
    directories = unbroken.run_dir, other.run_dir
    if found := [*checkpoints_apart(*directories, timed), *logs_apart(*directories)]:
        return found
    step = int(other.trainer.step.numpy())
    pairs = zip(unbroken.callbacks.stateless(), other.callbacks.stateless(), strict=True)
    return [
        Unequal(step, name, text)
        for pair in pairs
        if _is_foreign(pair[0])
        for name, text in _apart(pair, hidden=False)
    ]


def _remembered_otherwise(unbroken: Ran, resumed: Ran) -> Iterator[Finding]:
    """Yields findings for fields of the trainer and of callbacks that differ at the end."""
    listeners = zip(unbroken.callbacks.everyone(), resumed.callbacks.everyone(), strict=True)
    own = [pair for pair in listeners if _is_foreign(pair[0])]
    for kind, pairs in (("attribute", [(unbroken.trainer, resumed.trainer)]), ("callback", own)):
        apart = [f"{name} is {text}" for pair in pairs for name, text in _apart(pair, hidden=True)]
        if apart:
            yield Finding(kind, f"{'; '.join(apart)}. {_REMEDIES[kind]}")


def _with_other_objects(unbroken: Ran, resumed: Ran, again: Ran) -> tuple[str, list[str]] | None:
    """Returns the fields that hold another state after a resume, and else always the same; with the cause.

    Fields of the trainer come before those of callbacks.
    """
    runs = unbroken, resumed, again
    listeners = zip(*(ran.callbacks.everyone() for ran in runs), strict=True)
    own = [each for each in listeners if _is_foreign(each[0])]
    trainers = [(unbroken.trainer, resumed.trainer, again.trainer)]
    for kind, owners in (("attribute", trainers), ("callback", own)):
        fields: list[str] = []
        for each in owners:
            states = [object_fields.digests(one, hidden=True) for one in each]
            moved = [set(object_fields.moved(states[0], other)) for other in states[1:]]
            fields += [f"{type(each[0]).__name__}.{name}" for name in sorted(moved[0] - moved[1])]
        if fields:
            return kind, fields
    return None


def _apart(pair: tuple[Any, Any], *, hidden: bool) -> Iterator[tuple[str, str]]:
    before, after = (object_fields.texts(one, hidden=hidden) for one in pair)
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            one, other = shortened(before.get(name, "missing"), after.get(name, "missing"))
            yield f"{type(pair[0]).__name__}.{name}", f"{other}, unbroken {one}"


def _is_foreign(callback: Any) -> bool:
    return type(callback).__module__.split(".")[0] != "looplab"


def shortened(one: str, other: str) -> tuple[str, str]:
    """Returns two different texts, or their parts from shortly before the first difference."""
    if max(len(one), len(other)) <= _WIDTH:
        return one, other
    pairs = enumerate(zip(one, other, strict=False))
    same = next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))
    first = max(0, same - _BEFORE) if same > _WIDTH - _BEFORE else 0

    def part(text: str) -> str:
        own = text[first : first + _WIDTH]
        return "..." * (first > 0) + own + "..." * (first + _WIDTH < len(text))

    return part(one), part(other)


def _where(step: int, steps_per_epoch: int) -> str:
    epoch, index = divmod(step, steps_per_epoch)
    return f"in epoch {epoch + 1}" if index else f"the end of epoch {epoch}"


def _findings(ran: Ran) -> list[Finding]:
    """Returns the findings of a run's audit."""
    return parts_of(ran.trainer).preparation.so_far.findings
