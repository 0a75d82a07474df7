"""Adapters: which data becomes a source by which, and how a project's own type becomes data everywhere."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from omegaconf import OmegaConf

import looplab
from looplab.config import check
from looplab.data import adapters, arrays, as_source, build_feed, register_adapter
from looplab.data.host_sources import MemoryMaps, SequenceSource
from looplab.data.pydataset import PyBatches
from looplab.data.stream import Stream
from looplab.errors import ConfigurationError, DataError
from looplab.experiment import datasets

X = np.arange(20, dtype="float32").reshape(10, 2) / 10
Y = X.sum(axis=1)


class Frames:
    """A type that looplab does not know."""

    def __init__(self, x=X, y=Y):
        self.x, self.y = x, y


class Boxed:
    """What holds something else."""

    def __init__(self, inside):
        self.inside = inside


def is_frames(data):
    return isinstance(data, Frames)


def of_frames(data):
    return data.x, data.y


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(adapters, "_adapters", list(adapters._adapters))


def register_boxes(make, **more):
    register_adapter("boxes", lambda data: isinstance(data, Boxed), make, **more)


def names():
    return [adapter.name for adapter in adapters._adapters]


def trainer():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    return looplab.Trainer(model, "sgd", "mse", seed=3)


@pytest.mark.slow
def test_a_type_is_data_wherever_looplab_takes_data_also_for_a_trainer_made_before():
    learned = []
    for x, y in ((Frames(), None), (X, Y)):
        made = trainer()
        if y is None:
            with pytest.raises(DataError, match=r"test_adapters\.Frames cannot be read\..*register_adapter"):
                made.fit(x, batch_size=4, verbose=0)
            register_adapter("frames", is_frames, of_frames)
        together = x if y is None else (x, y)
        history = made.fit(
            x, y, batch_size=4, epochs=2, validation_data=looplab.Validation(together), verbose=0
        )
        made.fit(x, y, batch_size=4, epochs=3, validation_split=0.2, verbose=0)
        values = made.evaluate(x, y, batch_size=4)
        learned.append((history.history["val_loss"], values, made.predict(x, batch_size=4)))
    tf.nest.map_structure(np.testing.assert_array_equal, *learned)


PROJECT = """
import numpy as np
import looplab

X = np.arange(20, dtype="float32").reshape(10, 2)


class Frames:
    x = X


class Unknown:
    pass


@looplab.configurable
def source(kind):
    frames = Frames()
    return {
        "alone": frames,
        "by split": {"train": frames, "validation": looplab.Validation(frames)},
        "a dict that is data": {"frames": frames},
        "unknown": Unknown(),
        "unknown dict": {"x": X},
    }[kind]


def is_mine(data):
    return isinstance(data, Frames) or (isinstance(data, dict) and "unknown" not in data and "x" not in data)


