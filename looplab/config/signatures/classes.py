"""Reads a `class` statement: the order of its bases, its decorators, its fields if it is a dataclass."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from inspect import Parameter

from looplab.config.signatures.arguments import parameter
from looplab.config.signatures.definitions import Definition, Reader, Scope
from looplab.targets import Limits

# Base classes without an `__init__` that need not be read, or cannot be.
PLAIN = {
    "abc.ABC",
    "object",
    "tensorflow.__internal__.tracking.AutoTrackable",
    "typing.Generic",
    "typing.Protocol",
}
# The decorator that marks a function or class for configurations; see `looplab.targets`.
_CONFIGURABLE = ("looplab.configurable", "looplab.targets.configurable")
# Decorators that do not change the arguments; those of Keras are known by their last name.
_HARMLESS = {
    *_CONFIGURABLE,
    "abc.abstractmethod",
    "classmethod",
    "dataclasses.dataclass",
    "functools.cache",
    "functools.lru_cache",
    "functools.total_ordering",
    "functools.wraps",
    "staticmethod",
    "tensorflow.function",
    "typing.final",
    "typing.runtime_checkable",
}
_HARMLESS_OF_KERAS = {
    "filter_traceback",
    "keras_export",
    "no_automatic_dependency_tracking",
    "register_keras_serializable",
}
_MARK = re.compile(r"['\"]?(?:\w+\.)*(ClassVar|KW_ONLY)\b")

# The classes in which Python looks for attributes, in order; a path stands for a base that is not read.
Order = Sequence[Definition | str]


def written(reader: Reader, expression: ast.expr, scope: Scope) -> str:
    """Returns the absolute path of a decorator or a base, without its arguments."""
    match expression:
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return reader.written(inner, scope)
    return reader.written(expression, scope)


def is_as_written(reader: Reader, found: Definition) -> bool:
    """Returns whether no decorator and no metaclass can change the arguments of a class or function."""
    for decorator in found.node.decorator_list:
        path = written(reader, decorator, found.scope)
        root, last = path.split(".")[0], path.split(".")[-1]
        if path not in _HARMLESS and not (root in ("keras", "tensorflow") and last in _HARMLESS_OF_KERAS):
            return False
    keywords = found.node.keywords if isinstance(found.node, ast.ClassDef) else []
    metaclasses = [written(reader, k.value, found.scope) for k in keywords if k.arg == "metaclass"]
    return all(path == "abc.ABCMeta" for path in metaclasses)


def limits(reader: Reader, found: Definition) -> Limits | None:
    """Returns the limits in the decorator `looplab.configurable` of a class or a function; None without it.

    Raises:
        ValueError: If its arguments are not literal tuples of names.
    """
    for decorator in found.node.decorator_list:
        if written(reader, decorator, found.scope) in _CONFIGURABLE:
            keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
            return Limits(**{str(k.arg): frozenset(ast.literal_eval(k.value)) for k in keywords})
    return None


def linearize(reader: Reader, found: Definition) -> Order:
    """Returns a class and its bases in Python's order (C3)."""
    lists: list[list[Definition | str]] = []
    for expression in found.node.bases if isinstance(found.node, ast.ClassDef) else ():
        named = expression.value if isinstance(expression, ast.Subscript) else expression
        path = written(reader, named, found.scope)
        base = None if path in PLAIN else reader.value(named, found.scope, found.node.lineno)
        if isinstance(base, Definition) and isinstance(base.node, ast.ClassDef):
            lists.append([*linearize(reader, base)])
        elif path != "object":
            lists.append([path])
    lists.append([each[0] for each in lists])
    order: list[Definition | str] = [found]
    while lists := [each for each in lists if each]:
        later = [base for each in lists for base in each[1:]]
        head = next(each[0] for each in lists if each[0] not in later)
        order.append(head)
        lists = [[base for base in each if base != head] for each in lists]
    return order


def dataclass_options(reader: Reader, found: Definition) -> dict[str, bool] | None:
    """Returns the options of a `@dataclass` decorator, or None if the class has none."""
    for decorator in found.node.decorator_list:
        if written(reader, decorator, found.scope) == "dataclasses.dataclass":
            return _options(decorator)
    return None


def fields(reader: Reader, order: Order) -> list[Parameter] | None:
    """Returns the arguments of a dataclass's `__init__`; None if a base is unknown."""
    found: dict[str, Parameter | None] = {}
    for base in reversed(order):
        if isinstance(base, str):
            if base not in PLAIN:
                return None
            continue
        options = dataclass_options(reader, base)
        if options is not None:
            found.update(_own_fields(reader, base, options.get("kw_only", False)))
    return sorted((each for each in found.values() if each), key=lambda each: each.kind)


def _own_fields(reader: Reader, found: Definition, keyword_only: bool) -> dict[str, Parameter | None]:
    own: dict[str, Parameter | None] = {}
    assert isinstance(found.node, ast.ClassDef)
    for statement in found.node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        mark = _MARK.match(ast.unparse(statement.annotation))
        if mark is not None:
            keyword_only |= mark[1] == "KW_ONLY"
            continue
        name, value = statement.target.id, statement.value
        optional, options = value is not None, dict[str, bool]()
        if isinstance(value, ast.Call) and written(reader, value, found.inside) == "dataclasses.field":
            options = _options(value)
            optional = any(keyword.arg in ("default", "default_factory") for keyword in value.keywords)
        only = options.get("kw_only", keyword_only)
        kind = Parameter.KEYWORD_ONLY if only else Parameter.POSITIONAL_OR_KEYWORD
        own[name] = parameter(name, kind, optional) if options.get("init", True) else None
    return own


def _options(call: ast.expr) -> dict[str, bool]:
    """Returns the constants among the keyword arguments of a call."""
    keywords = call.keywords if isinstance(call, ast.Call) else []
    return {k.arg: bool(k.value.value) for k in keywords if k.arg and isinstance(k.value, ast.Constant)}
