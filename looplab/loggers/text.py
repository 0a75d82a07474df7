"""How values, rates and models are written for a person."""

from __future__ import annotations

from collections.abc import Iterable

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from looplab.errors import shown
from looplab.protocols import Values


def model_table(layers: Iterable[tuple[str, str, str, int, int]]) -> Table:
    """Returns the table of the layers: of each its model, name, kind, number of parameters and bytes."""
    rows = list(layers)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "layer", "kind"):
        table.add_column(heading, overflow="fold")
    table.add_column("parameters", justify="right")
    table.add_column("memory", justify="right")
    previous = ""
    for model, layer, kind, parameters, size in rows:
        first = "" if model == previous else model
        table.add_row(*(Text(shown(cell)) for cell in (first, layer, kind)), f"{parameters:,}", decimal(size))
        previous = model
    table.add_section()
    parameters, size = sum(row[3] for row in rows), sum(row[4] for row in rows)
    table.add_row("total", "", "", f"{parameters:,}", decimal(size), style="bold")
    return table


def rate(speed: float) -> str:
    """Returns steps per second, or its reciprocal where that is the larger one."""
    return f"{speed:,.0f} steps/s" if speed >= 1 or not speed else f"{1 / speed:,.1f} s/step"


def as_text(values: Values) -> str:
    """Returns values with their names, as they are shown to a person."""
    return shown("  ".join(f"{name} {number(value)}" for name, value in values.items()))


def number(value: float) -> str:
    """Returns a value as it is shown to a person."""
    exponent = 0 < abs(value) < 1e-3 or abs(value) >= 1e5
    return f"{value:.2e}" if exponent else f"{value:.4f}"
