"""One line of a project's own tests: the step makes the same update however it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from looplab import tree
from looplab.audit import Draw, draws
from looplab.errors import ConfigurationError, LossError
from looplab.testing import causes
from looplab.testing.comparison import Difference, Reference, nudged, tolerance
from looplab.testing.probe import Probe, rows_of, size_of
from looplab.testing.report import Report, Row, StepDiffers
from looplab.testing.ways import MODES, Way, maker, ways
from looplab.trainer import Trainer

_NUDGES = 8


def check_step(
    trainer: Trainer | Callable[..., Trainer],
    batch: Any = None,
    *,
    replicas: Sequence[int] = (1, 2, 3),
    micro_batches: Sequence[int] = (1, 2, 3),
    modes: Sequence[str] = MODES,
    rtol: float | None = None,
    random: bool = False,
) -> Report:
    """Asserts that a trainer's step gives the same update in every way to run it; on the host.

    The reference is one device with the whole batch in a graph. Eager and XLA steps, several replicas
    (simulated on the CPU) and micro-batches are compared with it, one at a time, each on a trainer of its
    own that starts from the same state. Two steps are made: on the batch, and on the batch without its last
    example, so that one of them does not split evenly. Compared are models, optimizers, what the trainer
    keeps itself, and what the step returns. The seeds of the process's generators are set anew.

    A trainer that is not `separable` is not run in micro-batches.

    Several replicas need as many logical CPU devices, which TensorFlow fixes at its first use: call
    `looplab.strategy.simulated(3)` at the top of conftest.py.

    Args:
        trainer: A trainer, which is left as it is and made again from the arguments that it was made with;
            or a function that makes one, `lambda **options: Mine(..., **options)`, called with
            `strategy=`, `micro_batches=`, `execution=`, `run_eagerly=` and `seed=`.
        batch: One global batch, as `train_step` gets it; None for a trainer with `make_batch`.
        replicas: On how many replicas; `(1,)` leaves several out.
        micro_batches: In how many micro-batches; `(1,)` leaves several out.
        modes: Of `"eager"`, `"graph"` and `"xla_step"` those to compare.
        rtol: The largest difference, as a part of how much a variable changes, that counts as the same; by
            precision where not given, 1e-4 in float32. What rounding does to this step is added.
        random: Whether the step is meant to draw random numbers. Then it is run in all ways, but not compared
            where others are drawn; the report says so.

    Returns:
        What was compared, with the largest differences; prints as a table.

    Raises:
        StepDiffers: An AssertionError that says which variable differs first, how much, and why.
        ConfigurationError: If the trainer cannot be made for every way, or the batch is too small.
        LossError: If the step's loss is not finite on one device already.
    """
    chosen = list(ways(replicas, micro_batches, modes))
    batches = _batches(batch, max((way.parts for way in chosen), default=1))
    make = maker(trainer)
    probe = Probe(make(Way()), batches)
    start, precision = probe.state(), probe.engine.precision
    rtol = tolerance(precision) if rtol is None else rtol
    first = probe.run(start)
    if not first.finite:
        raise LossError("check_step: the loss or a gradient is not finite, on one device already.")
    assert probe.engine.graph is not None  # the reference is traced
    found = draws(probe.engine.graph)
    again = Reference(start, first, [], rtol).differing(probe.run(start))
    if again:
        row = Row("the same again", "differs", again[0].size, again[0].path)
        _refuse("when it is done again from the same state", again, causes.of_repetition(found), [row], rtol)
    nearby = [nudged(start, precision, seed) for seed in range(_NUDGES)]
    reference = Reference(start, first, [(state, probe.run(state)) for state in nearby], rtol)
    if not reference.trains(probe.trained()):
        raise ConfigurationError(
            "check_step: two steps change no weight by more than rounding, so there is nothing to compare. "
            "Is the learning rate 0 at first, or the gradient 0 on this batch? Give another batch or rate."
        )
    one = batches[0] if batches else probe.first_batch(start)
    laboratory = causes.Laboratory(make, reference, one, found)
    rows = [Row("the same again", "same", 0.0)]
    wrong: list[tuple[str, Sequence[Difference], Callable[[], causes.Cause]]] = []
    for way in chosen:
        if way.micro_batches > 1 and not probe.trainer.separable:
            rows.append(Row(str(way), "left out", note=f"{type(probe.trainer).__name__} is not separable"))
            continue
        row, differing, why = _compare(way, batches, laboratory, random)
        rows.append(row)
        if why is not None:
            wrong.append((f"with {way}", differing, why))
    if wrong:
        how, differing, why = wrong[0]
        _refuse(how, differing, why(), rows, rtol)
    return Report(rows, rtol, _drawn(rows, found))


def _compare(
    way: Way, batches: Sequence[Any], laboratory: causes.Laboratory, random: bool
) -> tuple[Row, Sequence[Difference], Callable[[], causes.Cause] | None]:
    """Runs the step in one way; the last of what it returns finds the cause, if it differs."""
    reference = laboratory.reference
    trainer = laboratory.make(way)  # what the trainer itself refuses is no difference
    try:
        ran = Probe(trainer, batches).run(reference.start)
    except ConfigurationError:
        raise
    except Exception as error:
        cause = causes.of_error(way, error)
        return Row(str(way), "failed", note=cause.text.split(". ")[0]), [], lambda: cause
    differing = reference.differing(ran)
    largest = max(reference.differences(ran), key=lambda each: each.size)
    if not differing:
        return Row(str(way), "same", largest.size, largest.path), [], None
    if random and laboratory.draws and way.mode != "eager":
        return Row(str(way), "random", largest.size, note="not compared: draws other numbers"), [], None
    row = Row(str(way), "differs", largest.size, largest.path)
    return row, differing, lambda: causes.of_difference(way, differing, laboratory)


def _refuse(
    how: str, differing: Sequence[Difference], cause: causes.Cause, rows: Sequence[Row], rtol: float
) -> None:
    lines = [f"the step gives another update {how}."]
    if differing:
        lines.append(f"The first that differs, after step {differing[0].step}:")
        lines += [f"    {each.path}: by {each.size:.2g} of its largest change" for each in differing[:3]]
        more = len(differing) - 3
        lines += [f"    and {more} more"] if more > 0 else []
    lines.append(f"Cause ({cause.name}): {cause.text}")
    raise StepDiffers("\n".join(lines), cause.name, Report(rows, rtol))


def _drawn(rows: Sequence[Row], found: Sequence[Draw]) -> list[str]:
    return [str(draw) for draw in found] if any(row.verdict == "random" for row in rows) else []


def _batches(batch: Any, parts: int) -> list[Any]:
    """Returns the batches of the steps; none for a trainer that makes its own."""
    if batch is None:
        return []
    arrays = tree.map_structure(np.asarray, batch)
    size = size_of(arrays)
    if size < 2 * parts:
        raise ConfigurationError(
            f"check_step: the batch has {size} examples; {parts} parts need {2 * parts} at least. Give a "
            "larger batch, or smaller replicas= and micro_batches=."
        )
    return [arrays, rows_of(arrays, 0, size - 1)]
