"""Finds out whether a user's function may branch or loop: only such functions need to be converted.

AutoGraph takes tens of milliseconds to convert a function, and code without `if`, `for`, `while`, `and`, `or`
and `not` does not change. So looplab reads the instructions of the function and of the user's code that it
calls.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from looplab.runs import cause

_JUMPS = {*dis.hasjrel, *dis.hasjabs, dis.opmap["UNARY_NOT"]}


def may_branch(function: Callable[..., Any], owner: Any) -> bool:
    """Whether a function has control flow, or may call a user's function that has control flow.

    Args:
        function: A Python function.
        owner: The object whose method it is.
    """
    return _Search().of_function(function, owner)


class _Search:
    """One search through the functions that a function may call: names in its object, module and closure."""

    def __init__(self) -> None:
        self._seen = dict[tuple[Any, int], Any]()  # keeps the objects, so that ids stay unique

    def of_function(self, function: Any, owner: Any) -> bool:
        """Whether a user's function may branch."""
        code = getattr(function, "__code__", None)
        if code is None or not cause.is_made_in(code.co_filename) or self._knows(code, owner):
            return False
        branches, names = _read(code)
        if branches:
            return True
        function = getattr(function, "__func__", function)
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        shared = [function.__globals__[name] for name in names if name in function.__globals__]
        return any(self.of(each, names) for each in (owner, *cells, *shared))

    def of(self, value: Any, names: frozenset[str]) -> bool:
        """Whether an object is a user's function that may branch, or has one under these names."""
        if value is None or isinstance(value, str | int | float) or self._knows(names, value):
            return False
        if isinstance(value, FunctionType):
            return self.of_function(value, None)
        if isinstance(value, MethodType):
            return isinstance(value.__func__, FunctionType) and self.of_function(
                value.__func__, value.__self__
            )
        if isinstance(value, functools.partial):
            return self.of(value.func, names)
        if isinstance(value, Mapping):
            return any(self.of(each, names) for each in value.values())
        if isinstance(value, list | tuple | set):
            return any(self.of(each, names) for each in value)
        if isinstance(value, ModuleType) and not cause.is_made_in(
            getattr(value, "__file__", None) or "<frozen"
        ):
            return False
        methods, others = _parts(value, names)
        return any(self.of_function(each, value) for each in methods) or any(
            self.of(each, names) for each in others
        )

    def _knows(self, where: Any, value: Any) -> bool:
        key = where, id(value)
        known = key in self._seen
        self._seen[key] = value
        return known


def _parts(value: Any, names: frozenset[str]) -> tuple[list[FunctionType], list[Any]]:
    """Returns the methods and the other values that an object, its class or a module has under names."""
    own = getattr(value, "__dict__", {})
    kind = value if isinstance(value, type) else type(value)
    of_class = [inspect.getattr_static(kind, name, None) for name in (*names, "__call__") if name not in own]
    methods = [found for each in of_class if isinstance(found := _function(each), FunctionType)]
    return methods, [own[name] for name in names if name in own]


def _function(attribute: Any) -> Any:
    """Returns the function in an attribute of a class."""
    if isinstance(attribute, property):
        return attribute.fget
    return attribute.__func__ if isinstance(attribute, staticmethod | classmethod) else attribute


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=1024)
def _read(code: CodeType) -> tuple[bool, frozenset[str]]:
    """Returns whether code jumps, and the names that it uses, including those of inner functions."""
    jumps = any(instruction.opcode in _JUMPS for instruction in dis.get_instructions(code))
    inner = [_read(each) for each in code.co_consts if isinstance(each, CodeType)]
    names: frozenset[str] = frozenset(code.co_names).union(*(names for _, names in inner))
    return jumps or any(branches for branches, _ in inner), names
