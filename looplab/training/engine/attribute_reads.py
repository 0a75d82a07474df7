"""Records which attributes of a user's objects a step reads while it is traced.

While a step is traced, the classes of the watched objects have a `__getattribute__` that records reads; it is
removed as soon as the trace is made. A user's object in a watched attribute (a configuration, a schedule, a
list of loss terms) is watched from the moment it is read, so only what the step reads counts.
"""

from __future__ import annotations

import sysconfig
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from importlib import util
from pathlib import Path
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

Place = tuple[Any, ...]  # the name of a root, then attributes, and indices or keys in containers

TRAINER = ""  # the name of that root
ABSENT = object()
MANY = 10_000  # the most entries of a container that is searched
_PLACES, _DEEP = 4, 12  # the most places of an object, and steps of a place
_NO_RECORDS = (
    *(type, ModuleType, FunctionType, Enum, SimpleNamespace, np.ndarray, np.generic),
    *(tf.Variable, tf.Module, keras.Variable, keras.Layer, keras.optimizers.Optimizer),
)
# Bits of `type.__flags__`: the class was created at runtime, and its attributes cannot be set.
_HEAP, _IMMUTABLE = 1 << 9, 1 << 8
_lock = threading.RLock()
_open: list[AttributeReads] = []
_hooked: dict[type, tuple[int, Any]] = {}  # the number of watchers, and the own `__getattribute__`, if any


class AttributeReads:
    """Records reads of attributes of some objects, and of objects that they hold."""

    def __init__(self, roots: Mapping[str, Any], note: Callable[[Place], None]) -> None:
        """Watches nothing yet.

        Args:
            roots: Objects by name, or containers of them.
            note: Called with the place of each attribute just before it is read.
        """
        self._roots, self._note = roots, note
        self._places: dict[int, tuple[Any, dict[Place, None]]] = {}  # by id, the object and its places
        self._classes: list[type] = []
        self._walked = set[Place]()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Records reads within the block, in any thread."""
        with _lock:
            _open.append(self)
            for name, root in self._roots.items():
                if name != TRAINER:
                    self._watch_in((name,), root)
                else:  # the trainer, whatever its class
                    self._watch((name,), root)
        try:
            yield
        finally:
            with _lock:
                _open.remove(self)
                for kind in self._classes:
                    _unhook(kind)
                self._classes.clear()
                self._places.clear()
                self._walked.clear()

    def read(self, owner: Any, name: str) -> None:
        """Records that an attribute is about to be read."""
        watched = self._places.get(id(owner))
        for place in () if watched is None else [(*each, name) for each in watched[1]]:
            self._note(place)
            if place not in self._walked:
                self._walked.add(place)
                self._watch_in(place, held(owner, name))

    def _watch_in(self, place: Place, value: Any) -> None:
        for inner, one in _records_in(place, value):
            self._watch(inner, one)

    def _watch(self, place: Place, one: Any) -> None:
        places = self._places[id(one)][1] if id(one) in self._places else {}
        if len(places) < _PLACES and len(place) <= _DEEP:  # an object may hold itself
            places[place] = None
        with _lock:
            if id(one) not in self._places and _hook(type(one)):
                self._classes.append(type(one))
                self._places[id(one)] = one, places


def is_record(value: Any) -> bool:
    """Whether an object is of a user's class, or a loss or metric: its attributes count, not its identity."""
    if type(value).__flags__ & (_HEAP | _IMMUTABLE) != _HEAP or isinstance(value, _NO_RECORDS):
        return False
    return isinstance(value, keras.losses.Loss | keras.Metric) or _is_own_code(type(value).__module__)


def held(owner: Any, name: str) -> Any:
    """Returns the value of an object or its class under a name, without a call; `ABSENT` if there is none."""
    try:
        own = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        own = {}
    if name in own:
        return own[name]
    for kind in type(owner).__mro__:
        if name in vars(kind):
            found = vars(kind)[name]
            if isinstance(found, MemberDescriptorType):
                try:
                    return found.__get__(owner, type(owner))
                except AttributeError:
                    return ABSENT
            return found
    return ABSENT


def at(roots: Mapping[str, Any], place: Place) -> Any:
    """Returns the value at a place; `ABSENT` if there is none (any more)."""
    found = roots.get(place[0], ABSENT)
    for step in place[1:]:
        if found is ABSENT:
            return ABSENT
        found = held(found, step) if isinstance(step, str) else step.of(found)
    return found


