"""The reference of public names: a page for each public module, from its docstrings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import looplab
from documentation.pages import NAMES
from looplab import PUBLIC, errors
from looplab.runs.terminal import quietly


class Undocumented(Exception):
    """A public name without a docstring."""


def pages() -> dict[str, str]:
    """Returns the text of each page, in reStructuredText, by its path on the site.

    Raises:
        Undocumented: With every public name that has no docstring.
    """
    with quietly():
        import tensorflow  # noqa: F401
    modules = {f"looplab.{name}": names.split() for name, names in PUBLIC.items()}
    documented = {id(getattr(importlib.import_module(m), name)) for m in modules for name in modules[m]}
    top = [
        name
        for name in looplab.__all__
        if not inspect.ismodule(own := getattr(looplab, name)) and id(own) not in documented
    ]
    modules = {"looplab": top, **modules}
    if missing := [each for module, names in modules.items() for each in undocumented(module, names)]:
        raise Undocumented(f"public names without a docstring: {', '.join(missing)}. Write one for each.")
    inside = {f"reference/{module}.rst": _page(module, names) for module, names in modules.items()}
    inside["reference/looplab.rst"] += _elsewhere(set(looplab.__all__) - set(top))
    return {NAMES: _index(list(inside)), **inside}


def undocumented(module: str, names: Sequence[str]) -> Iterator[str]:
    """Yields the names of a module, and of the methods of its classes, that have no docstring."""
    loaded = importlib.import_module(module)
    if not loaded.__doc__:
        yield module
    for name in names:
        found = getattr(loaded, name)
        if not vars(found).get("__doc__", found.__doc__ if not inspect.isclass(found) else None):
            yield f"{module}.{name}"
        if inspect.isclass(found):
            for method, own in _own_members(found):
                if not own.__doc__:
                    yield f"{module}.{name}.{method}"


def _own_members(found: type) -> Iterator[tuple[str, Any]]:
    """Yields the public methods and properties that a class has from looplab."""
    for name in dir(found):
        own = inspect.getattr_static(found, name)
        own = own.__func__ if isinstance(own, classmethod | staticmethod) else own
        if not name.startswith("_") and (inspect.isfunction(own) or isinstance(own, property)):
            function = own.fget if isinstance(own, property) else own
            if function is not None and function.__module__.startswith("looplab"):
                yield name, own


def _page(module: str, names: Sequence[str]) -> str:
    loaded = importlib.import_module(module)
    lines = [module, "=" * len(module), "", f".. automodule:: {module}", "   :no-members:", ""]
    for name in names:
        lines += [*_directive(loaded, name), ""]
    return "\n".join(lines)


def _elsewhere(names: set[str]) -> str:
    """Returns a list of the names that `looplab` has from its public modules, which document them."""
    items = [f"* :py:obj:`looplab.{name}`" for name in sorted(names)]
    return "\n".join(["", "These names are documented with their modules:", "", *items, ""])


def _directive(module: ModuleType, name: str) -> Iterator[str]:
    """Yields the lines that let Sphinx document a name."""
    found = getattr(module, name)
    if not inspect.isclass(found):
        yield f".. autofunction:: {module.__name__}.{name}"
        return
    kind = "exception" if issubclass(found, BaseException) else "class"
    yield f".. auto{kind}:: {module.__name__}.{name}"
    yield "   :members:"
    if all(_is_known(base) for base in found.__bases__):
        yield "   :show-inheritance:"
    # A method that comes from a class of Keras or Python is documented there.
    foreign = [base.__name__ for base in found.__mro__[1:] if not base.__module__.startswith("looplab")]
    yield f"   :inherited-members: {', '.join(foreign)}"


def _is_known(base: type) -> bool:
    """Whether a reader can look up a base class: looplab's internal ones say nothing to a user."""
    return base is not object and (
        not base.__module__.startswith("looplab") or base.__module__ == errors.__name__
    )


def _index(paths: Sequence[str]) -> str:
    title = "Public names"
    inside = [f"   /{path.removesuffix('.rst')}" for path in paths]
    text = (
        "A name that is documented here keeps its place and its meaning. All other names are internal and "
        "can change. ``looplab`` itself has the names that users need most."
    )
    return "\n".join(
        [title, "=" * len(title), "", text, "", ".. toctree::", "   :maxdepth: 1", "", *inside, ""]
    )
