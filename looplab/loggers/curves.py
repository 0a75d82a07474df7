"""Draws curves of values by epoch as small SVG pictures, for a page that shows HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from looplab.loggers.text import number

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # safe for colour blindness
_WIDTH, _HEIGHT = 300, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 40, 24  # margins around the curves
_POINTS = 300  # the most points of a curve: more could not be seen
_LETTERS = 34  # the most letters of a title or a legend

Series = Mapping[int, float]


def escaped(text: str) -> str:
    """Returns a text that a page shows unchanged: without markup and unprintable characters."""
    return html.escape("".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text))


def picture(title: str, curves: Mapping[str, Series]) -> str:
    """Returns a picture of the values of every epoch.

    A value that is not finite leaves a gap. Very long curves are thinned.

    Args:
        title: The title of the picture.
        curves: For each set, by its name, the values by epoch, from 0.
    """
    thinned = {name: _thinned(series) for name, series in curves.items()}
    points = [
        (epoch, value) for series in thinned.values() for epoch, value in series if math.isfinite(value)
    ]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-label="{escaped(title)}" '
        'font-family="sans-serif" font-size="11" fill="currentColor">',
        f"<title>{escaped(title)}</title>",
        f'<text x="{_LEFT}" y="14" font-weight="bold">{escaped(_short(title))}</text>',
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH - _LEFT - _RIGHT}" height="{_HEIGHT - _TOP - _BOTTOM}" '
        'fill="none" stroke="currentColor" stroke-opacity="0.3"/>',
    ]
    if points:
        parts += _axes(points)
        frame = _Frame(points)
        for series, colour in zip(thinned.values(), _colours(len(thinned)), strict=True):
            parts += frame.curve(series, colour)
    else:
        parts.append(f'<text x="{_LEFT + 8}" y="{_TOP + 20}">no finite value</text>')
    parts.append(_legend(list(thinned)))
    return "".join([*parts, "</svg>"])


class _Frame:
    """Converts epochs and values to positions in the picture."""

    def __init__(self, points: Sequence[tuple[int, float]]) -> None:
        epochs, values = zip(*points, strict=True)
        self._first, self._epochs = min(epochs), max(epochs) - min(epochs)
        self._lowest, self._highest = min(values), max(values)

    def place(self, epoch: int, value: float) -> str:
        across = (epoch - self._first) / self._epochs if self._epochs else 0.5
        half = self._highest / 2 - self._lowest / 2  # the full range might overflow
        up = (value / 2 - self._lowest / 2) / half if half else 0.5
        x = _LEFT + across * (_WIDTH - _LEFT - _RIGHT)
        y = _TOP + (1.0 - up) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{x:.1f},{y:.1f}"

    def curve(self, series: Sequence[tuple[int, float]], colour: str) -> list[str]:
        pieces: list[list[str]] = [[]]
        for epoch, value in series:
            if math.isfinite(value):
                pieces[-1].append(self.place(epoch, value))
            else:
                pieces.append([])
        return [_line(piece, colour) for piece in pieces if piece]


def _line(places: Sequence[str], colour: str) -> str:
    if len(places) == 1:
        x, y = places[0].split(",")
        return f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>'
    return f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _axes(points: Sequence[tuple[int, float]]) -> list[str]:
    epochs, values = zip(*points, strict=True)
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    heights = {number(max(values)): _TOP + 8, number(min(values)): bottom}
    if min(values) == max(values):
        heights = {number(values[0]): (_TOP + bottom) // 2 + 4}
    found = [f'<text x="{_LEFT - 4}" y="{y}" text-anchor="end">{text}</text>' for text, y in heights.items()]
    found.append(f'<text x="{_LEFT}" y="{bottom + 14}">epoch {min(epochs) + 1}</text>')
    if min(epochs) != max(epochs):
        found.append(f'<text x="{right}" y="{bottom + 14}" text-anchor="end">{max(epochs) + 1}</text>')
    return found


def _legend(names: Sequence[str]) -> str:
    shown = list(zip(names, _colours(len(names)), strict=True))[: len(_COLOURS)]
    each = _LETTERS // max(len(shown), 1)
    spans = [
        f'<tspan fill="{colour}" dx="{8 if place else 0}">{escaped(_short(name, max(each, 6)))}</tspan>'
        for place, (name, colour) in enumerate(shown)
    ]
    return f'<text x="{_LEFT}" y="{_TOP - 8}">{"".join(spans)}</text>'


def _colours(count: int) -> list[str]:
    return [_COLOURS[place % len(_COLOURS)] for place in range(count)]


def _short(text: str, letters: int = _LETTERS) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _thinned(series: Series) -> list[tuple[int, float]]:
    """Returns the points of a curve; of very many points, every n-th one and the last."""
    points = list(series.items())
    every = -(-len(points) // _POINTS)
    return points if every <= 1 else [*points[:-1:every], points[-1]]