@dataclass(frozen=True)
class Entry:
    """The place of an object in a container: a step of a `Place`, like the names of attributes.

    Attributes:
        attribute: The attribute of the container that is or has the object; None for the container itself.
        key: The key of the object in it; None if it is the object.
    """

    attribute: str | None = None
    key: Any = None

    def __str__(self) -> str:
        """Returns the step as Python code."""
        if self.attribute == "__dict__":
            return f".{self.key}"
        own = "" if self.attribute is None else f".{self.attribute}"
        return own if self.key is None else f"{own}[{self.key!r}]"

    def of(self, container: Any) -> Any:
        """Returns the object; `ABSENT` if there is none."""
        try:
            whole = container if self.attribute is None else getattr(container, self.attribute)
            return whole if self.key is None else whole[self.key]
        except (LookupError, AttributeError, TypeError):
            return ABSENT


def words(place: Place) -> str:
    """Returns a place as Python code: for a root `purpose:name` with the name, for the trainer without."""
    root, *steps = place
    text = "".join(str(step) if isinstance(step, Entry) else f".{step}" for step in steps)
    return f"{root.rpartition(':')[2]}{text}".removeprefix(".")


def class_attributes(owner: Any, methods: Iterable[str]) -> set[str]:
    """Returns the class attributes that methods may read through the class: `type(self).beta`.

    No object records such a read, so the names in the methods' code decide.

    Args:
        owner: The object of the methods.
        methods: Their names; other methods are left out.
    """
    functions = [held(owner, name) for name in methods]
    names = {name for each in functions if isinstance(each, FunctionType) for name in _names(each.__code__)}
    kinds = [kind for kind in type(owner).__mro__ if _is_own_code(kind.__module__)]
    values = {name for kind in kinds for name, value in vars(kind).items() if not hasattr(value, "__get__")}
    return {name for name in names & values if not name.startswith("__")}


def _names(code: CodeType) -> set[str]:
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def is_namespace(value: Any) -> bool:
    """Whether an object consists only of its attributes."""
    kind = type(value)
    return isinstance(value, SimpleNamespace) or f"{kind.__module__}.{kind.__name__}" == "argparse.Namespace"


def _records_in(place: Place, value: Any) -> Iterator[tuple[Place, Any]]:
    """Yields the objects to watch that a value is or holds, also in nested containers."""
    if is_record(value):
        yield place, value
    elif len(place) <= _DEEP:
        for entry, one in _entries(value):
            yield from _records_in((*place, entry), one)


def _entries(value: Any) -> Iterator[tuple[Entry, Any]]:
    if isinstance(value, MethodType):
        yield Entry("__self__"), value.__self__
    elif isinstance(value, partial):
        yield Entry("func"), value.func
        yield from ((Entry("args", index), one) for index, one in enumerate(value.args))
        yield from ((Entry("keywords", name), one) for name, one in value.keywords.items())
    elif is_namespace(value):
        yield from ((Entry("__dict__", name), one) for name, one in vars(value).items())
    elif isinstance(value, list | tuple | deque) and len(value) <= MANY:
        yield from ((Entry(key=index), one) for index, one in enumerate(value))
    elif isinstance(value, Mapping) and len(value) <= MANY:
        yield from ((Entry(key=key), one) for key, one in value.items() if key is not None)


def _hook(kind: type) -> bool:
    """Makes a class record reads; returns False if it does not permit it."""
    count, own = _hooked.get(kind, (0, vars(kind).get("__getattribute__")))
    if not count:
        try:
            before: Any = kind.__getattribute__
            type.__setattr__(kind, "__getattribute__", _noting(before))
        except TypeError:
            return False
    _hooked[kind] = count + 1, own
    return True


def _unhook(kind: type) -> None:
    count, own = _hooked[kind]
    if count > 1:
        _hooked[kind] = count - 1, own
        return
    del _hooked[kind]
    if own is None:
        type.__delattr__(kind, "__getattribute__")
    else:
        type.__setattr__(kind, "__getattribute__", own)


def _noting(before: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    def noting(owner: Any, name: str) -> Any:
        if not name.startswith("__"):
            for reads in list(_open):
                reads.read(owner, name)
        return before(owner, name)

    return noting


@cache
def _is_own_code(module: str) -> bool:
    """Whether a module is the user's: not TensorFlow's or looplab's, and not installed."""
    root = module.partition(".")[0]
    if root == "__main__":
        return True
    if root in ("builtins", "looplab", "tensorflow", "keras", "numpy"):
        return module.startswith("looplab.examples")
    try:
        spec = util.find_spec(root)
    except (ImportError, ValueError):
        return True  # created by hand, as in a notebook
    if spec is None:
        return True
    if spec.origin in (None, "built-in", "frozen"):
        return spec.origin is None
    paths = {
        Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    where = Path(str(spec.origin)).resolve()
    return not any(where.is_relative_to(path) for path in paths)
