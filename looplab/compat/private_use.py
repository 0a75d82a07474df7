"""An entry of the registry."""

from __future__ import annotations

from dataclasses import dataclass

TESTS = "tests/compat/test_private_interfaces.py::"


@dataclass(frozen=True)
class PrivateUse:
    """Names of another package that looplab uses although no public interface promises them.

    Attributes:
        owner: The dotted name of the module or class that has them; it begins with the package.
        names: The attributes of the owner, or the beginnings of their names.
        modules: The modules of looplab that use them.
        why: What looplab uses them for.
        test: The node id of the test that fails when they change.
        without: The effect on looplab if patches are off (`LOOPLAB_PATCHES=off`), for names that looplab
            replaces; empty for names that it only reads, or sets on an object of its own.
    """

    owner: str
    names: tuple[str, ...]
    modules: tuple[str, ...]
    why: str
    test: str
    without: str = ""
