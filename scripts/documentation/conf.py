"""The settings of Sphinx, and how it reads the docstrings of looplab."""

from __future__ import annotations

import builtins
import operator
import pydoc
import re
import sys
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.domains.python import PyXRefRole
from sphinx.util import inspect

import looplab
from looplab import errors

project = "looplab"
copyright = "the authors of looplab, Apache License 2.0"
version = release = looplab.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = f"looplab {version}"
html_copy_source = False
html_show_sourcelink = False

# A reference that leads nowhere is a warning, and a warning fails the build. Names of other packages have no
# page here; `_elsewhere` looks up names of looplab.
nitpicky = True
nitpick_ignore_regex = [(r"py:(?!exc).*", r"(?!looplab\.).*")]
myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]

default_role = "docstring"  # single backticks, see `_name_or_code`
autoclass_content = "both"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

_reference = PyXRefRole()
_NAME = re.compile(r"[A-Za-z_][\w.]*")


def _name_or_code(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = ()
) -> Any:
    """Reads single backticks in a docstring: a name leads to its page if it has one, all else is code."""
    if _NAME.fullmatch(text):
        return _reference("py:obj", rawtext, text, lineno, inliner)
    code = nodes.literal(rawtext, rawtext[1:-1])
    return [code], []


def _elsewhere(app: Any, env: Any, node: addnodes.pending_xref, text: nodes.Element) -> nodes.Node | None:
    """Finds what Sphinx does not: other paths of a public name, and names that exist but have no page."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    if node["reftype"] == "exc" and not target.startswith("looplab."):  # in a section "Raises"
        known = "." in target or hasattr(builtins, target) or hasattr(errors, target)
        found = getattr(errors, target, None)
    elif target.startswith("looplab."):
        found = _object(target)
        known = found is not None
    else:
        return None
    defined = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    page = env.domains.python_domain.resolve_xref(
        env, node["refdoc"], app.builder, "obj", defined, node, text
    )
    return page or (text if known else None)


def _as_google(app: Any, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Prepares a docstring for napoleon and for reStructuredText.

    napoleon takes the words before a colon for a type, but in looplab types are in the signature.
    """
    begins = [0] if what in ("attribute", "property") else []
    begins += [number + 1 for number, line in enumerate(lines) if line.strip() in ("Returns:", "Yields:")]
    for number in begins:
        if number < len(lines):
            text = lines[number].lstrip()
            lines[number] = f"{lines[number][: -len(text) or None]}:{text}"
    for number in reversed(range(2, len(lines))):  # an indented block is code, as in Markdown
        before = [line for line in lines[:number] if line]
        begins_block = lines[number].startswith("    ") and not lines[number - 1]
        if begins_block and before and not before[-1].startswith(" "):
            lines[number:number] = ["::", ""]
    # reStructuredText wants a space after a closing backtick, as in "`Logger`s"; this one is not shown.
    lines[:] = [re.sub(r"(?<=[\w)\]}\"'])`(?=[a-z])", r"`\\ ", line) for line in lines]


def _signature_of_init(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None] | None:
    """Shows the arguments of `__init__` where a class has a `__new__` that takes any."""
    if what != "class" or not signature or not signature.startswith("(*args"):
        return None
    own = inspect.signature(obj.__init__, bound_method=True)
    shown = inspect.stringify_signature(own, show_return_annotation=False, unqualified_typehints=True)
    return shown, returned


def _object(name: str) -> object | None:
    """Returns what has a dotted name, or None. A module can have the name of a function beside it."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if module := sys.modules.get(".".join(parts[:length])):
            try:
                return (
                    operator.attrgetter(".".join(parts[length:]))(module) if length < len(parts) else module
                )
            except AttributeError:
                continue
    return pydoc.locate(name)


def setup(app: Any) -> None:
    """Connects what is above to Sphinx."""
    app.add_role("docstring", _name_or_code)
    app.connect("autodoc-process-signature", _signature_of_init)
    app.connect("missing-reference", _elsewhere)
    app.connect("autodoc-process-docstring", _as_google, priority=400)  # before napoleon
