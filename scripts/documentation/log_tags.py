"""The reference of log tags, from the table of them in the code."""

from __future__ import annotations

import inspect

from documentation.tables import table
from looplab.runs import tags


def page() -> str:
    """Returns the page, in Markdown."""
    about = inspect.cleandoc(tags.__doc__ or "").partition("\n\n")[2]
    rows = ((f"`{tag.pattern}`", tag.where, tag.meaning) for tag in tags.TAGS)
    return "\n\n".join(["# Log tags", about, table(("tag", "recorded in", "meaning"), rows), ""])
