"""The report of a check, with a row for each way, break or property; and the errors of the checks."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One way to run the step, compared with one device with the whole batch in a graph.

    Attributes:
        name: The way.
        verdict: `"same"`, `"differs"`, `"failed"` (it raised), `"random"` (it ran, not compared), or
            `"left out"`.
        largest: The largest difference, relative to the variable's change; None if the step failed.
        path: The variable that differs most, or `returned/NAME` for a value that the step returns.
        note: Why it was not compared, or the error that it raised.
    """

    name: str
    verdict: str
    largest: float | None = None
    path: str = ""
    note: str = ""


@dataclass(frozen=True)
class Report:
    """All comparisons; prints as a table.

    Attributes:
        rows: The rows in the order in which they ran.
        rtol: The largest difference that counts as equal.
        drawn: The random numbers because of which some ways were not compared.
        notes: Other differences from the step that `fit` trains.
    """

    rows: Sequence[Row]
    rtol: float
    drawn: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __repr__(self) -> str:
        """Returns the table."""
        sizes = ["" if row.largest is None else f"{row.largest:.1e}" for row in self.rows]
        lines = table(
            f"the step against one device (same: at most {self.rtol:.0e})",
            ("way", "result", "largest difference", "of"),
            [
                (row.name, row.verdict, size, row.note or row.path)
                for row, size in zip(self.rows, sizes, strict=True)
            ],
        )
        drawn = [f"random numbers: {each}" for each in self.drawn]
        return "\n".join([lines, *drawn, *(f"note: {note}" for note in self.notes)])


class StepDiffers(AssertionError):
    """The step gives another update in one of the ways to run it.

    Attributes:
        cause: One of `"across the batch"`, `"batch normalisation"`, `"error"`, `"frozen"`, `"local mean"`,
            `"python"`, `"randomness"`, `"returned value"`, `"state"`, `"unknown"`, `"weight"`, `"xla"`.
        report: All comparisons.
    """

    def __init__(self, message: str, cause: str, report: Report) -> None:
        super().__init__(f"{message}\n\n{report!r}")
        self.cause, self.report = cause, report


@dataclass(frozen=True)
class Break:
    """One place at which the run was broken, and the result of the resumed run.

    Attributes:
        step: The number of completed steps.
        where: A description: the epoch in whose middle or at whose end it is.
        verdict: `"same"`, `"differs"`, or `"failed"` (it raised).
        note: The first difference, or the error that was raised.
    """

    step: int
    where: str
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class ResumeReport:
    """All breaks of a run; prints as a table.

    Attributes:
        breaks: The breaks by step.
        steps: The number of completed steps at which the unbroken run ended.
    """

    breaks: Sequence[Break]
    steps: int

    def __repr__(self) -> str:
        """Returns the table."""
        return table(
            f"a run of {self.steps} steps, broken and resumed, against the unbroken one (same: bit for bit)",
            ("broken after step", "which is", "result", "first difference"),
            [(str(each.step), each.where, each.verdict, each.note) for each in self.breaks],
        )


class ResumeDiffers(AssertionError):
    """A run that was broken and resumed differs from the unbroken run.

    Attributes:
        cause: One of `"attribute"` (a field of the trainer), `"callback"` (a field of a callback), `"data"`,
            `"randomness"`, `"error"` (the run could not continue), `"elsewhere"`.
        report: All comparisons.
    """

    def __init__(self, message: str, cause: str, report: ResumeReport) -> None:
        super().__init__(f"{message}\n\n{report!r}")
        self.cause, self.report = cause, report


@dataclass(frozen=True)
class Property:
    """A property that every feed must have, and whether this one has it.

    Attributes:
        name: The property.
        order: How the data was read: `"in order"`, `"shuffled"`, or `"as it comes"` (a stream).
        verdict: `"held"`, `"broken"`, or `"left out"`.
        note: The violation, or why it was left out.
    """

    name: str
    order: str
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class FeedReport:
    """All properties of a feed; prints as a table.

    Attributes:
        feed: A description of the feed.
        properties: The properties in the order in which they were examined.
    """

    feed: str
    properties: Sequence[Property]

    def __repr__(self) -> str:
        """Returns the table."""
        return table(
            self.feed,
            ("property", "read", "result", "what was found"),
            [(each.name, each.order, each.verdict, each.note) for each in self.properties],
        )


class FeedBroken(AssertionError):
    """A feed lacks properties that a run requires.

    Attributes:
        broken: The names of the properties that do not hold, each once, the most explanatory one first:
            `"reading"`, `"description"`, `"specification"`, `"length"`, `"batch size"`, `"repetition"`,
            `"completeness"`, `"order"`, `"examples"`, `"rows"`, `"seek"`, `"batch"`, `"position"`,
            `"snapshot"`, `"take"`, `"independence"` or `"shards"`.
        report: All examined properties.
    """

    def __init__(self, broken: Sequence[str], report: FeedReport) -> None:
        wrong = [each for each in report.properties if each.verdict == "broken"]
        lines = [f"    {each.name} ({each.order}): {each.note}" for each in wrong]
        super().__init__("\n".join(["the feed lacks properties that a run needs:", *lines, "", repr(report)]))
        self.broken, self.report = tuple(broken), report


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns rows of text as a table."""
    drawn = Table(title=title, title_justify="left")
    for heading in headings:
        drawn.add_column(heading, overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=120, color_system=None, markup=False, highlight=False).print(drawn)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
