"""What values are called where they are shown: one name, one value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from looplab.errors import Problem, Refused, as_written
from looplab.loggers.tensorboard_overview import EPOCHS, STEPS
from looplab.options.names import wrong_name
from looplab.runs.tags import EPOCH

Source = tuple[str, str, Iterable[str]]  # who gives values, what stands before their names, and their names


def monitor_name(split: str, name: str) -> str:
    """Returns what a value of an evaluation is called beside those of training: `val_loss`, `<set>_loss`.

    Args:
        split: The name of the set; `"validation"` where there is but one.
        name: Of the value, as the evaluation calls it.
    """
    return f"val_{name}" if split == "validation" else f"{split}_{name}"


def check(sources: Sequence[Source]) -> None:
    """Refuses names that cannot be, and values that would be shown under one, of which logs would keep one.

    Args:
        sources: All whose values are shown together.

    Raises:
        Refused: With each such name and who gives it.
    """
    givers: dict[str, list[str]] = {}
    problems = []
    for who, prefix, names in sources:
        for name in names:
            if why := wrong_name(name):
                message = (
                    f"{who} gives {as_written(name)}, which cannot be a tag in logs and a path in "
                    f"checkpoints: {why}. Call it something else."
                )
                problems.append(Problem("", message))
                continue
            givers.setdefault(prefix + name, []).append(who)
            if name.startswith(EPOCH):
                message = (
                    f"{who} gives {name!r}, and {EPOCH!r} stands before the names of means over an epoch: "
                    f"it would be taken for that of {name.removeprefix(EPOCH)!r}. Call it something else."
                )
                problems.append(Problem("", message))
            if name.startswith((f"{EPOCHS}/", f"{STEPS}/")):
                message = (
                    f"{who} gives {name!r}, and TensorBoard repeats other values in the groups {EPOCHS!r} "
                    f"and {STEPS!r}. Call it something else."
                )
                problems.append(Problem("", message))
    for name, several in givers.items():
        if len(several) > 1:
            message = (
                f"{name!r} would be the name of {len(several)} values, of {' and of '.join(several)}, and "
                "history, logs and monitors keep one value under a name. Name all but one anew."
            )
            problems.append(Problem("", message))
    if problems:
        raise Refused(problems)
