"""Repeats a step that was not finite from its record, and finds the first operation that was not finite.

A run keeps such a step in `bad_steps/step-NNNNNNNN` of its directory: the state before it, its batch, and its
values. Nothing else is needed, so it is the same step in any process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from looplab import checkpoint
from looplab.callbacks import numerics
from looplab.checkpoint import state
from looplab.checkpoint.manifest import OF_STEP
from looplab.checkpoint.safe_open import damaged
from looplab.data import GeneratedFeed
from looplab.errors import CheckpointError, ConfigurationError
from looplab.execution.retraces import named
from looplab.runs.shapes import count, fields, items, logged, number, optional, table, whole
from looplab.runs.terminal import printable
from looplab.strategy import tree
from looplab.training.checkpoint_folder import BAD_STEPS
from looplab.training.fit_plan import FitPlan

_FACTS = fields(  # of a bad step's manifest
    {"step": count, "values": table(logged)},
    {"limit": optional(number), "examples": optional(items(whole))},
)
_ROUNDING = 1e-3  # of a loss that is computed in another mode


@dataclass(frozen=True)
class Reproduced:
    """The result of repeating a bad step.

    Attributes:
        step: Its number, from 1.
        before: Its recorded values.
        values: Its values now.
        examples: The indices of its batch's examples in the data; None if they are not known.
        operation: The first operation with a result that is not finite, with its lines of code, or the parts
            of the batch that are not finite themselves; None if there was none.
        limit: The limit that its loss exceeded, if it spiked; otherwise None.
    """

    step: int
    before: Mapping[str, float]
    values: Mapping[str, float]
    examples: list[int] | None
    operation: str | None
    limit: float | None = None

    @property
    def is_same(self) -> bool:
        """Whether the same values were not finite, in the same way; for a spike, whether all values agree."""
        bad = [
            {n: str(v) for n, v in own.items() if not np.isfinite(v)} for own in (self.before, self.values)
        ]
        if self.limit is not None:
            pairs = [(self.before[name], self.values.get(name)) for name in self.before]
            return all(now is not None and math.isclose(then, now, rel_tol=_ROUNDING) for then, now in pairs)
        return bad[0] == bad[1] and (bool(bad[0]) or self.operation is not None)


def find(run_dir: Path, step: int | None) -> Path:
    """Returns the folder of a bad step of a run.

    Args:
        run_dir: The run directory.
        step: The number of the step, from 1; None for the last.

    Raises:
        ConfigurationError: If there is no such step.
    """
    there = sorted(path for path in (run_dir / BAD_STEPS).glob("step-*") if OF_STEP.fullmatch(path.name))
    wanted = [path for path in there if step is None or path.name == f"step-{step:08d}"]
    if not wanted:
        names = ", ".join(str(int(path.name.removeprefix("step-"))) for path in there) or "none"
        which = "" if step is None else f" {step}"
        raise ConfigurationError(f"step: {run_dir} has kept no bad step{which}; there are: {names}.")
    return wanted[-1]


def reproduce(plan: FitPlan, folder: Path) -> Reproduced:
    """Repeats a bad step, and restores all variables.

    Args:
        plan: A fit of the trainer that had the step; the fit has not begun.
        folder: From `find`.

    Raises:
        CheckpointError: If the record is damaged, or does not fit the trainer.
    """
    arrays, facts = checkpoint.read(folder), checkpoint.read_manifest(folder)
    try:
        _FACTS(facts, "")
    except ValueError as error:
        raise damaged(folder, f"its manifest is damaged: {printable(str(error), 300)}.") from None
    engine, spec = plan.engine, plan.feed.element_spec
    own = {path: array for path, array in arrays.items() if not path.startswith("batch/")}
    parts = [arrays.get(f"batch/{i}") for i in range(len(tree.flatten(spec)))]
    if any(part is None for part in parts):
        raise CheckpointError(
            f"{folder} holds a batch of another form than this data: {len(parts)} parts are needed."
        )
    batch = tree.pack_sequence_as(spec, [tf.constant(part) for part in parts])
    before = state.read(engine.variables)

    def run() -> dict[str, float]:
        state.assign(engine.variables, state.regrouped(engine.variables, own), str(folder))
        feed = GeneratedFeed(lambda _: batch, 1, spec)
        steps = engine.loops.of("train").run(feed, 1)
        return steps.failed or {name: float(series[0]) for name, series in steps.values.items()}

    try:
        values, operation = run(), None
        with numerics.checked():
            engine.loops.rebuild()
            try:
                run()
            except tf.errors.InvalidArgumentError as error:
                operation = numerics.operation(error)
    finally:
        engine.loops.rebuild()
        state.assign(engine.variables, before, "the state before the step was repeated")
    operation = _of_batch(batch, facts.get("examples")) or operation
    then = {name: float(value) for name, value in facts["values"].items()}
    return Reproduced(facts["step"], then, values, facts.get("examples"), operation, facts.get("limit"))


def _of_batch(batch: Any, examples: list[int] | None) -> str | None:
    """Returns which parts of a batch are not finite; None if all of them are."""
    said = []
    for name, part in named(batch):
        array = None if tree.is_absent(part) or part.dtype == tf.string else np.asarray(part)
        kind = "" if array is None else array.dtype.name
        if array is None or not any(word in kind for word in ("float", "complex")):
            continue
        bad = ~np.isfinite(array.astype(np.complex128 if "complex" in kind else np.float64))
        if bad.any():
            row = int(bad.reshape(len(bad), -1).any(axis=1).argmax())
            at = f"row {row} of the batch" if examples is None else f"example {examples[row]}"
            values = "1 value" if bad.sum() == 1 else f"{bad.sum()} values"
            said.append(f"{name}: {values} not finite, first in {at}")
    return f"the batch itself ({'; '.join(said)})" if said else None


def lines(found: Reproduced) -> list[tuple[str, Any]]:
    """Returns the result as lines of `(label, text)`."""
    shown = lambda values: "  ".join(f"{name} {value:.6g}" for name, value in values.items())  # noqa: E731
    examples = "not known" if found.examples is None else ", ".join(map(str, found.examples))
    return [
        ("step", str(found.step)),
        ("examples", f"{examples} (by index in the data, from 0)" if found.examples else examples),
        ("then", shown(found.before) + ("" if found.limit is None else f" (above {found.limit:.6g})")),
        ("now", shown(found.values)),
        ("first", found.operation or "every result of an operation is finite"),
        (
            "verdict",
            "reproduced" if found.is_same else "NOT reproduced: the values differ now",
        ),
    ]
