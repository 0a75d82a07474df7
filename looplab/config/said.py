"""What of a configuration the user said: on the command line, in Python, or in `pyproject.toml`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Said:
    """What the user said, against which the paths and addresses of files are held.

    Attributes:
        keys: That words give a value, such as `data.source.directory`.
        sections: That words give as a whole, `data.source={...}`: with all that is in them.
        folders: That words name, and those that the project may read, absolute.
        addresses: That the project may name.
    """

    keys: frozenset[str] = frozenset()
    sections: frozenset[str] = frozenset()
    folders: tuple[Path, ...] = ()
    addresses: tuple[str, ...] = ()

    def has(self, key: str) -> bool:
        """Whether words give a key its value, by itself or as a part of a section or a list."""
        return key in self.keys | self.sections or any(
            key.startswith((f"{name}.", f"{name}[")) for name in self.sections
        )

    def may_read(self, path: str) -> bool:
        """Whether a path is in the working directory, or in a folder that the user named."""
        whole = Path(os.path.abspath(os.path.expanduser(path)))
        return any(whole.is_relative_to(folder) for folder in (Path.cwd(), *self.folders))

    def may_reach(self, address: str) -> bool:
        """Whether an address is one that the project may name, or begins with it."""
        return any(address == own or address.startswith(f"{own.rstrip('/')}/") for own in self.addresses)
