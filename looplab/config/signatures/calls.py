"""Finds the arguments that the class or function with a dotted path takes."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from inspect import Parameter, Signature
from operator import or_

from looplab.config.signatures.arguments import Rest, parameter, parameters
from looplab.config.signatures.classes import (
    PLAIN,
    Order,
    dataclass_options,
    fields,
    is_as_written,
    limits,
    linearize,
    written,
)
from looplab.config.signatures.definitions import Definition, Missing, Reader, Scope
from looplab.config.signatures.names import Function
from looplab.targets import Limits

_NONE = Limits()


@dataclass(frozen=True)
class Found:
    """The class or function that a target names.

    Attributes:
        path: The place of its definition: the module and the qualified name.
        kind: `class` or `function`.
        signature: The arguments of a call, without `self`. Arguments that `**kwargs` passes to a base class
            are listed by name; `**kwargs` itself is listed only if it may take anything. A default is `...`.
        ancestors: The paths of a class's bases at all levels, nearest first, as far as they can be read.
        limits: Its own limits and those of its bases.
        is_marked: Whether it is itself marked with `looplab.configurable`.
    """

    path: str
    kind: str
    signature: Signature
    ancestors: tuple[str, ...] = ()
    limits: Limits = _NONE
    is_marked: bool = False


def find(target: str) -> Found | Missing | None:
    """Reads what a dotted path names and which arguments it takes, as an import would find it on `sys.path`.

    Args:
        target: A path such as `keras.optimizers.Adam` or `mine.Net`.

    Returns:
        What was found; or the first name of the path that does not exist; or None if the source does not
        tell: it is made at run time, written in C, changed by a decorator, or has a mistake.
    """
    try:
        reader = Reader()
        found = reader.locate(target)
        if isinstance(found, Missing):
            return found
        if not isinstance(found, Definition) or not is_as_written(reader, found):
            return None
        if isinstance(found.node, ast.ClassDef):
            return _of_class(reader, found)
        own = limits(reader, found)
        signature = Signature(_of_function(reader, found, found.node))
        return Found(found.path, "function", signature, (), own or Limits(), own is not None)
    except Exception:  # an import of such a file gives a better error message
        return None


def _of_function(reader: Reader, found: Definition, node: Function) -> list[Parameter]:
    own = parameters(node.args)
    if any(written(reader, each, found.scope) == "classmethod" for each in node.decorator_list):
        own = own[1:]
    rest = Rest(node)
    closed = node.args.kwarg is not None and rest.refused and not rest.unclear
    return _merged(_closed(own), _optional(rest.taken)) if closed else own


def _of_class(reader: Reader, found: Definition) -> Found | None:
    order = linearize(reader, found)
    read = [base for base in order if isinstance(base, Definition)]
    if not all(is_as_written(reader, base) for base in read):
        return None
    new = [base for base in read if "__new__" in base.names.bound]
    taken = _Inits(reader, order).taken()
    if taken is None or (new and not taken) or not all(_new_takes_anything(base) for base in new):
        return None
    paths = tuple(base if isinstance(base, str) else base.path for base in order[1:])
    marks = [limits(reader, base) for base in read]
    merged = reduce(or_, (mark for mark in marks if mark is not None), Limits())
    ancestors = tuple(path for path in paths if path)
    return Found(found.path, "class", Signature(taken), ancestors, merged, marks[0] is not None)


class _Inits:
    """The arguments of a class's `__init__` methods, each of which may pass some to the next.

    Args:
        reader: Resolves names.
        order: The class and its bases, from `linearize`.
    """

    def __init__(self, reader: Reader, order: Order) -> None:
        self._reader = reader
        self._order = list(order)

    def taken(self, start: int = 0) -> list[Parameter] | None:
        """Returns the arguments of the first `__init__` from a place on, without self; None if unknown."""
        for place, base in enumerate(self._order[start:], start):
            if isinstance(base, str):
                if base not in PLAIN:
                    return None
                continue
            if "__init__" in base.names.bound:
                node = _method(base, "__init__")
                if node is None or not is_as_written(self._reader, Definition(base.inside, node)):
                    return None
                return self._own(place, base, node)
            options = dataclass_options(self._reader, base)
            if options is not None and options.get("init", True):
                return fields(self._reader, linearize(self._reader, base))
        return []

    def _own(self, place: int, base: Definition, node: Function) -> list[Parameter] | None:
        first, *own = parameters(node.args)
        if first.kind is Parameter.VAR_POSITIONAL:
            return None
        rest = Rest(node)
        if node.args.kwarg is None or rest.unclear or not (rest.refused or rest.calls):
            return own
        if rest.refused:
            return _merged(_closed(own), _optional(rest.taken))
        scope = Definition(base.inside, node).inside
        handed = [self._handed(call, place, node, scope) for call in rest.calls]
        extra = [each for taken in handed for each in taken or ()]
        if None in handed:
            return own
        always = any(isinstance(step, ast.Expr) and step.value is rest.calls[0] for step in node.body)
        if len(handed) > 1 or not always:
            extra = [each if _is_variable(each) else each.replace(default=...) for each in extra]
        if not any(each.kind is Parameter.VAR_KEYWORD for each in extra):
            own = _closed(own)
        starred = any(isinstance(each, ast.Starred) for each in rest.calls[0].args)
        if starred and always and len(handed) == 1 and own and own[0].kind is Parameter.VAR_POSITIONAL:
            own = own[1:]  # the base class names the arguments for which it stands
        else:
            extra = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in extra if not _is_variable(each)]
        return _merged(own, [*_optional(rest.taken), *extra])

    def _handed(self, call: ast.Call, place: int, node: Function, scope: Scope) -> list[Parameter] | None:
        """Returns the arguments of a called `__init__` without those that the call gives; None if unknown."""
        assert isinstance(call.func, ast.Attribute)
        given, after = call.args, 0
        match call.func.value:
            case ast.Call(func=ast.Name(id="super"), args=[]):
                found: object = self._order[place]
                after = 1
            case ast.Call(func=ast.Name(id="super"), args=[own, _]):
                found = self._reader.value(own, scope)
                after = 1
            case base:
                found, given = self._reader.value(base, scope), given[1:]
        if found not in self._order:
            return None
        taken = self.taken(self._order.index(found) + after)
        own_star = node.args.vararg.arg if node.args.vararg else ""
        starred = [each.value for each in given if isinstance(each, ast.Starred)]
        if taken is None or any(not (isinstance(s, ast.Name) and s.id == own_star) for s in starred):
            return None
        positional = [each.name for each in taken if each.kind <= Parameter.POSITIONAL_OR_KEYWORD]
        gone = {*positional[: len(given) - len(starred)], *(keyword.arg for keyword in call.keywords)}
        return [each for each in taken if each.name not in gone]


def _method(base: Definition, name: str) -> Function | None:
    bindings = base.names.lookup(name)
    value = bindings[0].value if len(bindings) == 1 else None
    return value if isinstance(value, ast.FunctionDef) else None


def _new_takes_anything(base: Definition) -> bool:
    node = _method(base, "__new__")
    kinds = [each.kind for each in parameters(node.args)[1:]] if node else []
    return kinds == [Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD]


def _is_variable(each: Parameter) -> bool:
    return each.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def _closed(own: Iterable[Parameter]) -> list[Parameter]:
    return [each for each in own if each.kind is not Parameter.VAR_KEYWORD]


def _optional(names: Iterable[str]) -> list[Parameter]:
    return [parameter(name, Parameter.KEYWORD_ONLY, optional=True) for name in sorted(names)]


def _merged(own: Iterable[Parameter], more: Iterable[Parameter]) -> list[Parameter]:
    """Returns both in the order that a signature needs; the first one wins if two have the same name."""
    found: dict[object, Parameter] = {}
    for each in (*own, *more):
        found.setdefault(each.kind if _is_variable(each) else each.name, each)
    return sorted(found.values(), key=lambda each: each.kind)
