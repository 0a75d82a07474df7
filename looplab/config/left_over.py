"""Explains an argument that a target does not take because its section's `_target_` was replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from looplab.config.source_locations import Origins, shown
from looplab.errors import Problem

_NOTHING = {
    "schedule": "constant",
    "trainer": "default",
}  # the empty option of each group; "none" for the others


@dataclass(frozen=True)
class UnknownArgument(Problem):
    """An argument that a target does not take.

    Attributes:
        slot: The key of the section with the target.
    """

    slot: str = ""


def located(problems: Sequence[Problem], origins: Origins) -> list[Problem]:
    """Returns problems with their places in files, and a remedy for arguments that are left over.

    Args:
        problems: Problems of a composed configuration.
        origins: The words and files of which it was composed.
    """
    found: list[Problem] = []
    explained: set[str] = set()
    for problem in problems:
        remedy = ""
        if isinstance(problem, UnknownArgument) and problem.slot not in explained:
            remedy = _left_over(problem, origins)
            explained |= {problem.slot} if remedy else set()  # one remedy for all arguments of a class
        where = problem.where or origins.of(problem.key)
        found.append(Problem(problem.key, problem.message + remedy, where))
    return found


def _left_over(problem: UnknownArgument, origins: Origins) -> str:
    """Returns how to remove an argument of a `_target_` that was replaced, or an empty text."""
    file = origins.left_over(problem.slot, problem.key)
    if file is None:
        return ""
    group, target = problem.slot.split(".")[0], f"{problem.slot}._target_"
    alone = f"'~{problem.key}' on the command line removes it."
    if file.package.split(".")[0] != group:
        return f" It comes from {shown(file.path)}, whose _target_ was replaced later: {alone}"
    option = f"{group}: {_NOTHING.get(group, 'none')}"
    how = f"'- override /{option}' in the experiment's defaults"
    if origins.is_word(target):
        how = f"{option.replace(': ', '=')} +{target}=..."
    return f" It comes from {shown(file.path)}, whose _target_ was replaced later: write {how}; or {alone}"
