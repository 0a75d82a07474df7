"""The reference of the configuration: keys from the schema, groups from the files of `conf/`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from documentation.tables import table
from looplab.config import reference


def page(root: Path) -> str:
    """Returns the page, in Markdown.

    Args:
        root: The repository, for its `conf/`.
    """
    return "\n\n".join(["# Configuration", *_keys(), *_groups(root / "conf")]) + "\n"


def _keys() -> Iterator[str]:
    yield "## Keys"
    yield "A key is set on the command line as `key=value`, in an experiment as YAML."
    for section in reference.sections():
        if section.name:
            yield f"### {section.name}"
            yield section.meaning
        rows = ((f"`{key.name}`", f"`{key.default}`", key.takes, key.meaning) for key in section.keys)
        yield table(("key", "default", "takes", "meaning"), rows)


def _groups(conf: Path) -> Iterator[str]:
    chosen = dict(re.findall(r"^  - (\w+): (\w+)$", (conf / "train.yaml").read_text("utf-8"), re.MULTILINE))
    yield "## Groups"
    yield "An option of a group is chosen as `group=option`. Each option is a file in `conf/`."
    for group in sorted(path for path in conf.iterdir() if path.is_dir()):
        yield f"### {group.name}/"
        if default := chosen.get(group.name):
            yield f"The default is `{default}`."
        files = sorted(group.rglob("*.yaml"))
        yield table(
            ("option", "meaning"), ((_link(file, group), " ".join(reference.comment(file))) for file in files)
        )


def _link(file: Path, group: Path) -> str:
    name = file.relative_to(group).with_suffix("")
    return f"[{name}](../conf/{file.relative_to(group.parent)})"
