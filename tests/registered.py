"""Every class and function that looplab marks for configurations."""

import importlib
import pkgutil
from functools import cache

import looplab
from looplab.targets import limits_of


@cache
def registered():
    """Returns them, found by importing all of looplab."""
    found = {}
    for module in pkgutil.walk_packages(looplab.__path__, "looplab."):
        if not module.name.endswith("__main__"):
            for value in vars(importlib.import_module(module.name)).values():
                own = str(getattr(value, "__module__", "")).startswith("looplab.")
                if (
                    own
                    and (isinstance(value, type) or hasattr(value, "__code__"))
                    and limits_of(value) is not None
                ):
                    found[f"{value.__module__}.{value.__qualname__}"] = value
    return list(found.values())
