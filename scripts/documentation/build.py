"""One build of the site: a temporary folder of pages, and Sphinx over it."""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sphinx.application import Sphinx

from documentation import configuration, exit_codes, log_tags, names, pages


def reference(root: Path) -> dict[str, str]:
    """Returns the text of each page of the reference by its path on the site; imports TensorFlow.

    Args:
        root: The repository.
    """
    return {
        **names.pages(),
        "reference/configuration.md": configuration.page(root),
        "reference/log_tags.md": log_tags.page(),
        "reference/exit_codes.md": exit_codes.page(),
    }


class _Warnings(io.TextIOBase):
    """Prints Sphinx's warnings with the paths of the repository, not of the temporary folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = f"{folder}/"

    def write(self, text: str) -> int:
        sys.stderr.write(text.replace(self._folder, ""))
        return len(text)


def build(root: Path, output: Path, generated: Mapping[str, str]) -> bool:
    """Builds the site, and prints each problem with its page and line on stderr.

    Args:
        root: A repository: README.md, the guides beside their code, and the files that these link to.
        output: The folder of the site. Files of an earlier build that have no page any more stay there.
        generated: The text of each page that is not in the repository, by its path on the site.

    Returns:
        Whether the build has no warning.
    """
    with tempfile.TemporaryDirectory(prefix="looplab-docs-") as temporary:
        folder = Path(temporary).resolve()
        pages.write(root, folder, generated)
        app = Sphinx(
            srcdir=folder,
            confdir=Path(__file__).resolve().parent,
            outdir=output,
            doctreedir=folder / ".doctrees",
            buildername="html",
            status=None,
            warning=_Warnings(folder),
            warningiserror=True,
        )
        app.build()
        return app.statuscode == 0
