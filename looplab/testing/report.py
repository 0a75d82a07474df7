"""What a check found: a row for each way to run the step, and the error if one differs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One way to run the step, against one device with the whole batch in a graph.

    Attributes:
        name: The way.
        verdict: `"same"`, `"differs"`, `"failed"` (it raised), `"random"` (it ran, not compared), or
            `"left out"`.
        largest: The largest difference, relative to how much the variable changes; None where it failed.
        path: The variable that differs most, or `returned/NAME` for what the step returns.
        note: Why it was not compared, or what it raised.
    """

    name: str
    verdict: str
    largest: float | None = None
    path: str = ""
    note: str = ""


@dataclass(frozen=True)
class Report:
    """All that was compared; prints as a table.

    Attributes:
        rows: In the order in which they ran.
        rtol: The largest difference that counts as the same.
        drawn: The random numbers because of which some ways were not compared.
    """

    rows: Sequence[Row]
    rtol: float
    drawn: Sequence[str] = ()

    def __repr__(self) -> str:
        """Returns the table."""
        table = Table(
            title=f"the step against one device (same: at most {self.rtol:.0e})", title_justify="left"
        )
        for heading in ("way", "result", "largest difference", "of"):
            table.add_column(heading, overflow="fold")
        for row in self.rows:
            size = "" if row.largest is None else f"{row.largest:.1e}"
            table.add_row(row.name, row.verdict, size, row.note or row.path)
        text = io.StringIO()
        Console(file=text, width=120, color_system=None, markup=False, highlight=False).print(table)
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        return "\n".join([*lines, *(f"random numbers: {drawn}" for drawn in self.drawn)])


class StepDiffers(AssertionError):
    """The step gives another update in one of the ways to run it.

    Attributes:
        cause: One of `"across the batch"`, `"batch normalisation"`, `"error"`, `"local mean"`, `"python"`,
            `"randomness"`, `"returned value"`, `"state"`, `"unknown"`, `"weight"`, `"xla"`.
        report: All that was compared.
    """

    def __init__(self, message: str, cause: str, report: Report) -> None:
        super().__init__(f"{message}\n\n{report!r}")
        self.cause, self.report = cause, report
