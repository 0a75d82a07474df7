"""Which pages the site has, in which order, and the folder that Sphinx reads."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from documentation.links import Links

HOME = "index.md"  # the name that the top README has on the site
NAMES = "reference/names.rst"  # the page of public names, which leads to a page for each module

# Where the guides are, by their caption in the navigation. A new guide needs no entry: `_FIRST` only says
# which guides come first.
_GUIDES = {
    "Getting started": ("looplab/guide/*.md",),
    "Guides": ("looplab/*/README.md", "looplab/*/**/README.md", "conf/README.md"),
    "About looplab": ("looplab/README.md", "scripts/benchmarks/README.md", "CHANGELOG.md"),
}
_FIRST = (
    "looplab/guide/from_keras.md",
    "looplab/guide/from_orbit.md",
    "looplab/guide/from_lightning.md",
    "looplab/training/README.md",
    "conf/README.md",
    "looplab/data/README.md",
    "looplab/optimization/README.md",
    "looplab/callbacks/README.md",
    "looplab/loggers/README.md",
    "looplab/checkpoint/README.md",
    "looplab/runs/README.md",
    "looplab/strategy/README.md",
    "looplab/execution/README.md",
    "looplab/testing/README.md",
    "looplab/examples/README.md",
    "looplab/README.md",
    "scripts/benchmarks/README.md",
)


def guides(root: Path) -> dict[str, list[str]]:
    """Returns the paths of the guides from the root of a repository, in reading order, by caption."""
    found = {}
    for caption, patterns in _GUIDES.items():
        paths = {str(path.relative_to(root)) for pattern in patterns for path in root.glob(pattern)}
        found[caption] = sorted(paths, key=lambda path: (_place(path), path))
    return found


def write(root: Path, folder: Path, generated: Mapping[str, str]) -> None:
    """Writes everything that Sphinx reads.

    Args:
        root: The repository.
        folder: An empty folder.
        generated: The text of each page of the reference by its path, in the order of the navigation.
            `NAMES` leads to the other pages in reStructuredText.
    """
    navigation = guides(root)
    texts = {path: root / path for path in sum(navigation.values(), ["README.md"])}
    links = Links(root, {path: HOME if path == "README.md" else path for path in texts})
    for path, file in texts.items():
        _put(folder / links.pages[path], links.rewritten(path, file.read_text("utf-8")))
    for path, text in generated.items():
        _put(folder / path, links.rewritten(path, text) if path.endswith(".md") else text)
    for path, text in links.sources().items():
        _put(folder / path, text)
    for path in links.pictures:
        _put(folder / path, "")
        shutil.copy(root / path, folder / path)
    navigation["Reference"] = [path for path in generated if path == NAMES or not path.endswith(".rst")]
    with (folder / HOME).open("a", encoding="utf-8") as home:
        for caption, paths in navigation.items():
            home.write(_contents(caption, paths))


def _place(path: str) -> int:
    return _FIRST.index(path) if path in _FIRST else len(_FIRST)


def _contents(caption: str, paths: list[str]) -> str:
    lines = [f"/{path.rpartition('.')[0]}" for path in paths]
    return "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *lines, "```", ""])


def _put(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
