"""Chooses the charts that TensorBoard shows at once: it opens the first two groups of tags, by name.

A group is the part of a tag before its first `/`. The tags of a run make many groups (`epoch_loss`,
`learning_rate`, `gradient_norm/...`), and TensorBoard would open the first two by alphabet. So looplab
writes the most important values again, in two groups that sort before all others:

    (1) epochs/<metric>   the loss and each metric by epoch, one curve for each validation set, and values
                          that callbacks produce
    (2) steps/<name>      loss, learning rate and norms by step, speed, images
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

EPOCHS = "(1) epochs"
STEPS = "(2) steps"

_EPOCH = "epoch_"  # the prefix of means
_OF_STEPS = re.compile(
    r"(?:time/)?((?:.+/)?(?:loss|learning_rate|(?:gradient|parameter)_norm|steps_per_second))(/all)?"
)

_T = TypeVar("_T")


def place(tag: str, of_callbacks: Collection[str] = ()) -> tuple[str, str] | None:
    """Returns the group and the title of the chart that repeats a tag; None if no chart repeats it.

    Args:
        tag: The tag.
        of_callbacks: The tags of callbacks that belong to the first group; see `looplab.protocols.Summary`.
    """
    if tag.startswith(_EPOCH):
        return EPOCHS, tag.removeprefix(_EPOCH)
    if (found := _OF_STEPS.fullmatch(tag)) and found[1].endswith("_norm") == bool(found[2]):
        return STEPS, found[1]
    return (EPOCHS, tag) if tag in of_callbacks else None


def repeated(values: Mapping[str, _T], of_callbacks: Collection[str] = ()) -> dict[str, _T]:
    """Returns the values that these groups repeat, under their tags in the groups.

    Args:
        values: Numbers, or series of numbers, by tag.
        of_callbacks: As of `place`.
    """
    return {"/".join(found): value for tag, value in values.items() if (found := place(tag, of_callbacks))}


def image(tag: str) -> str:
    """Returns the tag under which images are written; a tag without `/` moves into the group of steps."""
    return tag if "/" in tag else f"{STEPS}/{tag}"


def charts(tags: Iterable[str], of_callbacks: Collection[str] = ()) -> dict[str, dict[str, str]]:
    """Returns `{heading: {title: tag}}` for the page of custom scalars, in the order of the tags.

    Args:
        tags: The tags of all values; a tag that no group repeats gets no chart.
        of_callbacks: As of `place`.
    """
    found = [(tag, *where) for tag in tags if (where := place(tag, of_callbacks))]
    headings = {EPOCHS: "Training and validation, by epoch", STEPS: "By step"}
    return {
        heading: {title: tag for tag, group, title in found if group == own}
        for own, heading in headings.items()
    }
