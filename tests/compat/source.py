"""What looplab's source takes from other packages, found by reading it."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
# Modules that are private, though their names do not begin with an underscore.
_INNER = re.compile(r"tensorflow\.python(\.|$)|keras\.src(\.|$)")
_NAME = re.compile(r"_[A-Za-z]\w*")
# Documented names that begin with an underscore: of Python, and keys of Hydra.
_DOCUMENTED = {"_exit", "_replace"}
_DOCUMENTED |= {"_args_", "_convert_", "_partial_", "_recursive_", "_self_", "_target_"}
# Methods of `str` whose arguments are pieces of names.
_PIECES = {"endswith", "removeprefix", "removesuffix", "startswith"}


class Taken(NamedTuple):
    """A private name of another package.

    Attributes:
        line: Where it stands.
        name: The dotted name where the source tells it, else the name alone.
    """

    line: int
    name: str


def trees():
    """The parsed source of each module of looplab, by its name."""
    found = {}
    for path in sorted((ROOT / "looplab").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = ast.parse(path.read_text("utf-8"))
    return found


def members(tree):
    """The names of what the classes of a module have, and of what it sets on `self`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                match part:
                    case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                        found.add(name)
                    case ast.Assign(targets=targets):
                        found |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Attribute) and _is_stored(node) and _is_self(node.value):
            found.add(node.attr)
    return found


def taken(tree, own):
    """What a module takes that is private and not looplab's own.

    Args:
        tree: Of the module.
        own: The names of members of all of looplab's classes.
    """
    inner = {}  # private modules that are imported, by the name they have here
    for node in ast.walk(tree):
        for path, alias in _imported(node):
            if path.split(".")[0] == "looplab" or not _is_private(path):
                continue
            yield Taken(node.lineno, path)
            inner[alias] = path
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        whole = ast.unparse(node)
        if isinstance(node.value, ast.Name) and node.value.id in inner:
            yield Taken(node.lineno, f"{inner[node.value.id]}.{node.attr}")
        elif ".__internal__." in whole and whole.count(".") == 3:
            yield Taken(node.lineno, whole.replace("tf.", "tensorflow.", 1))
        elif _is_foreign(node.attr, own):
            yield Taken(node.lineno, node.attr)
    here = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and _is_stored(node)}
    for node in _strings(tree):
        if _is_foreign(node.value, own | here):
            yield Taken(node.lineno, node.value)


def assigned(tree, own):
    """The attributes that a module assigns, or puts, on objects of others' classes."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not _is_stored(node) or _is_self(node.value):
            continue
        if node.attr not in own and not node.attr.startswith("_looplab"):
            yield Taken(node.lineno, node.attr)


def words(tree):
    """All string constants of a module."""
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def _imported(node):
    """The dotted names that an import brings, with the names they get."""
    if isinstance(node, ast.Import):
        for each in node.names:
            yield each.name, each.asname or each.name
    elif isinstance(node, ast.ImportFrom) and not node.level and node.module != "__future__":
        for each in node.names:
            yield f"{node.module}.{each.name}", each.asname or each.name


def _is_foreign(name, own):
    known = name in own or name in _DOCUMENTED or name.startswith("_looplab")
    return bool(_NAME.fullmatch(name)) and not known


def _is_private(path):
    return bool(_INNER.match(path)) or any(part.startswith("_") for part in path.split("."))


def _is_stored(node):
    return isinstance(node.ctx, ast.Store | ast.Del)


def _is_self(node):
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _strings(tree):
    """String constants that may be names: not the pieces of longer texts."""
    pieces = set()
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr() | ast.BinOp():
                pieces |= {id(part) for part in ast.walk(node)}
            case ast.Call(func=ast.Attribute(attr=method), args=args) if method in _PIECES:
                pieces |= {id(part) for each in args for part in ast.walk(each)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in pieces:
            yield node
