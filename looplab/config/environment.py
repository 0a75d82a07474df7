"""Treats values of environment variables as secrets, since a configuration file may choose the variable.

While a configuration is resolved, a mark stands for each value. So looplab knows that a text contains one
after any number of interpolations, and no message contains the value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import Node, OmegaConf
from omegaconf.resolvers import oc

from looplab.secret import Secret

SHOWN = (
    "the value of an environment variable is a secret, but this value is shown, stored or sent. Give it on "
    "the command line, or to the trainer in Python."
)
_BEGIN, _END = "\ue0e0", "\ue0e1"  # private-use characters, which no configuration contains
_MARK = re.compile(f"{_BEGIN}([^{_END}]*){_END}")


class FromEnvironment(Secret):
    """A text that contains the value of an environment variable."""

    __slots__ = ()


@contextmanager
def marked() -> Iterator[None]:
    """Makes `${oc.env:NAME}` return a mark within the block, which `unmarked` replaces."""
    OmegaConf.register_new_resolver("oc.env", _env, replace=True)
    OmegaConf.register_new_resolver("oc.decode", _decode, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
        OmegaConf.register_new_resolver("oc.decode", oc.decode, replace=True)


def unmarked(value: Any) -> Any:
    """Returns a value with the variables' values in place of their marks: a text as `FromEnvironment`."""
    if not isinstance(value, str) or not _MARK.search(value):
        return value
    return FromEnvironment(_plain(value))


def told(value: Any) -> Any:
    """Returns a message with `${oc.env:NAME}` in place of each mark, and any other value unchanged."""
    return _MARK.sub(lambda found: f"${{oc.env:{found[1]}}}", value) if isinstance(value, str) else value


def texts_in(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yields the texts of an argument with their keys, but not those of targets in it."""
    if isinstance(value, dict):
        for name, each in value.items() if "_target_" not in value else ():
            yield from texts_in(each, f"{key}.{name}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from texts_in(each, f"{key}[{index}]")
    elif isinstance(value, str):
        yield value, key


def _plain(text: str) -> str:
    return _MARK.sub(lambda found: os.environ[found[1]], text)


def _env(key: str, *default: str | None) -> str | None:
    name = _plain(str(key))
    if name in os.environ:
        return f"{_BEGIN}{name}{_END}"
    if name != str(key) and not default:
        raise KeyError("another variable refers to one that is not set")
    found: str | None = oc.env(name, *default)  # returns the default, or raises
    return found


def _decode(expr: str | None, _parent_: Any, _node_: Node) -> Any:
    """Decodes like OmegaConf; the resulting number or truth value is no longer a secret."""
    if expr is None or not _MARK.search(expr):
        return oc.decode(expr, _parent_, _node_)
    try:
        found = oc.decode(_plain(expr), _parent_, _node_)
    except Exception:  # its message would contain the value
        raise ValueError("the value of an environment variable cannot be decoded") from None
    return found if isinstance(found, bool | int | float | None) else expr
