"""Reads which names the statements of a module, a class or a function bind, and to what."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# Assigned to a class from outside, these names change its arguments; Python's other special names do not.
_CHANGES = ("__init__", "__new__", "__signature__")


@dataclass(frozen=True)
class Import:
    """A module, or a name in a module, in an import statement."""

    level: int
    module: str
    name: str | None = None


Function = ast.FunctionDef | ast.AsyncFunctionDef
_Bound = ast.ClassDef | Function | ast.expr | Import | None


@dataclass(frozen=True)
class Binding:
    """A statement that binds a name; the value is None if only running the code can tell."""

    value: _Bound
    line: int
    certain: bool  # not under a condition


class Names:
    """The names that the statements of a module, a class or a function bind.

    Args:
        body: The statements.
        lazy: Whether imports for type checkers are what a `__getattr__` will load.
    """

    def __init__(self, body: Iterable[ast.stmt], lazy: bool = False) -> None:
        self.bound: dict[str, list[Binding]] = {}
        self.stars: list[Import] = []
        self._lazy = lazy
        self._read(body, certain=True)

    def lookup(self, name: str, before: float = math.inf) -> list[Binding]:
        """Returns the bindings that may hold above a line: the last certain one and all after it."""
        found = [binding for binding in self.bound.get(name, ()) if binding.line < before]
        certain = [place for place, binding in enumerate(found) if binding.certain]
        return found[certain[-1] :] if certain else found

    def own(self) -> list[str]:
        """Returns the names for other modules to use: those that are not imported modules."""
        return [
            name
            for name, bindings in self.bound.items()
            if not any(isinstance(b.value, Import) and b.value.name is None for b in bindings)
        ]

    def _read(self, body: Iterable[ast.stmt], certain: bool) -> None:
        for node in body:
            match node:
                case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    self._bind(name, node, node, certain)
                case ast.Import() | ast.ImportFrom():
                    self._import(node, certain)
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        self._assign(target, value, certain)
                case ast.AnnAssign(target=target, value=ast.expr() as value):
                    self._assign(target, value, certain)
                case ast.If(test=test, body=then, orelse=otherwise):
                    decided = self._decided(test)
                    self._read(then if decided is not False else (), certain and decided is not None)
                    self._read(otherwise if decided is not True else (), certain and decided is not None)
                case _:
                    if isinstance(node, ast.AugAssign | ast.For):
                        self._assign(node.target, None, certain)
                    for item in node.items if isinstance(node, ast.With) else ():
                        self._assign(item.optional_vars, None, certain)
                    for block in _blocks(node):
                        self._read(block, certain and isinstance(node, ast.With))

    def _decided(self, test: ast.expr) -> bool | None:
        """Evaluates a condition that tests for type checking, for a script, or for Keras' backend."""
        match test:
            case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
                return self._lazy
            case ast.Compare(left=ast.Name(id="__name__"), ops=[ast.Eq()]):
                return False
            case ast.Compare(
                left=ast.Call(func=ast.Name(id="backend") | ast.Attribute(attr="backend")),
                ops=[ast.Eq()],
                comparators=[ast.Constant(value=name)],
            ):
                return bool(name == "tensorflow")
        return None

    def _import(self, node: ast.Import | ast.ImportFrom, certain: bool) -> None:
        for alias in node.names:
            if isinstance(node, ast.Import):
                path = alias.name if alias.asname else alias.name.partition(".")[0]
                self._bind(alias.asname or path, Import(0, path), node, certain)
            elif alias.name == "*":
                self.stars.append(Import(node.level, node.module or ""))
            elif node.module != "__future__":
                found = Import(node.level, node.module or "", alias.name)
                self._bind(alias.asname or alias.name, found, node, certain)

    def _assign(self, target: ast.expr | None, value: ast.expr | None, certain: bool) -> None:
        match target:
            case ast.Name(id=name):
                self._bind(name, value, target, certain)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                for part in parts:
                    self._assign(part, None, certain)
            case ast.Attribute(value=ast.Name(id=name), attr=changed) if (
                changed in _CHANGES or not changed.startswith("__")
            ):
                self._bind(name, None, target, certain)

    def _bind(self, name: str, value: _Bound, node: ast.stmt | ast.expr, certain: bool) -> None:
        self.bound.setdefault(name, []).append(Binding(value, node.lineno, certain))


def _blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    """Yields the lists of statements inside a loop, a `with`, a `try` or a `match`."""
    for part in ("body", "orelse", "finalbody"):
        yield getattr(node, part, [])
    for part in ("handlers", "cases"):
        yield from (inner.body for inner in getattr(node, part, []))
