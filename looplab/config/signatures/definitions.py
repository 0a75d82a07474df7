"""Finds the class or function of a dotted name in source files; imports nothing.

What a file decides only while it runs is unknown. Unknown is None, and looplab refuses nothing because of it.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from looplab.config.signatures.names import Binding, Function, Import, Names

# Signs that a module may have more names than its statements bind.
_DYNAMIC = re.compile(
    r"\b(globals|locals|vars)\(\)|\bexec\(|\bsetattr\((?!self\b)|\bsys\.modules\b|(?<!self)\.__dict__\b"
    r"|^def __getattr__\b|^[ \t]+global ",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Missing:
    """A name that does not exist.

    Attributes:
        inside: The module or class that lacks the name; empty if the module itself does not exist.
        name: The name.
        valid: The public names that `inside` has.
    """

    inside: str
    name: str
    valid: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Module:
    """A module; its file is read when it is first needed.

    Attributes:
        name: The dotted name.
        folders: The folders of its submodules, if it is a package.
        file: Its source file; None for a folder that is a package without one.
        readable: Whether it is written in Python.
    """

    name: str
    folders: tuple[str, ...]
    file: str | None
    readable: bool

    @cached_property
    def names(self) -> Names:
        """The names that its statements bind; none if it cannot be read."""
        return (_read(self.file, Path(self.file).stat().st_mtime_ns) if self.file else None) or Names(())

    @cached_property
    def dynamic(self) -> bool:
        """Whether it may have more names than these."""
        if self.file is None:
            return not self.readable
        broken = not self.names.bound and not self.names.stars
        return broken or bool(_DYNAMIC.search(Path(self.file).read_text(errors="replace")))

    def path_of(self, imported: Import) -> str:
        """Returns the absolute name of the module in one of its import statements."""
        if not imported.level:
            return imported.module
        parts = self.name.split(".")
        parts = parts[: len(parts) - imported.level + bool(self.folders)]
        return ".".join([*parts, imported.module] if imported.module else parts)

    def missing(self, name: str) -> Missing:
        """Returns that it has no such name, and which names it has."""
        files = [path for folder in self.folders for path in Path(folder).iterdir()]
        modules = {path.stem for path in files if path.suffix == ".py" or path.is_dir()}
        return Missing(self.name, name, _public(modules.union(self.names.own())))


@cache
def _read(file: str, changed: int) -> Names | None:
    """Reads a file; `changed` makes the cache read a changed file again. Returns None for a mistake in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about the file's style; an import will show them
        try:
            tree = ast.parse(Path(file).read_bytes())
        except (SyntaxError, ValueError):
            return None
    lazy = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)
    return Names(tree.body, lazy)


@dataclass(frozen=True)
class Scope:
    """The place of an expression: a module, and perhaps a class or a function in it."""

    module: Module = field(compare=False)
    prefix: str = ""
    names: Names | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Definition:
    """A `class` or `def` statement.

    Attributes:
        scope: The place of the statement.
        node: The statement.
    """

    scope: Scope
    node: ast.ClassDef | Function

    @property
    def path(self) -> str:
        """The module and the qualified name."""
        return f"{self.scope.module.name}.{self.scope.prefix}{self.node.name}"

    @property
    def names(self) -> Names:
        """The names that the statements of its body bind."""
        return _names(self.node)

    @property
    def inside(self) -> Scope:
        """The place of the statements of its body."""
        return Scope(self.scope.module, f"{self.scope.prefix}{self.node.name}.", self.names)


@cache
def _names(node: ast.ClassDef | Function) -> Names:
    return Names(node.body)


Value = Module | Definition | Missing | None


