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
    """The methods of `looplab.Trainer` that try a step out: `rehearse`, `replay`, `build`."""

    _preparation: Preparation

    def rehearse(self, x: Any = None, y: Any = None, **fit: Any) -> Summary:
        """Runs one step and one evaluation batch, and says what `fit` would do; on the host.

        Mistakes in the data, the step or the loss show here. Nothing is written, and all variables are
        afterwards what they were.

        Args:
            x: Training data: arrays, a tuple `(inputs, targets[, sample_weight])`, or a `tf.data.Dataset`.
            y: Targets, where `x` is only inputs.
            **fit: The other arguments of `fit`, except `verbose`.

        Raises:
            LossError: If the loss of the step or of the evaluation is not finite.
        """
        with dtypes.scope(self._engine.precision):
            return rehearsal.rehearse(self._preparation.plan_fit(x, y, **fit))

    def replay(self, folder: str | Path, x: Any = None, y: Any = None, **fit: Any) -> bad_step.Reproduced:
        """Runs a step again that was not finite, from what a run wrote down of it; on the host.

        Nothing is written, and all variables are afterwards what they were.

        Args:
            folder: Of the step, such as `"runs/mine/bad_steps/step-00000003"`.
            x: Data of the shapes and dtypes of the run's: arrays, a tuple, or a `tf.data.Dataset`.
            y: Targets, where `x` is only inputs.
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
            x: A few examples of the shapes and dtypes of all: arrays, a tuple, or a `tf.data.Dataset`.
            y: Targets, where `x` is only inputs.
            batch_size: Examples of a global batch of arrays; 32 if not given.
        """
        with dtypes.scope(self._engine.precision):
            feed = self._preparation.feed(join(x, y), batch_size)
            self._engine.build(self.train_step, feed, self)
