"""Records what the user set: on the command line, in Python, or in `pyproject.toml`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path


def as_word(key: str) -> str:
    """Returns a key in the form of the command line: `callbacks.0.x` for `callbacks[0].x`."""
    return re.sub(r"\[(\d+)\]", r".\1", key)


@dataclass(frozen=True)
class Said:
    """The user's settings, with which the paths and addresses in files are compared.

    Attributes:
        keys: Keys that words set, such as `data.source.directory`.
        lists: Keys that words set as a whole list. (A section is merged with that of a file.)
        folders: Folders that words name, and those that the project may read, absolute.
        addresses: Addresses that the project may name.
    """

    keys: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    folders: tuple[Path, ...] = ()
    addresses: tuple[str, ...] = ()

    def has(self, key: str) -> bool:
        """Returns whether words set a key, alone or as a part of a list.

        Args:
            key: A key such as `callbacks.x.filename` or `metrics[0].name`.
        """
        dotted = as_word(key)
        return dotted in self.keys | self.lists or any(dotted.startswith(f"{name}.") for name in self.lists)

    def may_read(self, path: str) -> bool:
        """Returns whether a path is in the working directory, or in a folder that the user named."""
        whole = Path(os.path.abspath(os.path.expanduser(path)))
        return any(whole.is_relative_to(folder) for folder in (Path.cwd(), *self.folders))

    def may_reach(self, address: str) -> bool:
        """Returns whether the project may name an address: one of `addresses`, or one that begins with it."""
        return any(address == own or address.startswith(f"{own.rstrip('/')}/") for own in self.addresses)
