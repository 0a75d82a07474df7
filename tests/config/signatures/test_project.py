"""What is read of a project's own modules, one for each way of writing them."""

import inspect
import textwrap

import pytest

import looplab
from looplab.config.signatures import Found, Missing, find
from tests.process import write

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def is_open(found):
    return any(each.kind is each.VAR_KEYWORD for each in found.signature.parameters.values())


def names(found):
    return [each.name for each in found.signature.parameters.values() if each.kind in NAMED]


PROJECT = {
    "mine/__init__.py": """
        from .nets import Net as Network, make
        from .nets import *
        from mine.inner import inner
        Alias = Network
        if True:
            from .nets import Outer
        try:
            from .fast import Chosen
        except ImportError:
            from .nets import Net as Chosen
        try:
            from missing_package import Maybe
        except ImportError:
            Maybe = None
        NUMBER = 3
        Partial = make(3)
    """,
    "mine/nets.py": """
        import abc
        import dataclasses as d
        import enum
        import functools
        import keras
        import looplab
        from keras import layers as L
        from typing import ClassVar, Generic, TypeVar
        from . import other
        T = TypeVar("T")
        __all__ = ["Net", "Listed", "Old"]

        class Net(keras.Model):
            def __init__(self, units=8, **kwargs):
                super().__init__(**kwargs)

        class Listed: pass
        class Unlisted: pass

        class Old(L.Layer):
            def __init__(self, a, name="old", **kw):
                L.Layer.__init__(self, name=name, **kw)

        class Closed(keras.layers.Layer):
            def __init__(self, units):
                super(Closed, self).__init__()

        class Mine(looplab.Trainer):
            def __init__(self, *args, fail=False, **kwargs):
                super().__init__(*args, **kwargs)

        class Open(keras.Model):
            def __init__(self, **kwargs):
                self.settings = kwargs
                super().__init__()

        class Popped(keras.Model):
            def __init__(self, **kwargs):
                self.units = kwargs.pop("units", 3)
                super().__init__(**kwargs)

        class Anything(keras.Model):
            def __init__(self, **kwargs):
                for name in ("a", "b"):
                    kwargs.pop(name, None)
                super().__init__(**kwargs)

        class Inherits(Net): pass

        class Outer:
            class Inner:
                def __init__(self, depth): pass
            class Inner2(Inner): pass
            @classmethod
            def made(cls, size): pass
            @staticmethod
            def plain(size): pass

        class Base:
            def __init__(self, low, high=2): pass
        class Mixed(Base, Generic[T], abc.ABC):
            def __init__(self, x, *, y=1, **kwargs):
                super().__init__(x, **kwargs)
        class Left(Base):
            def __init__(self, left=1, **kwargs):
                super().__init__(**kwargs)
        class Right(Base):
            def __init__(self, right=1, **kwargs):
                super().__init__(**kwargs)
        class Diamond(Left, Right): pass

        @d.dataclass
        class Data:
            count: ClassVar[int] = 0
            size: int
            rate: float = 0.1
            hidden: list = d.field(init=False, default_factory=list)
            made: list = d.field(default_factory=list)
        @d.dataclass(frozen=True)
        class More(Data):
            _: d.KW_ONLY
            size: int = 3
            last: str

        class Odd(metaclass=other.Meta):
            def __init__(self, x): pass
        class BelowOdd(Odd):
            def __init__(self, x): pass
        class Colour(enum.Enum):
            def __init__(self, x, y): pass
        class Patched:
            def __init__(self, x): pass
        Patched.Late = Net
        class New:
            def __new__(cls, x): return super().__new__(cls)
        class Unknown(other.NotThere):
            pass
        class Computed(other.base()):
            def __init__(self, x): pass

        @functools.lru_cache(maxsize=None)
        def cached(rows=3): pass
        @keras.saving.register_keras_serializable("mine")
        class Registered:
            def __init__(self, a): pass
        @other.changes
        def changed(rows=3): pass
        @other.changes
        class Changed:
            def __init__(self, a): pass
        def strict(a, **options):
            options.pop("b", None)
            if options:
                raise TypeError(f"no such option: {options}")
        def make(a, /, b, *c, d, **e): pass

        if other.flag:
            def either(a): pass
        else:
            def either(b): pass

        class Again:
            def __init__(self, first): pass
        Earlier = Again
        class Again(Earlier):
            def __init__(self, second, **kwargs):
                super().__init__(**kwargs)
    """,
    "mine/inner.py": "def inner(depth): pass",
    "mine/other.py": "flag = 3",
    "broken.py": "def f(:",
    "stars.py": "from broken import *",
    "one.py": "from two import A\nfrom two import B",
    "two.py": "from one import A\nclass B:\n    def __init__(self, x): pass\n",
    "loop.py": "class A(B): pass\nclass B(A): pass\nx = x\ny = z\nz = y",
    "lazy.py": "def __getattr__(name): return name\ndef here(a): pass",
    "made.py": "globals().update(A=int)",
    "space/part/code.py": "class A:\n    def __init__(self, x): pass",
    "bytes.py": "\0",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    write(tmp_path, {path: textwrap.dedent(text) for path, text in PROJECT.items()})
    monkeypatch.syspath_prepend(tmp_path)


MODEL = ["inputs", "outputs", "activity_regularizer", "trainable", "dtype", "autocast", "name"]
MODEL += ["input_dim", "input_shape"]
TRAINER = list(inspect.signature(looplab.Trainer).parameters)
TAKEN = {
    "mine.Network": ["units", *MODEL],
    "mine.Alias": ["units", *MODEL],
    "mine.Net": ["units", *MODEL],
    "mine.Listed": [],
    "mine.nets.Inherits": ["units", *MODEL],
    "mine.nets.Popped": ["units", *MODEL],
    "mine.Old": ["a", "name", "activity_regularizer", "trainable", "dtype", "autocast", *MODEL[-2:]],
    "mine.nets.Closed": ["units"],
    "mine.nets.Mine": [*TRAINER, "fail"],
    "mine.Outer.Inner": ["depth"],
    "mine.Outer.Inner2": ["depth"],
    "mine.Outer.made": ["size"],
    "mine.Outer.plain": ["size"],
    "mine.nets.Mixed": ["x", "y", "high"],
    "mine.nets.Diamond": ["left", "right", "low", "high"],
    "mine.nets.Data": ["size", "rate", "made"],
    "mine.nets.More": ["size", "rate", "made", "last"],
    "mine.nets.Computed": ["x"],
    "mine.nets.cached": ["rows"],
    "mine.nets.Registered": ["a"],
    "mine.nets.strict": ["a", "b"],
    "mine.nets.Again": ["second", "first"],
    "mine.nets.Earlier": ["first"],
    "mine.inner": ["depth"],
    "one.B": ["x"],
    "lazy.here": ["a"],
    "space.part.code.A": ["x"],
    "mine.Chosen": ["units", *MODEL],
}


def test_what_a_project_s_own_definitions_take(project):
    found = {path: find(path) for path in TAKEN}
    assert [path for path in TAKEN if not isinstance(found[path], Found) or is_open(found[path])] == []
    assert {path: set(names(found[path])) for path in TAKEN} == {path: set(TAKEN[path]) for path in TAKEN}


def test_kwargs_that_are_used_in_another_way_stay_open(project):
    assert all(is_open(find(f"mine.nets.{name}")) for name in ("Open", "Anything", "make"))


UNKNOWN = [
    *("mine.nets.BelowOdd", "mine.nets.Colour", "mine.nets.Patched.Late"),
    *("mine", "mine.NUMBER", "mine.Partial", "mine.Maybe", "mine.nets.changed", "mine.nets.Changed"),
    *("mine.nets.Odd", "mine.nets.New", "mine.nets.Unknown", "mine.nets.either", "broken.f", "stars.f"),
    *("one.A", "loop.A", "loop.x", "loop.y", "lazy.there", "made.A", "bytes.A", "math.sqrt", "numpy.load"),
    *("tensorflow.keras.optimizers.Adam", "os.path.join.x", "", ".", "mine..Net"),
]


def test_what_the_source_cannot_say_is_unknown(project):
    assert {path: said for path in UNKNOWN if (said := find(path)) is not None} == {}


def test_what_there_is_not_is_said_with_what_there_is(project):
    assert find("no_such_module.Net") == Missing("", "no_such_module")
    assert find("mine.nets.Nett").inside == "mine.nets"
    assert {"Net", "Outer", "strict"} <= set(find("mine.nets.Nett").valid)
    assert "keras" not in find("mine.nets.Nett").valid
    assert find("mine.netz.Net").valid and "nets" in find("mine.netz.Net").valid
    assert find("mine.Outer.Iner") == Missing("mine.nets.Outer", "Iner", ("Inner", "Inner2", "made", "plain"))
    assert find("mine.Unlisted").name == "Unlisted"
    assert find("keras.optimizers.Adamm").inside == "keras.optimizers"
    assert "Adam" in find("keras.optimizers.Adamm").valid
    assert "optimizers" in find("keras.optimzers.Adam").valid
    assert find("space.part.cod.A") == Missing("space.part", "cod", ("code",))


def test_what_must_be_given_has_no_default(project):
    required = {
        path: [
            p.name
            for p in find(path).signature.parameters.values()
            if p.default is p.empty and p.kind in NAMED
        ]
        for path in ("mine.nets.Diamond", "mine.nets.Data", "mine.nets.More", "mine.nets.Mixed", "mine.Net")
    }
    assert list(required.values()) == [["low"], ["size"], ["last"], ["x"], []]


def test_a_file_that_changed_is_read_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for written in ("first", "second"):
        (tmp_path / "changing.py").write_text(f"def f({written}): pass")
        assert names(find("changing.f")) == [written]
