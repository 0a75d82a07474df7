"""The display of a trainer: a line in a terminal, a table and curves in a notebook."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np

from looplab.loggers import escaped
from looplab.training.preparation import Preparation


class Displayed:
    """Shows what a trainer trains, and how far it has trained.

    A base of `looplab.Trainer`.
    """

    _preparation: Preparation

    def __repr__(self) -> str:
        """Returns one line that describes the trainer."""
        if not hasattr(self, "_preparation"):  # the constructor failed, or prints the trainer
            return f"<{type(self).__name__}, not made yet>"
        return f"<{type(self).__name__}: {', '.join(f'{k} {v}' for k, v in _facts(self._preparation))}>"

    def _repr_html_(self) -> str | None:
        """Returns the HTML for a notebook; None if there is only the line."""
        if not hasattr(self, "_preparation"):
            return None
        rows = "".join(
            f'<tr><td style="text-align: left"><b>{escaped(label)}</b></td>'
            f'<td style="text-align: left">{escaped(text)}</td></tr>'
            for label, text in _facts(self._preparation)
        )
        history = self._preparation.so_far.history
        curves = history._repr_html_() if history is not None and history.epoch else ""
        return f"<div><p><b>{escaped(type(self).__name__)}</b></p><table>{rows}</table>{curves}</div>"


def _facts(preparation: Preparation) -> Iterator[tuple[str, str]]:
    engine, progress = preparation.engine, preparation.so_far.progress
    for name, model in engine.models.items():
        yield name, f"{type(model).__name__} ({_size(model)})"
    for name, optimizer in engine.optimizers.items():
        yield name, type(optimizer).__name__
    if progress is not None:
        yield "step", str(progress.step)
        if progress.best is not None:
            best = progress.best
            yield "best", f"{best['monitor']} {best['value']:.6g} (epoch {best['epoch']})"
    yield "run", "not recorded" if preparation.run_dir is None else str(preparation.run_dir)


def _size(model: keras.Model) -> str:
    """Returns the number of a model's parameters as text."""
    if not model.built:
        return "not built yet"
    return f"{sum(int(np.prod(variable.shape)) for variable in model.weights):,} parameters"
