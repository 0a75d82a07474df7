"""The registry has every private name of another package that looplab takes, and all that it replaces."""

import ast
import re

import pytest

from looplab.compat.patches import are_on
from looplab.compat.registry import PRIVATE_USES
from tests.compat.source import ROOT, assigned, members, taken, trees, words

TREES = trees()
OWN = set().union(*map(members, TREES.values()))
USED = {(module, name) for use in PRIVATE_USES for module in use.modules for name in use.names}
DOTTED = {(m, f"{use.owner}.{name}") for use in PRIVATE_USES for m in use.modules for name in use.names}
OWNERS = {(module, use.owner) for use in PRIVATE_USES for module in use.modules}
PATCHES = [use for use in PRIVATE_USES if use.without]
# Public attributes of others' objects that looplab sets: they are documented to be set, or are of Python.
SETTINGS = {
    *("append", "atexit", "cfg", "dir", "enabled", "inject_prefetch", "output_dir", "propagate", "stack"),
    *("stderr", "stdout", "stop_training", "synchronized", "trainable", "unraisablehook", "wall_time"),
    "__cause__",
}


def test_what_is_taken_stands_in_the_registry():
    known = USED | DOTTED | OWNERS
    unknown = [
        (module, each.line, each.name)
        for module, tree in TREES.items()
        for each in taken(tree, OWN)
        if (module, each.name) not in known and not module.startswith("looplab.compat.")
    ]
    assert not unknown, "give each an entry in looplab/compat/registry.py"


def test_what_is_put_on_objects_of_others_goes_through_patches():
    """Only private names that are no patches are assigned in other ways: nobody calls what stands there."""
    data = {(m, name) for use in PRIVATE_USES if not use.without for m in use.modules for name in use.names}
    loose = [
        (module, each.line, each.name)
        for module, tree in TREES.items()
        for each in assigned(tree, OWN)
        if each.name not in SETTINGS and (module, each.name) not in data
    ]
    assert not loose, "put it there by looplab.compat.patches.patch, with an entry in the registry"


def test_nothing_is_patched_with_test_tools():
    assert not [module for module, tree in TREES.items() if "unittest" in ast.unparse(tree)]


@pytest.mark.parametrize("use", PRIVATE_USES, ids=lambda use: f"{use.owner}.{use.names[0]}")
def test_an_entry_is_still_used_and_has_a_test(use):
    for module in use.modules:
        source = ast.unparse(TREES[module]) + path(module).read_text("utf-8")
        for name in use.names:
            assert re.search(rf"(?<!\w){re.escape(name)}", source), f"{module} no longer uses {name}"
    file, _, test = use.test.partition("::")
    names = {node.name for node in ast.parse((ROOT / file).read_text("utf-8")).body if hasattr(node, "name")}
    assert test in names, f"{file} has no {test}"
    assert use.why.endswith(".") and list(use.modules) == sorted(use.modules)


@pytest.mark.parametrize("use", PATCHES, ids=lambda use: f"{use.owner}.{use.names[0]}")
def test_a_patch_is_applied_under_its_dotted_name(use):
    for module in use.modules:
        for name in use.names:
            assert f"{use.owner}.{name}" in words(TREES[module]), f"{module} does not patch {name}"


def test_no_name_has_two_entries():
    names = [(use.owner, name) for use in PRIVATE_USES for name in use.names]
    assert len(names) == len(set(names))


def test_patches_are_on_where_the_tests_run():
    assert are_on()


def path(module):
    file = ROOT.joinpath(*module.split("."))
    return file / "__init__.py" if file.is_dir() else file.with_suffix(".py")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import tensorflow.python.ops", "tensorflow.python.ops"),
        ("from keras.src import backend", "keras.src.backend"),
        ("from keras.src import backend\nbackend.x()", "keras.src.backend.x"),
        ("from hydra._internal.utils import run", "hydra._internal.utils.run"),
        ("from other import _inner", "other._inner"),
        ("tf.__internal__.dispatch.patch()", "tensorflow.__internal__.dispatch.patch"),
        ("model._layers", "_layers"),
        ("threading._shutdown()", "_shutdown"),
        ("optimizer._lr = 3", "_lr"),
        ("def f(self):\n    return self._jit", "_jit"),
        ("getattr(layer, '_mask', None)", "_mask"),
        ("vars(layer)['_mask']", "_mask"),
        ("NAMES = ('_one', '_two')", "_two"),
    ],
)
def test_a_name_that_is_taken_is_found(source, name):
    assert name in [each.name for each in taken(ast.parse(source), OWN)]


def test_what_is_looplabs_own_or_documented_is_not_found():
    source = """
from __future__ import annotations
import os
from looplab.metrics import _log

class Own:
    _kept: int = 0

    def __init__(self):
        self._value = self._kept

def f(own, step):
    os._exit(own._value)
    return step._replace(name=own.name.removesuffix("_steps") + "_total", key=f"{own}_rate")
"""
    tree = ast.parse(source)
    assert list(taken(tree, members(tree))) == []
    assert [each.name for each in assigned(ast.parse("layer.call = f\nself.x = 1"), set())] == ["call"]
