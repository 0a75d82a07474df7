"""The reference of exit codes, from the errors that have them."""

from __future__ import annotations

import inspect
from collections import defaultdict

from documentation.tables import table
from looplab import errors


def page() -> str:
    """Returns the page, in Markdown."""
    ending = (errors.LooplabError, errors.EndRequested)
    found = defaultdict(list)
    for error in vars(errors).values():
        if inspect.isclass(error) and issubclass(error, ending) and hasattr(error, "exit_code"):
            found[error.exit_code].append(error)
    rows = [
        (f"`{code}`", f"{{py:exc}}`looplab.errors.{error.__name__}`", _first_sentence(error), _yes(code))
        for code in sorted(found)
        for error in found[code]
    ]
    return "\n\n".join(
        [
            "# Exit codes",
            "A command ends with 0 when it has done its work. It ends with 1 after an exception that looplab "
            "does not raise itself. Each error of looplab has an exit code; `outcome.json` records it.",
            table(("exit code", "error", "meaning", "the same command continues"), rows),
            "",
        ]
    )


def _first_sentence(error: type) -> str:
    return " ".join(inspect.cleandoc(error.__doc__ or "").partition("\n\n")[0].split())


def _yes(code: int) -> str:
    return "yes" if errors.restart_helps(code) else "no"
