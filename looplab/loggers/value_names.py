"""Checks the names under which values are shown: each name has one value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from looplab.errors import Problem, Refused, as_written
from looplab.loggers.tensorboard_overview import EPOCHS, STEPS
from looplab.options.names import wrong_name
from looplab.runs.tags import EPOCH

Source = tuple[str, str, Iterable[str]]  # the origin of values, the prefix of their names, and the names


def monitor_name(split: str, name: str) -> str:
    """Returns the name of an evaluation's value among those of training: `val_loss`, `<set>_loss`.

    Args:
        split: The name of the set; `"validation"` if there is only one.
        name: The name of the value in the evaluation.
    """
    return f"val_{name}" if split == "validation" else f"{split}_{name}"


def check(sources: Sequence[Source]) -> None:
    """Refuses invalid names, and several values under one name, since logs would keep only one of them.

    Args:
        sources: All sources whose values are shown together.

    Raises:
        Refused: With each refused name and its source.
    """
    givers: dict[str, list[str]] = {}
    problems = []
    for who, prefix, names in sources:
        for name in names:
            if why := wrong_name(name):
                message = (
                    f"{who} gives {as_written(name)}, which cannot be a tag in logs and a path in "
                    f"checkpoints: {why}. Choose another name."
                )
                problems.append(Problem("", message))
                continue
            givers.setdefault(prefix + name, []).append(who)
            if name.startswith(EPOCH):
                message = (
                    f"{who} gives {name!r}, but {EPOCH!r} is the prefix of means over an epoch: the name "
                    f"would mean that of {name.removeprefix(EPOCH)!r}. Choose another name."
                )
                problems.append(Problem("", message))
            if name.startswith((f"{EPOCHS}/", f"{STEPS}/")):
                message = (
                    f"{who} gives {name!r}, but TensorBoard repeats other values in the groups {EPOCHS!r} "
                    f"and {STEPS!r}. Choose another name."
                )
                problems.append(Problem("", message))
    for name, several in givers.items():
        if len(several) > 1:
            message = (
                f"{name!r} would be the name of {len(several)} values, of {' and of '.join(several)}, but "
                "history, logs and monitors keep only one value for a name. Rename all but one."
            )
            problems.append(Problem("", message))
    if problems:
        raise Refused(problems)
