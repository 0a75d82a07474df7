"""Checks the step in one phase, in all ways, against one device with the whole batch in a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from looplab.errors import ConfigurationError, LossError
from looplab.execution import xla_random
from looplab.execution.random_operations import draws
from looplab.testing import causes
from looplab.testing.batch_dependence import REMEDY, Across, looks_across
from looplab.testing.comparison import Difference, Reference, nudged, tolerance
from looplab.testing.frozen import Movers, movers
from looplab.testing.probe import Probe, Ran, size_of
from looplab.testing.report import Row
from looplab.testing.step_variants import Way
from looplab.trainer import Trainer

_NUDGES = 8
_SLICES = Way(micro_batches=2)
_SPLITS = ("across the batch", "local mean", "state", "unknown", "weight")  # causes that a split may have


class Wrong(NamedTuple):
    """A violation that the check found.

    Attributes:
        text: Its description.
        differing: The variables that differ, or none.
        why: Finds the cause.
    """

    text: str
    differing: Sequence[Difference]
    why: Callable[[], causes.Cause]


class PhaseCheck:
    """Runs the step of one phase in all ways.

    Attributes:
        rows: The comparisons.
        wrong: The violations.
        notes: Further notes for the report.
        draws: The random numbers that the step draws.
        rtol: The largest difference that counts as equal.
    """

    def __init__(
        self,
        make: Callable[[Way], Trainer],
        phase: str,
        batches: Sequence[Any],
        rtol: float | None,
        *,
        random: bool,
    ) -> None:
        """Creates the reference's trainer.

        Args:
            make: Creates a trainer for a way, in this phase.
            phase: Its name, or an empty string.
            batches: See `Probe`.
            rtol: The largest difference that counts as equal; None for the default of the precision.
            random: See `check_step`.
        """
        self._make, self._phase, self._batches, self._random = make, phase, batches, random
        self._probe = Probe(make(Way()), batches)
        self._start = self._probe.state()
        self.rtol = tolerance(self._probe.engine.precision) if rtol is None else rtol
        self.rows: list[Row] = []
        self.wrong: list[Wrong] = []
        self.notes: list[str] = []
        assert self._probe.engine.graph is not None  # the reference is traced
        self.draws = draws(self._probe.engine.graph)
        self._meant: frozenset[str] = frozenset()  # frozen variables that the step itself assigns

    def run(self, chosen: Sequence[Way]) -> None:
        """Compares some ways with the reference; a violation in the reference itself ends the comparison.

        Raises:
            LossError: If the step is not finite even on one device.
            ConfigurationError: If it trains nothing, although something is not frozen.
        """
        first = self._probe.run(self._start)
        if not first.finite:
            raise LossError("check_step: the loss or a gradient is not finite, even on one device.")
        again = Reference(self._start, first, [], self.rtol).differing(self._probe.run(self._start))
        if again:
            self.rows.append(self._row("the same again", "differs", again[0]))
            text = f"the step gives another update when it is repeated from the same state{self._then}."
            self.wrong.append(Wrong(text, again, lambda: causes.of_repetition(self.draws)))
            return
        self.rows.append(Row(self._named("the same again"), "same", 0.0))
        if self._find_moved(Way(), first):
            return
        if not self._probe.trained() and self._probe.frozen:
            self.notes.append(f"everything is frozen{self._then}, so no update was compared")
            return
        reference = self._reference(first)
        one = self._batches[0] if self._batches else self._probe.first_batch(self._start)
        laboratory = causes.Laboratory(self._make, reference, one, self.draws)
        for way in chosen:
            self._compare(way, laboratory)
        if all(way.parts == 1 for way in chosen):
            self._compare_slices(laboratory)

    @property
    def _then(self) -> str:
        return f" ({self._phase})" if self._phase else ""

    def _named(self, way: str) -> str:
        return f"{way}, {self._phase}" if self._phase else way

    def _row(self, way: str, verdict: str, largest: Difference) -> Row:
        return Row(self._named(way), verdict, largest.size, largest.path)

    def _reference(self, first: Ran) -> Reference:
        precision = self._probe.engine.precision
        nearby = [nudged(self._start, precision, seed) for seed in range(_NUDGES)]
        shaken = [(state, self._probe.run(state)) for state in nearby]
        reference = Reference(self._start, first, shaken, self.rtol)
        if not reference.trains(self._probe.trained()):
            raise ConfigurationError(
                f"check_step: two steps change no weight by more than rounding{self._then}, so there is "
                "nothing to compare. Is the learning rate 0 at first, or the gradient 0 on this batch? Give "
                "another batch or rate."
            )
        return reference

    def _compare(self, way: Way, laboratory: causes.Laboratory) -> None:
        """Runs the step in one way, and compares it with the reference."""
        if way.micro_batches > 1 and not self._probe.trainer.separable:
            kind = type(self._probe.trainer).__name__
            self.rows.append(Row(self._named(str(way)), "left out", note=f"{kind} is not separable"))
            return
        reference, text = laboratory.reference, f"the step gives another update with {way}{self._then}."
        trainer = self._make(way)  # a refusal by the trainer itself is not a difference
        try:
            probe = Probe(trainer, self._batches)
            ran = probe.run(reference.start)
        except ConfigurationError:
            raise
        except Exception as error:
            cause = causes.of_error(way, error)
            self.rows.append(Row(self._named(str(way)), "failed", note=cause.text.split(". ")[0]))
            self.wrong.append(Wrong(text, [], lambda: cause))
            return
        if self._find_moved(way, ran):
            return
        differing = reference.differing(ran)
        largest = max(reference.differences(ran), key=lambda each: each.size)
        if not differing:
            self.rows.append(self._row(str(way), "same", largest))
            return
        others = self._other_draws(way, probe)
        if self._random and others:
            note = "not compared: draws other numbers"
            self.rows.append(Row(self._named(str(way)), "random", largest.size, note=note))
        else:
            self.rows.append(self._row(str(way), "differs", largest))
            self.wrong.append(Wrong(text, differing, lambda: self._cause(way, differing, laboratory, others)))

    def _other_draws(self, way: Way, probe: Probe) -> list[str]:
        """Returns the draws whose numbers are others in a way than in the reference, with the reasons."""
        if way.parts > 1:
            return [*map(str, probe.engine.draws.why)]
        if way.mode != "xla_step":
            return []
        kinds = xla_random.others_in_xla(draw.kind for draw in self.draws)
        return [f"{draw} draws other numbers in XLA" for draw in self.draws if draw.kind in kinds]

    def _cause(
        self,
        way: Way,
        differing: Sequence[Difference],
        laboratory: causes.Laboratory,
        others: Sequence[str],
    ) -> causes.Cause:
        if others:
            return causes.of_draws(way, others)
        cause = causes.of_difference(way, differing, laboratory)
        if way.parts == 1 or cause.name not in _SPLITS:
            return cause
        across = self._across(laboratory).text
        return cause if across is None else causes.Cause("across the batch", across)

    def _across(self, laboratory: causes.Laboratory) -> Across:
        return looks_across(self._make, self._start, laboratory.batch, self.rtol)

    def _compare_slices(self, laboratory: causes.Laboratory) -> None:
        """Finds a loss that depends on the whole batch, if no way computes the batch in slices."""
        if laboratory.draws or not self._probe.trainer.separable or size_of(laboratory.batch) < 2:
            return
        found = self._across(laboratory)
        if not found.asked:
            self.notes.append(f"the step makes its gradients itself{self._then}: not compared on slices")
            return
        across = found.text or self._across_by_gradient(laboratory)
        self.rows.append(Row(self._named("2 slices"), "differs" if across else "same"))
        if across:
            text = f"the step's loss on the batch differs from that on its two halves{self._then}."
            self.wrong.append(Wrong(text, [], lambda: causes.Cause("across the batch", across)))

    def _across_by_gradient(self, laboratory: causes.Laboratory) -> str | None:
        ways = Way(), _SLICES, Way()
        try:
            whole, split, again = (laboratory.gradients(w, laboratory.batch, frozen=True) for w in ways)
        except Exception:  # it cannot be computed in slices, and need not be
            return None
        if self._agree(split, whole) or not self._agree(again, whole):
            return None
        return f"the gradient of an example depends on the other examples of the batch (axis 0). {REMEDY}"

    def _agree(self, found: Sequence[np.ndarray], whole: Sequence[np.ndarray]) -> bool:
        allowed = min(10 * self.rtol, 0.1)
        pairs = zip(found, whole, strict=True)
        return all(np.linalg.norm(own - other) <= allowed * np.linalg.norm(other) for own, other in pairs)

    def _find_moved(self, way: Way, ran: Ran) -> bool:
        """Finds frozen variables that changed; those that the step itself assigns become only a note."""
        moved = ran.moved - self._meant
        if not moved:
            return False
        found: Movers = movers(self._make, way, self._batches, self._start, moved)
        self._meant |= frozenset(found.step)
        if found.step:
            paths = ", ".join(found.step[:3]) + (" and others" if len(found.step) > 3 else "")
            self.notes.append(f"frozen{self._then}, but assigned by the step itself: {paths}")
        if found.wrong:
            self.rows.append(Row(self._named(str(way)), "differs", note=f"changes {found.wrong[0]}"))
            text = f"the step changes frozen variables{self._then}."
            self.wrong.append(Wrong(text, [], lambda: causes.Cause("frozen", found.text())))
        return bool(found.wrong)
