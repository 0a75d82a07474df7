"""A check for a project's own tests: a run that is broken and resumed equals the unbroken run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from looplab.errors import ConfigurationError
from looplab.testing.report import Break, ResumeDiffers, ResumeReport
from looplab.testing.runs import ASKED, Runs
from looplab.testing.snapshots import Unequal
from looplab.trainer import Trainer
from looplab.training.audit import Finding
from looplab.training.trainer_parts import parts_of

_SHOWN = 3  # differences in a message


def check_resume(
    trainer: Trainer | Callable[..., Trainer],
    data: Any = None,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    breaks: Sequence[int] | None = None,
    **fit: Any,
) -> ResumeReport:
    """Asserts that a run, broken after any of some steps and resumed, equals the unbroken run; on the host.

    The trainer trains once without a break, in a temporary directory. For each break, the check takes this
    directory as it was right after a checkpoint at that step; it creates the trainer again, as in a new
    process, and continues to the end. It compares bit by bit, at every later break and at the end: all
    variables, the state of callbacks, the position in the data, the metrics of the epoch and the best steps
    so far; and at the end every value of `metrics.jsonl`, and the fields of callbacks that have no `state()`
    (except those whose names begin with an underscore). It does not compare what depends on the clock
    (`on_clock`, the step of a stream's pipeline state). It sets the seeds of the process's generators again.

    It makes one short fit for each break, and one more: give it little data, or `steps_per_epoch=`.

    Args:
        trainer: A trainer, which does not change and is created again from its constructor's arguments
            (callbacks are copied); or a function that returns one, `lambda **options: Mine(..., **options)`,
            called with `run_dir=`.
        data: Data that `fit` takes, or a function that creates it, called for each run as in a new process. A
            `tf.data.Dataset` that shuffles needs a function. Objects are copied if possible.
        steps: The last step; two epochs if neither is given.
        epochs: The last epoch, instead of `steps`.
        batch_size: The number of examples in a global batch of arrays; 32 by default.
        breaks: The steps after which to break the run; None for the middle of the first epoch, its end and
            the middle of the second, if there are so many steps.
        **fit: Other arguments of `fit`, such as `validation_data` (in the same forms as `data`),
            `steps_per_epoch` and `callbacks`.

    Returns:
        The comparisons; prints as a table.

    Raises:
        ResumeDiffers: An AssertionError with the first difference, its size, and the likely cause.
        ConfigurationError: If the trainer cannot be created again, the step assigns variables that no
            checkpoint holds, or there is no step to break the run at.
    """
    if steps is None and epochs is None:
        epochs = 2
    how = {**fit, "steps": steps, "epochs": epochs, "batch_size": batch_size}
    with TemporaryDirectory(prefix="looplab-resume-") as folder:
        runs = Runs(_maker(trainer), data, how, Path(folder))
        unbroken = runs.run("unbroken", breaks)
        places = [step for step in unbroken.snapshots.breaks if unbroken.snapshots.of(step).exists()]
        last = int(unbroken.trainer.step.numpy())
        if not places:
            raise ConfigurationError(
                f"check_resume: the run ended after step {last}, before it could be broken (after step "
                f"{unbroken.snapshots.breaks[0]}). Give earlier breaks=, or let it stop later."
            )
        rows: list[Break] = []
        message, cause = "", ""
        for step in places:
            differing, causes, row = runs.resume(unbroken, step)
            rows.append(row)
            if causes and not message:
                message, cause = _message(row, differing, causes), causes[0].kind
        report = ResumeReport(rows, last)
        if message:
            raise ResumeDiffers(message, cause, report)
    return report


def _maker(given: Trainer | Callable[..., Trainer]) -> Callable[..., Trainer]:
    if isinstance(given, Trainer) and parts_of(given).preparation.callbacks and int(given.step.numpy()):
        raise ConfigurationError(
            "check_resume: the trainer has trained already, and its callbacks keep their state. Give a new "
            "one, or a function that creates it: check_resume(lambda **options: Mine(..., **options), data)."
        )
    make = ASKED.again(given) if isinstance(given, Trainer) else given

    def made(**options: Any) -> Trainer:
        ASKED.check_takes(make, options, given)
        trainer = make(**options)
        if not isinstance(trainer, Trainer) or parts_of(trainer).preparation.run_dir != options["run_dir"]:
            raise ConfigurationError(
                "check_resume: make_trainer was called with "
                f"run_dir={str(options['run_dir'])!r}, but returned {trainer!r}. Pass its keywords on: "
                "check_resume(lambda **options: Mine(..., **options), data)."
            )
        return trainer

    return made


def _message(row: Break, differing: Sequence[Unequal], causes: Sequence[Finding]) -> str:
    lines = [f"the run that was broken after step {row.step} ({row.where}) and resumed is another run."]
    if differing:
        lines.append(f"The first that differs, after step {differing[0].step}:")
        lines += [f"    {each.path}: {each.text}" for each in differing[:_SHOWN]]
        more = len(differing) - _SHOWN
        lines += [f"    and {more} more"] if more > 0 else []
    lines += [f"Cause ({cause.kind}): {cause.text}" for cause in causes]
    return "\n".join(lines)
