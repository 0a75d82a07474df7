"""Formats values, rates and models as readable text."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from looplab.errors import shown
from looplab.protocols import LayerRow, Summary, Values

_WIDTH = 100  # of the table of the model, in characters


def model_table(layers: Iterable[LayerRow]) -> Table:
    """Returns the table of the layers: the parameters of each, how many are trained, and their bytes."""
    rows = list(layers)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "layer", "kind"):
        table.add_column(heading, overflow="fold")
    for heading in ("parameters", "trained", "memory"):
        table.add_column(heading, justify="right")
    previous = ""
    for row in rows:
        first = "" if row.model == previous else row.model
        names = (Text(shown(cell)) for cell in (first, row.layer, row.kind))
        table.add_row(*names, *_amounts(row.parameters, row.trained, row.size))
        previous = row.model
    table.add_section()
    whole = (sum(amounts) for amounts in zip(*(row[3:] for row in rows), strict=True))
    table.add_row("total", "", "", *_amounts(*whole), style="bold")
    return table


def summary_text(summary: Summary) -> str:
    """Returns the plan of a run as the console shows it: the table of the model, then the lines."""
    lines = list(plan_lines(summary))
    out = io.StringIO()
    if summary.layers:
        Console(file=out, width=_WIDTH, color_system=None).print(model_table(summary.layers))
    table = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return "\n".join([*([table, ""] if table else ()), *(f"{label}{text}" for label, text in lines)])


def plan_lines(summary: Summary) -> Iterator[tuple[str, str]]:
    """Yields the lines of a plan: the label, which is filled with spaces to one width, and the text."""
    width = max(len(label) for label, _ in summary.lines)
    for label, text in summary.lines:
        yield f"{shown(label):<{width}}  ", shown(text)


def _amounts(parameters: int, trained: int, size: int) -> tuple[str, str, str]:
    return f"{parameters:,}", f"{trained:,}", decimal(size)


def rate(speed: float) -> str:
    """Returns steps per second, or seconds per step if that number is larger."""
    return f"{speed:,.0f} steps/s" if speed >= 1 or not speed else f"{1 / speed:,.1f} s/step"


def as_text(values: Values) -> str:
    """Returns values with their names as readable text."""
    return shown("  ".join(f"{name} {number(value)}" for name, value in values.items()))


def number(value: float) -> str:
    """Returns a value as readable text."""
    exponent = 0 < abs(value) < 1e-3 or abs(value) >= 1e5
    return f"{value:.2e}" if exponent else f"{value:.4f}"
