"""Relative links that work on a repository's page work on the site too.

A link to a guide leads to its page. A link to any other file or folder of the repository leads to a page that
shows it. Sphinx reports a link to anything else as broken.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

_FENCED = re.compile(r"^(```+)\w*\n.*?^\1$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"""(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))|(?<=src=")([^"]+)(?=")""")
_PICTURES = (".gif", ".jpg", ".png", ".svg", ".webp")
_LANGUAGES = {".py": "python", ".sh": "bash", ".toml": "toml", ".yaml": "yaml", ".json": "json"}
_FENCE = "`" * 12  # longer than any in a file


class Links:
    """The links of the pages, with what they need: pictures, and pages that show a file.

    Attributes:
        pages: The path that each page of the repository has on the site.
        pictures: The paths of pictures to copy.
    """

    def __init__(self, root: Path, pages: Mapping[str, str]) -> None:
        """Reads nothing yet.

        Args:
            root: The repository.
            pages: See the class.
        """
        self.pages = pages
        self.pictures: set[str] = set()
        self._root = root
        self._shown: set[str] = set()  # files and folders, each of which has a page that shows it

    def rewritten(self, page: str, text: str) -> str:
        """Returns the text of a page with links that work on the site; blocks of code stay as they are.

        Args:
            page: Its path in the repository.
            text: Markdown.
        """
        prose, parts = 0, []
        for block in _FENCED.finditer(text):
            parts += [self._in_prose(page, text[prose : block.start()]), block[0]]
            prose = block.end()
        return "".join([*parts, self._in_prose(page, text[prose:])])

    def sources(self) -> dict[str, str]:
        """Returns the text of each page that shows a file or a folder, by its path on the site."""
        return {_page_of(path): _shown(self._root / path, path) for path in sorted(self._shown)}

    def _in_prose(self, page: str, text: str) -> str:
        return _LINK.sub(lambda found: self._target(page, found[1] or found[3], found[2] or ""), text)

    def _target(self, page: str, target: str, anchor: str) -> str:
        """Returns where a link leads on the site: the one decision about links."""
        folder = os.path.dirname(page)
        path = os.path.normpath(os.path.join(folder, target))
        if "://" in target or path.startswith("..") or not (self._root / path).exists():
            return target + anchor  # an address; or a broken link, which Sphinx reports
        if path.lower().endswith(_PICTURES):
            self.pictures.add(path)
            return target
        guide = os.path.normpath(
            os.path.join(path, "README.md")
        )  # a repository's page shows it with the folder
        if path in self.pages or guide in self.pages:
            found = self.pages.get(path) or self.pages[guide]
            return os.path.relpath(found, folder or ".") + anchor
        self._shown.add(path)
        return os.path.relpath(_page_of(path), folder or ".")


def _page_of(path: str) -> str:
    return f"source/{path}.md"


def _shown(file: Path, path: str) -> str:
    """Returns a page that shows a file as it is, or the names in a folder."""
    if file.is_dir():
        names = sorted(
            f"{own.name}{'/' * own.is_dir()}" for own in file.iterdir() if own.name[:1] not in "._"
        )
        return f"---\norphan: true\n---\n\n# {path}/\n\n{_FENCE}text\n" + "\n".join(names) + f"\n{_FENCE}\n"
    text = file.read_text("utf-8")
    language = _LANGUAGES.get(file.suffix, "bash" if text.startswith("#!") else "text")
    return f"---\norphan: true\n---\n\n# {path}\n\n{_FENCE}{language}\n{text.rstrip()}\n{_FENCE}\n"
