"""The methods by which a trainer is tried out: nothing is trained, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from looplab.data import join
from looplab.options.paths import local
from looplab.protocols import Summary
from looplab.strategy import precision as dtypes
from looplab.training import bad_step, rehearsal
from looplab.training.preparation import Preparation
from looplab.training.step_methods import StepMethods


class Trials(StepMethods):
    """What a trainer can be tried out with; see `looplab.Trainer`."""

    _preparation: Preparation

    def rehearse(self, x: Any = None, y: Any = None, **fit: Any) -> Summary:
        """Runs one step and one evaluation batch, and says what `fit` would do; on the host.

        Mistakes in the data, the step or the loss show here. Nothing is written, and all variables are
        afterwards what they were. See `looplab.training.rehearsal`.

        Args:
            x: As in `fit`.
            y: As in `fit`.
            **fit: The other arguments of `fit`, except `verbose`.

        Raises:
            LossError: If the loss of the step or of the evaluation is not finite.
        """
        with dtypes.scope(self._engine.precision):
            return rehearsal.rehearse(self._preparation.plan_fit(x, y, **fit))

    def replay(self, folder: str | Path, x: Any = None, y: Any = None, **fit: Any) -> bad_step.Reproduced:
        """Runs a step again that was not finite, from what a run wrote down of it; on the host.

        Nothing is written, and all variables are afterwards what they were. See `looplab.training.bad_step`.

        Args:
            folder: Of the step, such as `"runs/mine/bad_steps/step-00000003"`.
            x: As in `fit`: its shapes are needed.
            y: As in `fit`.
            **fit: The other arguments of `fit`, except `verbose`.

        Raises:
            CheckpointError: If it is damaged, or does not fit this trainer.
        """
        with dtypes.scope(self._engine.precision):
            return bad_step.reproduce(self._preparation.plan_fit(x, y, **fit), local(folder, "folder"))

    def build(self, x: Any = None, y: Any = None, *, batch_size: int | None = None) -> None:
        """Makes every variable of the models that training needs; trains nothing. On the host.

        `fit`, `evaluate` and `predict` make those that they need. It is for looking at a model before, and
        for restoring one of which evaluation or prediction call only some layers.

        Args:
            x: As in `fit`; a few examples do, of the shapes and dtypes of all.
            y: As in `fit`.
            batch_size: As in `fit`.
        """
        with dtypes.scope(self._engine.precision):
            feed = self._preparation.feed(join(x, y), batch_size)
            self._engine.build(self.train_step, feed, self)
