"""Reads the arguments of a `def` statement: their names, and how `**kwargs` is used."""

from __future__ import annotations

import ast
from inspect import Parameter

from looplab.config.signatures.names import Function


def parameters(arguments: ast.arguments) -> list[Parameter]:
    """Returns the parameters in their order; every default is `...`."""
    positional = [*arguments.posonlyargs, *arguments.args]
    first_default = len(positional) - len(arguments.defaults)
    found = [
        parameter(
            own.arg,
            Parameter.POSITIONAL_ONLY
            if place < len(arguments.posonlyargs)
            else Parameter.POSITIONAL_OR_KEYWORD,
            optional=place >= first_default,
        )
        for place, own in enumerate(positional)
    ]
    if arguments.vararg:
        found.append(Parameter(arguments.vararg.arg, Parameter.VAR_POSITIONAL))
    for own, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append(parameter(own.arg, Parameter.KEYWORD_ONLY, optional=default is not None))
    if arguments.kwarg:
        found.append(Parameter(arguments.kwarg.arg, Parameter.VAR_KEYWORD))
    return found


def parameter(name: str, kind: object, optional: bool) -> Parameter:
    """Returns a parameter, with `...` for its default if it has one."""
    return Parameter(name, kind, default=... if optional else Parameter.empty)  # type: ignore[arg-type]


class Rest(ast.NodeVisitor):
    """The use of `**kwargs` in a function.

    Attributes:
        taken: The names that it removes from them, or adds to them, itself.
        calls: The calls of an `__init__` that get the rest.
        refused: Whether it raises if there is a rest.
        unclear: Whether it uses them in any other way.
    """

    def __init__(self, node: Function) -> None:
        self.taken: set[str] = set()
        self.calls: list[ast.Call] = []
        self.refused = False
        self.unclear = False
        self._name = node.args.kwarg.arg if node.args.kwarg else ""
        self._statements = node.body
        for statement in node.body:
            self.visit(statement)

    def visit_Name(self, node: ast.Name) -> None:
        """Visits a use that no other method handles."""
        self.unclear |= self._is_rest(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Visits `kwargs.pop("name")`, `kwargs.get("name")`, `super().__init__(**kwargs)`."""
        match node:
            case ast.Call(
                func=ast.Attribute(value=owner, attr=("pop" | "get" | "setdefault") as method),
                args=[ast.Constant(value=str(name)), *others],
            ) if self._is_rest(owner):
                self.taken |= {name} if method == "pop" else set()
                for other in others:
                    self.visit(other)
                return
            case ast.Call(func=ast.Attribute(attr="__init__")):
                handed = [k for k in node.keywords if k.arg is None and self._is_rest(k.value)]
                if handed:
                    self.calls.append(node)
                for part in (*node.args, *(k.value for k in node.keywords if k not in handed)):
                    self.visit(part)
                return
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Visits `"name" in kwargs`."""
        match node:
            case ast.Compare(left=ast.Constant(), ops=[ast.In() | ast.NotIn()], comparators=[where]) if (
                self._is_rest(where)
            ):
                return
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """Visits `kwargs["name"]`, read, set or deleted."""
        match node:
            case ast.Subscript(value=owner, slice=ast.Constant(value=str(name))) if self._is_rest(owner):
                if not isinstance(node.ctx, ast.Load):
                    self.taken.add(name)
                return
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        """Visits `if kwargs: raise ...`, and the test by which `keras.Model` finds inputs and outputs."""
        match node.test:
            case ast.Call(func=ast.Name(id="functional_init_arguments")):
                self.taken |= {"inputs", "outputs"}
            case test if self._is_rest(test) and any(isinstance(step, ast.Raise) for step in node.body):
                self.refused |= node in self._statements
            case _:
                return self.generic_visit(node)
        for statement in node.orelse:
            self.visit(statement)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Visits an inner function, whose own `**kwargs` may have the same name."""
        if node.args.kwarg is None or node.args.kwarg.arg != self._name:
            self.generic_visit(node)

    def _is_rest(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id == self._name