class Reader:
    """Resolves names through modules; one reader serves one question."""

    def __init__(self) -> None:
        self._following: set[tuple[str, str]] = set()

    def locate(self, path: str) -> Value:
        """Returns what a dotted path names, through imports and aliases; None if unknown."""
        first, *rest = path.split(".")
        if not all((first, *rest)):
            return None
        found: Value = _module(first)
        for name in rest:
            if isinstance(found, Missing):
                break
            found = self._attribute(found, name)
        return found

    def value(self, expression: ast.expr | None, scope: Scope, before: float = math.inf) -> Value:
        """Returns what an expression on a line names; None if unknown."""
        match expression:
            case ast.Name(id=name):
                return self._name(name, scope, before)
            case ast.Attribute(value=owner, attr=name):
                return self._attribute(self.value(owner, scope, before), name)
        return None

    def written(self, expression: ast.expr, scope: Scope) -> str:
        """Returns the absolute path of an expression, with the imports of its module resolved."""
        if isinstance(expression, ast.Attribute):
            return f"{self.written(expression.value, scope)}.{expression.attr}"
        if not isinstance(expression, ast.Name):
            return ""
        for names in (scope.names, scope.module.names):
            for binding in names.lookup(expression.id) if names else ():
                if not isinstance(binding.value, Import):
                    return f"{scope.module.name}.{expression.id}"
                module = scope.module.path_of(binding.value)
                return f"{module}.{binding.value.name}" if binding.value.name else module
        return expression.id

    def _attribute(self, owner: Value, name: str) -> Value:
        if isinstance(owner, Module):
            return self._of_module(owner, name)
        if not isinstance(owner, Definition) or not isinstance(owner.node, ast.ClassDef):
            return None
        if name in owner.names.bound:
            return self._bound(name, owner.inside, math.inf)
        inherited = owner.node.bases or owner.node.decorator_list or name.startswith("__")
        return None if inherited else Missing(owner.path, name, _public(owner.names.own()))

    def _of_module(self, module: Module, name: str) -> Value:
        key = (module.name, name)
        if key in self._following:  # a package that imports its own module, or a circle
            return _module(name, module) or None
        self._following.add(key)
        try:
            found = self._name(name, Scope(module), math.inf)
        finally:
            self._following.discard(key)
        if isinstance(found, Missing):
            found = _module(name, module)
        if isinstance(found, Missing):
            return None if module.dynamic or name.startswith("__") else module.missing(name)
        return found

    def _name(self, name: str, scope: Scope, before: float) -> Value:
        for inner in (scope, Scope(scope.module)):
            if name in (inner.names or scope.module.names).bound:
                return self._bound(name, inner, before)
        for star in reversed(scope.module.names.stars):
            module = _path(scope.module.path_of(star))
            if not isinstance(module, Module):
                return None
            if _exports(module, name):
                found = self._of_module(module, name)
                if not isinstance(found, Missing):
                    return found
        return Missing(scope.module.name, name)

    def _bound(self, name: str, scope: Scope, before: float) -> Value:
        names = scope.names or scope.module.names
        # A constant, or an import that fails, is the reason for the other branch of a condition.
        bindings = [b for b in names.lookup(name, before) if not isinstance(b.value, ast.Constant)]
        values = [self._followed(binding, scope) for binding in bindings]
        found = [value for value in values if not isinstance(value, Missing)]
        return found[0] if found and all(value == found[0] for value in found) else None

    def _followed(self, binding: Binding, scope: Scope) -> Value:
        match binding.value:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                return Definition(scope, binding.value)
            case ast.expr():
                return self.value(binding.value, scope, binding.line)
            case Import(name=name):
                module = _path(scope.module.path_of(binding.value))
                return self._of_module(module, name) if name and isinstance(module, Module) else module
        return None


def module_folders(name: str) -> tuple[str, ...]:
    """Returns the folders of a package, or the folder of a module's file; none if it does not exist."""
    try:
        found = _path(name)
    except (ImportError, ValueError):
        return ()
    if isinstance(found, Missing):
        return ()
    return found.folders or ((str(Path(found.file).parent),) if found.file else ())


def _path(path: str) -> Module | Missing:
    """Returns the module of a dotted name, as an import statement finds it."""
    first, *rest = path.split(".")
    found = _module(first)
    for name in rest:
        if isinstance(found, Missing):
            break
        found = _module(name, found)
    return found


def _module(name: str, package: Module | None = None) -> Module | Missing:
    """Finds a module by its file, in a package or at the top; loads nothing."""
    if package is None:
        spec = find_spec(name)  # without a dot in the name, this imports nothing
    else:
        spec = PathFinder.find_spec(name, package.folders)
    if spec is None:
        return Missing(package.name if package else "", name)
    folders = tuple(spec.submodule_search_locations or ())
    file = spec.origin if spec.origin and spec.origin.endswith(".py") else None
    return Module(f"{package.name}.{name}" if package else name, folders, file, bool(file or not spec.origin))


def _exports(module: Module, name: str) -> bool:
    """Returns whether `from module import *` imports a name."""
    match [binding.value for binding in module.names.lookup("__all__")]:
        case [ast.List(elts=listed) | ast.Tuple(elts=listed)]:
            return name in [each.value for each in listed if isinstance(each, ast.Constant)]
    return not name.startswith("_")


def _public(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if name.isidentifier() and not name.startswith("_")))
