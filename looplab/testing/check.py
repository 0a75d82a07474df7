"""A check for a project's own tests: a step makes the same update in every way to run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from looplab.callbacks import Freeze
from looplab.data.class_weight import read as read_class_weight
from looplab.data.class_weight import weigh, weighted_spec
from looplab.errors import ConfigurationError
from looplab.execution.random_operations import Draw
from looplab.strategy import tree
from looplab.testing.phase_check import PhaseCheck, Wrong
from looplab.testing.phases import phases
from looplab.testing.probe import rows_of, size_of
from looplab.testing.report import Report, Row, StepDiffers
from looplab.testing.step_variants import MODES, Way, maker, ways
from looplab.trainer import Trainer
from looplab.training.trainer_parts import parts_of


def check_step(
    trainer: Trainer | Callable[..., Trainer],
    batch: Any = None,
    *,
    replicas: Sequence[int] = (1, 2, 3),
    micro_batches: Sequence[int] = (1, 2, 3),
    modes: Sequence[str] = MODES,
    rtol: float | None = None,
    random: bool = False,
    class_weight: Mapping[int, float] | None = None,
) -> Report:
    """Asserts that a trainer's step gives the same update in every way to run it; on the host.

    The reference is one device with the whole batch in a graph. Eager and XLA steps, several replicas
    (simulated on the CPU) and micro-batches are compared with it, one at a time, each on a separate trainer
    that starts from the same state. Two steps are made: on the batch, and on the batch without its last
    example, so that one of them does not split evenly. The check compares models, optimizers, the trainer's
    own variables, metrics, and the values that the step returns. It sets the seeds of the process's
    generators again.

    It is the step that `fit` trains: with the first weights of `initialize_from`, and with frozen layers.
    Layers and weights that are not trainable must keep every bit, with their slots and averages, unless the
    step itself assigns them (a target network). If callbacks freeze layers (`looplab.callbacks.Freeze`),
    everything is compared at the first step, and once more after each thaw. Other callbacks are not called,
    as the report states.

    A trainer that is not `separable` is not run in micro-batches. If nothing is computed in slices
    (`replicas=(1,)`, `micro_batches=(1,)`), its gradients are compared with those of two halves of the batch,
    so that a loss that depends on the whole batch is found anyway.

    Several replicas need as many logical CPU devices, which TensorFlow fixes at its first use: call
    `looplab.strategy.simulated(3)` at the top of conftest.py.

    Args:
        trainer: A trainer, which does not change and is created again from its constructor's arguments; or a
            function that returns one, `lambda **options: Mine(..., **options)`, called with `strategy=`,
            `micro_batches=`, `execution=`, `run_eagerly=` and `seed=`.
        batch: One global batch, in the form for `train_step`; None for a trainer with `make_batch`.
        replicas: The numbers of replicas; `(1,)` skips several replicas.
        micro_batches: The numbers of micro-batches; `(1,)` skips several micro-batches.
        modes: The modes to compare, from `"eager"`, `"graph"` and `"xla_step"`.
        rtol: The largest difference, relative to the change of a variable, that counts as equal; by default
            it depends on the precision, 1e-4 in float32. The effect of rounding on this step is added.
        random: Whether the step may draw random numbers that do not follow the rows of the batch. Then it is
            run in all ways, but not compared in ways that draw other numbers, as the report states. Draws
            that follow the rows, such as those of Dropout, are always compared.
        class_weight: As in `fit`; the batch is then `(inputs, targets)`.

    Returns:
        The comparisons, with the largest differences; prints as a table.

    Raises:
        StepDiffers: An AssertionError that names the first variable that differs, the difference, and the
            cause.
        ConfigurationError: If the trainer cannot be created for every way, or the batch is too small.
        LossError: If the step's loss is not finite even on one device.
    """
    chosen = list(ways(replicas, micro_batches, modes))
    batches = _batches(batch, max((way.parts for way in chosen), default=1), class_weight)
    given = trainer if isinstance(trainer, Trainer) else maker(trainer)(Way())
    rows: list[Row] = []
    wrong: list[Wrong] = []
    drawn: list[Draw] = []
    notes = list(_notes(given))
    for phase in phases(parts_of(given).preparation.callbacks):
        check = PhaseCheck(maker(trainer, phase.held), phase.name, batches, rtol, random=random)
        rtol = check.rtol
        check.run(chosen)
        rows, wrong = rows + check.rows, wrong + check.wrong
        drawn, notes = drawn + list(check.draws), notes + check.notes
    if not any(row.verdict == "random" for row in rows):
        drawn = []
    assert rtol is not None  # there is a phase
    report = Report(rows, rtol, list(dict.fromkeys(map(str, drawn))), notes)
    if wrong:
        _refuse(wrong[0], report)
    return report


def _refuse(wrong: Wrong, report: Report) -> NoReturn:
    lines, differing, cause = [wrong.text], wrong.differing, wrong.why()
    if differing:
        lines.append(f"The first that differs, after step {differing[0].step}:")
        lines += [f"    {each.path}: by {each.size:.2g} of its largest change" for each in differing[:3]]
        more = len(differing) - 3
        lines += [f"    and {more} more"] if more > 0 else []
    lines.append(f"Cause ({cause.name}): {cause.text}")
    raise StepDiffers("\n".join(lines), cause.name, report)


def _notes(given: Trainer) -> Iterator[str]:
    """Lists how the compared steps differ from those of `fit`."""
    parts = parts_of(given)
    others = [type(each).__name__ for each in parts.preparation.callbacks if not isinstance(each, Freeze)]
    if others:
        yield f"callbacks are not called: {', '.join(dict.fromkeys(others))}"
    if parts.engine.modes.mode == "xla_loop":
        yield "execution='xla_loop' is not run; its step, compiled by XLA, is that of 'xla_step'"


def _batches(batch: Any, parts: int, class_weight: Mapping[int, float] | None) -> list[Any]:
    """Returns the batches of the steps; none for a trainer that makes its own."""
    if batch is None:
        return []
    arrays = tree.map_structure(np.asarray, batch)
    size = size_of(arrays)
    if size < 2 * parts:
        raise ConfigurationError(
            f"check_step: the batch has {size} examples, but {parts} slices need at least {2 * parts}. Give "
            "a larger batch, or smaller replicas= and micro_batches=."
        )
    if class_weight is not None:
        by_class = read_class_weight(class_weight)
        tensors = tree.map_structure(tf.convert_to_tensor, arrays)
        weighted_spec(tree.map_structure(tf.type_spec_from_value, tensors), by_class)
        arrays = tree.map_structure(np.asarray, weigh(tensors, by_class))
    return [arrays, rows_of(arrays, 0, size - 1)]