looplab.data.register_adapter("mine", is_mine, lambda data: X)
"""


@pytest.mark.parametrize(
    ("kind", "splits"),
    [
        ("alone", ["train"]),
        ("a dict that is data", ["train"]),
        ("by split", ["train", "validation"]),
        ("unknown", None),
        ("unknown dict", None),
    ],
)
def test_a_type_is_what_a_data_source_returns(kind, splits, tmp_path, monkeypatch):
    (tmp_path / "frames_of_mine.py").write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "frames_of_mine", raising=False)
    source = {"_target_": "frames_of_mine.source", "kind": kind}
    options = {"epochs": 1, "optimizer": "sgd", "loss": {"_target_": "keras.losses.MeanSquaredError"}}
    config = check(OmegaConf.create({**options, "data": {"batch_size": 4, "source": source}}))
    if splits is None:
        with pytest.raises(ConfigurationError, match=r"expected a dict with 'train'"):
            datasets.feeds(config)
        return
    found = datasets.feeds(config)
    assert list(found) == splits
    assert all(feed.examples(3) == 10 for feed in found.values())


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        ((X, Y), arrays.Arrays),
        (arrays.Arrays(X), arrays.Arrays),
        (tf.data.Dataset.from_tensor_slices(X).batch(4), Stream),
        (lambda: iter([X]), Stream),
        (Frames(), arrays.Arrays),
        (Boxed((X, Y)), SequenceSource),
    ],
    ids=["arrays", "source", "tf.data", "generator", "own type", "boxes in boxes"],
)
def test_make_returns_a_source_or_whatever_another_adapter_takes(made, kind):
    register_adapter("frames", is_frames, of_frames)
    register_boxes(lambda data: data.inside)
    Boxed.__len__, Boxed.__getitem__ = lambda self: 10, lambda self, index: X[index]
    try:
        assert type(as_source(Boxed(made))) is kind
    finally:
        del Boxed.__len__, Boxed.__getitem__


def test_adapters_that_make_what_each_other_takes_come_to_an_end():
    register_boxes(lambda data: Frames())
    register_adapter("frames", is_frames, lambda data: Boxed(None))
    says = r"test_adapters\.Boxed cannot be read.*reading a Boxed through the data adapters 'boxes', 'frames'"
    with pytest.raises(DataError, match=says):
        as_source(Boxed(None))
    register_adapter("scaled", lambda data: isinstance(data, tuple), lambda data: (data[0] * 2, data[1]))
    np.testing.assert_array_equal(as_source((X, Y)).arrays[0], 2 * X)  # asked once, and then looplab


def test_ones_own_are_asked_as_they_were_registered_and_before_looplabs_unless_named():
    asked = []

    def noting(name):
        return lambda data: asked.append(name)

    for name, before in (("a", None), ("b", None), ("c", "a"), ("d", "items"), ("e", None)):
        register_adapter(name, noting(name), noting(name), before=before)
    own, others = ["c", "a", "b", "e"], ["tf.data", "PyDataset", "arrays", "iterator"]
    assert names() == [*own, *others, "d", "items", "iterable", "function"]
    as_source(X)
    assert asked == own
    asked.clear()
    as_source(range(3))
    assert asked == [*own, "d"]
    register_adapter("frames", lambda data: isinstance(data, np.memmap), lambda data: tf.constant([[1.0]]))
    assert as_source(X).size == 10


def test_looplabs_own_kinds_are_found_in_their_order(tmp_path):
    np.save(tmp_path / "x.npy", X)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return X

    found = [np.load(tmp_path / "x.npy", mmap_mode="r"), Batches(), range(3), [1, 2], lambda: iter([X])]
    kinds = [MemoryMaps, PyBatches, SequenceSource, arrays.Arrays, Stream]
    assert [type(as_source(data)) for data in found] == kinds


def reloaded(accepts, make):
    """The functions of a module that was loaded once more: others, of the same names."""
    for function in (accepts, make):
        function.__module__, function.__qualname__ = "mine", function.__name__
    return accepts, make


def test_a_name_is_taken_again_by_a_module_that_is_reloaded_and_by_nobody_else():
    def accepts(data):
        return isinstance(data, Frames)

    def make(data):
        return data.x

    register_adapter("frames", *reloaded(accepts, make))
    register_adapter("later", is_frames, of_frames)
    assert tf.nest.flatten(as_source(Frames()).spec)[0].shape == (2,)

    def accepts(data):
        return isinstance(data, Frames)

    def make(data):
        return data.y

    register_adapter("frames", *reloaded(accepts, make))
    assert as_source(Frames()).spec.shape == () and names()[:2] == ["frames", "later"]
    register_adapter("later", is_frames, of_frames, before="frames")
    assert names()[:2] == ["later", "frames"]
    register_adapter("later", is_frames, of_frames, before="arrays")  # which it is already
    assert names()[:2] == ["later", "frames"]
    says = r"'frames' is already taken by mine\.accepts and mine\.make, and you register .*is_frames and "
    with pytest.raises(ConfigurationError, match=says):
        register_adapter("frames", is_frames, of_frames)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("", is_frames, of_frames), "name must be a non-empty string"),
        (("frames", True, of_frames), r"'frames'\): accepts must be a function of the data, got True"),
        (("frames", is_frames, None), r"'frames'\): make must be a function of the data, got None"),
        (("frames", is_frames, of_frames, "item"), r"before='item' names no adapter.*Did you mean 'items'"),
        (("frames", is_frames, of_frames, "frames"), r"before='frames' names no adapter"),
        (("arrays", is_frames, of_frames), r"'arrays' is the name of an adapter of looplab"),
    ],
)
def test_what_is_no_adapter_is_refused(arguments, says):
    before = names()
    with pytest.raises(ConfigurationError, match=says):
        register_adapter(*arguments)
    assert names() == before


def fails(data):
    raise KeyError("a mistake of mine")


def refuses(data):
    raise ConfigurationError("columns: there is no 'y'.")


@pytest.mark.parametrize(
    ("accepts", "make", "error", "says"),
    [
        (
            fails,
            of_frames,
            DataError,
            r"a mistake of mine.* in fails\), calling `accepts` of the data adapter 'mine' .*Frames",
        ),
        (
            lambda data: np.ones(3),
            of_frames,
            DataError,
            r"ValueError.*calling `accepts` of the data adapter 'mine'",
        ),
        (is_frames, fails, DataError, r"a mistake of mine.* in fails\), reading a Frames through .* 'mine'"),
        (is_frames, refuses, ConfigurationError, r"no 'y'\. \(reading a Frames through .* 'mine'\)"),
        (is_frames, lambda data: None, DataError, r"`make` returned None.* 'mine'"),
        (is_frames, lambda data: 3, DataError, r"type builtins\.int cannot be read.* 'mine'"),
        (is_frames, lambda data: data, DataError, r"Frames cannot be read.* 'mine'"),
        (is_frames, lambda data: (X, Y[1:]), DataError, r"different lengths.* 'mine'"),
        (is_frames, lambda data: (X, object()), DataError, r"targets is not an array.* 'mine'"),
    ],
)
def test_what_an_adapter_does_wrong_is_told_with_its_name(accepts, make, error, says):
    register_adapter("mine", accepts, make)
    with pytest.raises(error, match=says):
        build_feed(Frames(), batch_size=4, shuffle=False, seed=0)
