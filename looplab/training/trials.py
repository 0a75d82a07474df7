"""The methods that try a trainer out: they train nothing, and write nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from looplab.data import join
from looplab.options.paths import local
from looplab.strategy import precision as dtypes
from looplab.training import bad_step, rehearsal
from looplab.training.preparation import Preparation
from looplab.training.step_methods import StepMethods
from looplab.training.trainer_parts import parts_of


def rehearse(trainer: StepMethods, fit: dict[str, Any], *, is_recorded: bool) -> rehearsal.Rehearsal:
    """Rehearses the fit of a trainer; see `Trainer.rehearse`.

    Args:
        trainer: A `looplab.Trainer`.
        fit: The arguments of `fit`.
        is_recorded: Whether the fit would have a run directory.
    """
    parts = parts_of(trainer)
    with dtypes.scope(parts.engine.precision):
        return rehearsal.rehearse(
            parts.preparation.plan_fit(**{"x": None, "y": None, **fit}), is_recorded=is_recorded
        )


class Trials(StepMethods):
    """The methods of `looplab.Trainer` that try out a step: `rehearse`, `replay`, `build`."""

    _preparation: Preparation

    def rehearse(self, x: Any = None, y: Any = None, **fit: Any) -> rehearsal.Rehearsal:
        """Runs one step and one evaluation batch, and describes what `fit` would do; on the host.

        It reveals mistakes in the data, the step or the loss. It writes nothing, and restores all variables.

        Args:
            x: Training data: arrays, a tuple `(inputs, targets[, sample_weight])`, or a `tf.data.Dataset`.
            y: The targets, if `x` holds only inputs.
            **fit: The other arguments of `fit`, except `verbose`.

        Returns:
            The plan. `print` shows it as the console does; `lines` has its labels and texts.

        Raises:
            LossError: If the loss of the step or of the evaluation is not finite.
        """
        return rehearse(self, fit | {"x": x, "y": y}, is_recorded=self._preparation.run_dir is not None)

    def replay(self, folder: str | Path, x: Any = None, y: Any = None, **fit: Any) -> bad_step.Reproduced:
        """Repeats a step that was not finite, from the record that a run wrote of it; on the host.

        It writes nothing, and restores all variables.

        Args:
            folder: The folder of the step, such as `"runs/mine/bad_steps/step-00000003"`.
            x: Data with the shapes and dtypes of the run's data: arrays, a tuple, or a `tf.data.Dataset`.
            y: The targets, if `x` holds only inputs.
            **fit: The other arguments of `fit`, except `verbose`.

        Raises:
            CheckpointError: If the record is damaged, or does not fit this trainer.
        """
        with dtypes.scope(self._engine.precision):
            return bad_step.reproduce(self._preparation.plan_fit(x, y, **fit), local(folder, "folder"))

    def build(self, x: Any = None, y: Any = None, *, batch_size: int | None = None) -> None:
        """Creates every variable of the models that training needs; trains nothing. On the host.

        `fit`, `evaluate` and `predict` create the variables that they need. Use `build` to inspect a model
        before, or to restore a model of which evaluation or prediction call only some layers.

        Args:
            x: A few examples with the shapes and dtypes of all data: arrays, a tuple, or a `tf.data.Dataset`.
            y: The targets, if `x` holds only inputs.
            batch_size: The number of examples in a global batch of arrays; 32 by default.
        """
        with dtypes.scope(self._engine.precision):
            feed = self._preparation.feed(join(x, y), batch_size)
            self._engine.build(self.train_step, feed, self)
