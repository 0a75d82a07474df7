"""What of a configuration the user said: on the command line, in Python, or in `pyproject.toml`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path


def as_word(key: str) -> str:
    """Returns a key as a word of the command line has it: `callbacks.0.x` for `callbacks[0].x`."""
    return re.sub(r"\[(\d+)\]", r".\1", key)


@dataclass(frozen=True)
class Said:
    """What the user said, against which the paths and addresses of files are held.

    Attributes:
        keys: That words give a value, such as `data.source.directory`.
        lists: That words give as a whole: with all that is in them. A section is merged with that of a file.
        folders: That words name, and those that the project may read, absolute.
        addresses: That the project may name.
    """

    keys: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    folders: tuple[Path, ...] = ()
    addresses: tuple[str, ...] = ()

    def has(self, key: str) -> bool:
        """Whether words give a key its value, by itself or as a part of a list.

        Args:
            key: Such as `callbacks.x.filename` or `metrics[0].name`.
        """
        dotted = as_word(key)
        return dotted in self.keys | self.lists or any(dotted.startswith(f"{name}.") for name in self.lists)

    def may_read(self, path: str) -> bool:
        """Whether a path is in the working directory, or in a folder that the user named."""
        whole = Path(os.path.abspath(os.path.expanduser(path)))
        return any(whole.is_relative_to(folder) for folder in (Path.cwd(), *self.folders))

    def may_reach(self, address: str) -> bool:
        """Whether an address is one that the project may name, or begins with it."""
        return any(address == own or address.startswith(f"{own.rstrip('/')}/") for own in self.addresses)
