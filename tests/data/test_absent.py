"""`None` in data is what is absent, as in Keras: of every kind of data, at every place."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.data import build_feed, explained, records, split_and_weigh, split_batch
from looplab.data.inspection import look
from looplab.execution.batches import batch_at, words
from looplab.strategy import tree
from tests.conftest import make_strategy

SIZE, BATCH = 11, 4
X = np.random.default_rng(0).normal(size=(SIZE, 3)).astype("float32")
Y = X[:, :1] - X[:, 1:2]
W = np.arange(1, SIZE + 1, dtype="float32")

# Of inputs, targets and weights: of a batch, an example, or all of them.
PLACES = {
    "several": lambda x, y, w: ({"v": x, "m": None}, {"a": y, "b": None}, {"a": None, "b": w}),
    "(x, None)": lambda x, y, w: (x, None),
    "(x, None, None)": lambda x, y, w: (x, None, None),
    "(x, None, w)": lambda x, y, w: (x, None, w),
    "(None, y)": lambda x, y, w: (None, y),
    "(x, y, None)": lambda x, y, w: (x, y, None),
    "targets": lambda x, y, w: (x, {"a": y, "b": None}, {"a": None, "b": None}),
    "weights": lambda x, y, w: (x, {"a": y, "b": y}, {"a": w, "b": None}),
    "inputs": lambda x, y, w: ({"v": x, "m": None}, y, w),
    "a dict": lambda x, y, w: {"m": None, "v": x},
    "a tuple": lambda x, y, w: ((x, None), y),
}


class Batches(keras.utils.PyDataset):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def __len__(self):
        return -(-SIZE // BATCH)

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return self.form(X[rows], Y[rows], W[rows])


class SequenceSource:
    def __init__(self, form):
        self.form = form

    def __len__(self):
        return SIZE

    def __getitem__(self, row):
        return self.form(X[row], Y[row], W[row])


def in_files(form, folder):
    with tf.io.TFRecordWriter(str(folder / "a.tfrecord")) as writer:
        for row in range(SIZE):
            writer.write(tf.io.serialize_tensor(np.r_[X[row], Y[row], W[row]]).numpy())

    def parse(record):
        found = tf.ensure_shape(tf.io.parse_tensor(record, tf.float32), [5])
        return form(found[:3], found[3:4], found[4])

    return records(str(folder / "a.tfrecord"), parse)


def mapped(folder):
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r")


def of_grain(form):
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(SequenceSource(form))


def stream(form, **how):
    batches = tf.data.Dataset.from_tensor_slices((X, Y, W)).batch(BATCH, **how)
    return batches.map(tf.autograph.experimental.do_not_convert(form))


KINDS = {
    "arrays": lambda form, folder: form(X, Y, W),
    "large arrays": lambda form, folder: form(X, Y, W),
    "memmap": lambda form, folder: form(mapped(folder), Y, W),
    "items": lambda form, folder: SequenceSource(form),
    "grain": lambda form, folder: of_grain(form),
    "records": in_files,
    "PyDataset": lambda form, folder: Batches(form),
    "tf.data": lambda form, folder: stream(form),
    "generator": lambda form, folder: lambda: (Batches(form)[index] for index in range(3)),
}
BATCHED = ("PyDataset", "tf.data", "generator")


def cells(places, always):
    """All kinds of data with all places; those that are not run always take long, all together."""
    return [
        pytest.param(kind, place, marks=[] if always(kind, place) else [pytest.mark.slow])
        for kind in KINDS
        for place in places
    ]


def feed_of(kind, data, **how):
    return build_feed(data, batch_size=None if kind in BATCHED else BATCH, shuffle=False, seed=0, **how)


def places(structure):
    return [part is None for part in tf.nest.flatten(structure)]


def same(found, expected):
    tf.nest.assert_same_structure(found, expected)
    assert places(found) == places(expected)
    tree.map_structure(np.testing.assert_array_equal, found, expected)


@pytest.mark.share(6)
@pytest.mark.parametrize(
    ("kind", "place"), cells(PLACES, lambda kind, place: kind == "arrays" or place == "several")
)
def test_a_part_that_is_none_keeps_its_place_in_every_batch(kind, place, tmp_path, monkeypatch):
    if kind == "large arrays":  # come through a pipeline
        monkeypatch.setattr("looplab.data.indexed_source.is_small", lambda *_: False)
    data = KINDS[kind](PLACES[place], tmp_path)
    expected = [PLACES[place](X[r], Y[r], W[r]) for r in (slice(0, 4), slice(4, 8), slice(8, 11))]
    feed = feed_of(kind, data)
    assert feed.steps_per_epoch == 3
    assert places(feed.element_spec) == places(expected[0])
    feed.seek(1)  # a place in the data, as of a resume
    same(batch_at(feed.take(1), 0), expected[1])
    same(batch_at(feed.take(1), 0), expected[2])
    same(batch_at(feed.take(1), 0), expected[0])
    same(feed.batch(5), expected[2])
    assert words(feed.element_spec).count("None") == sum(places(expected[0]))


def test_what_is_said_of_data_has_what_is_there():
    lines = dict(look(feed_of("arrays", (X, {"a": Y, "b": None}, None)), seconds=0.0))
    assert lines["batch"] == "(float32 [?, 3], {a: float32 [?, 1], b: None}, None)"
    assert {name for name in lines if "values" in name} == {"values: inputs", "values: targets/a"}


def test_data_is_the_same_for_a_resume_with_none_and_without():
    for kind in ("arrays", "tf.data", "generator"):
        plain, more = (
            feed_of(kind, KINDS[kind](form, None)).position(2)
            for form in (lambda x, y, w: (x, y), PLACES["(x, y, None)"])
        )
        assert plain == more


def test_weights_by_class_fill_the_place_of_absent_ones():
    form = lambda x, y, w: (x, {"a": y > 0, "b": None}, {"a": None})  # noqa: E731
    numbered = lambda x, y, w: (x, {"a": tf.cast(y["a"], tf.int32), "b": y["b"]}, w)  # noqa: E731
    for kind, data in (
        ("arrays", numbered(*form(X, Y, W))),
        ("tf.data", stream(form).map(numbered)),
        ("PyDataset", Batches(lambda x, y, w: (x, np.int32(y > 0), None))),
    ):
        weighted, _ = split_and_weigh(data, None, None, {0: 1.0, 1: 3.0})
        batch = tree.map_structure(np.asarray, feed_of(kind, weighted).batch(0))
        same(batch[2], np.where(Y[:4, 0] > 0, 3.0, 1.0).astype("float32"))
    with pytest.raises(looplab.ConfigurationError, match=r"needs one target.* \(float32 \[\?, 3\], None\)"):
        split_and_weigh((X, None), None, None, {0: 1.0})


def test_what_a_library_stacks_of_none_is_absent():
    batches = of_grain(PLACES["(x, y, None)"]).to_iter_dataset().batch(BATCH)
    assert batches is not None and len(next(iter(batches))) == 3
    same(feed_of("generator", batches).batch(0), (X[:4], Y[:4], None))


def test_a_split_keeps_what_is_absent():
    train, held_out = split_and_weigh((X, Y, None), None, 0.4, None)
    same(feed_of("arrays", train).batch(0), (X[:4], Y[:4], None))
    same(feed_of("arrays", held_out).batch(0), (X[6:10], Y[6:10], None))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            (X, stream(lambda x, y, w: y)),
            "the data is a tuple, and its part targets is not an array but of type tensorflow.*Map",
        ),
        (
            {"a": X, "b": "text"},
            "the data is a dict, and its part b is not an array but of type builtins.str",
        ),
        ((X, np.array([*W[:-1], None])), "some values of an array are None"),
        ((None, None), r"no data in \(None, None\)"),
        ({"a": None}, "no data in"),
        (lambda: iter([(None, None)]), r"a batch is \(None, None\)"),
        (lambda: iter([(X, W), (X, None)]), r"differ: .*float32 \[11\]\) and .*None\)"),
        (
            lambda: iter([(X, W), (X, W), (X, None)]),
            r"expected .*float32 \[\?\]\), got .*None\), reading batch 2",
        ),
        (
            SequenceSource(lambda x, y, w: (x, w if w < 3 else None)),
            r"examples differ: .*got .*None\), reading example 2",
        ),
        (
            lambda: iter([(X, {"a": Y, "b": None})] * 2 + [(X, {"a": None, "b": Y})]),
            r"expected .*a: float32 .*b: None.*got .*a: None",
        ),
    ],
)
def test_data_that_is_all_none_or_now_and_then_is_refused(data, message):
    with pytest.raises(looplab.DataError, match=message):
        feed = build_feed(data, batch_size=None, shuffle=False, seed=0)
        feed.seek(0)
        for step in range(3):
            with explained(feed, step, 1):
                batch_at(feed.take(1), 0)


class Dense(keras.Model):
    """Takes inputs of every form, and leaves an output out."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1, kernel_initializer="ones")

    def call(self, inputs):
        inputs = inputs["v"] if isinstance(inputs, dict) else inputs
        return {"a": self.dense(inputs), "aux": None}


OPTIONS = {"optimizer": "sgd", "loss": {"a": "mse", "aux": None}}


def trainer(**options):
    return looplab.Trainer(Dense, **{**OPTIONS, "metrics": {"a": ["mae"]}, **options})


def keras_model():
    model = Dense()
    model.compile(**OPTIONS, metrics={"a": ["mae"]})
    return model


def results(made, data, **options):
    """What fit, evaluate and predict come to."""
    history = made.fit(data, epochs=2, validation_data=data, verbose=0, **options)
    history = {name: history.history[name] for name in ("loss", "val_loss", "a_mae")}
    options.pop("shuffle")
    values = made.evaluate(data, **options)
    return history, [values["loss"], values["a_mae"]], made.predict(data, **options)


def check(found, expected):
    assert found[2]["aux"] is None and expected[2]["aux"] is None
    tree.map_structure(lambda own, other: np.testing.assert_allclose(own, other, rtol=2e-5), found, expected)


FORMS = {
    "targets": lambda x, y, w: (x, {"a": y, "aux": None}, None),
    "weights": lambda x, y, w: (x, {"a": y, "aux": None}, {"a": w, "aux": None}),
    "inputs": lambda x, y, w: ({"v": x, "m": None}, {"a": y, "aux": None}),
}


@functools.cache
def plain(form):
    """What the same data comes to without None."""
    data = (X, {"a": Y}, {"a": W}) if form == "weights" else (X, {"a": Y})
    return results(trainer(execution="graph"), data, batch_size=BATCH, shuffle=False)


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("kind", "form"), cells(FORMS, lambda *cell: cell in (("arrays", "targets"), ("generator", "inputs")))
)
def test_fit_evaluate_and_predict_come_to_the_same_without_it(kind, form, tmp_path, monkeypatch):
    if kind == "large arrays":
        monkeypatch.setattr("looplab.data.indexed_source.is_small", lambda *_: False)
    options = {"shuffle": False, **({} if kind in BATCHED else {"batch_size": BATCH})}
    check(results(trainer(execution="graph"), KINDS[kind](FORMS[form], tmp_path), **options), plain(form))


@pytest.mark.slow
def test_keras_comes_to_the_same():
    model, data = keras_model(), stream(FORMS["weights"])
    history = model.fit(data, epochs=2, validation_data=data, verbose=0).history
    for name in ("loss", "val_loss", "a_mae"):
        np.testing.assert_allclose(plain("weights")[0][name], history[name], rtol=2e-5)


WAYS = {
    "replicas in micro-batches": {"strategy": 2, "micro_batches": 2, "execution": "graph"},
    "in Python": {"run_eagerly": True},
}


@pytest.mark.share(1)
@pytest.mark.parametrize("way", [*WAYS, pytest.param("the same in XLA", marks=pytest.mark.slow)])
def test_it_does_so_in_every_way_that_steps_run(way):
    options = dict(WAYS.get(way) or {"strategy": 2, "micro_batches": 2, "execution": "xla_step"})
    options["strategy"] = make_strategy(options.get("strategy", 1))
    made = trainer(**options)
    check(results(made, stream(FORMS["weights"]), shuffle=False), plain("weights"))


@pytest.mark.slow
def test_a_loop_in_xla_takes_streams_and_arrays():
    form = FORMS["weights"]
    cut, options = form(X[:8], Y[:8], W[:8]), {"epochs": 2, "shuffle": False, "verbose": 0}
    losses = [
        trainer(execution=execution).fit(data, **options, **more).history["loss"]
        for execution, data, more in (
            ("graph", cut, {"batch_size": BATCH}),
            ("xla_loop", cut, {"batch_size": BATCH}),
            ("xla_loop", stream(form, drop_remainder=True), {}),
        )
    ]
    np.testing.assert_allclose(losses, [losses[0]] * 3, rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["tf.data", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("arrays", "generator"))]
)
def test_a_run_resumes_with_it_and_without(kind, tmp_path):
    def fit(run_dir, form, epochs):
        made = looplab.Trainer(
            lambda: keras.Sequential([keras.Input([3]), keras.layers.Dense(1)]),
            "adam",
            "mse",
            run_dir=run_dir,
            execution="graph",
        )
        options = {} if kind in BATCHED else {"batch_size": BATCH}
        return made.fit(KINDS[kind](form, tmp_path), epochs=epochs, verbose=0, **options).history["loss"]

    absent, without = PLACES["(x, y, None)"], (lambda x, y, w: (x, y))
    whole = fit(None, without, 3)
    fit(tmp_path / "run", absent, 1)
    fit(tmp_path / "run", absent, 2)
    assert fit(tmp_path / "run", without, 3) == whole


@pytest.mark.slow
def test_steps_see_none_where_the_data_has_it():
    seen = []

    class Own(looplab.Trainer):
        def compute_loss(self, batch, training):
            inputs, targets, weights = batch
            seen.append((targets["b"], weights))
            return (self.model(inputs) - targets["a"]) ** 2, split_batch(batch)[2]

    def net():
        return keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])

    form = lambda x, y, w: (x, {"a": y, "b": None}, None)  # noqa: E731
    for data in (form(X, Y, W), lambda: iter([form(X, Y, W)])):
        Own(net, "sgd", micro_batches=2, strategy=make_strategy(2)).fit(data, epochs=1, verbose=0)
    assert set(seen) == {(None, None)}
    data = form(X, Y, W)
    assert ("batch", "0: float32 [?, 3], 1/a: float32 [?, 1]") in Own(net, "sgd").rehearse(data).lines
    ways = {"replicas": [2], "micro_batches": [2], "modes": []}
    looplab.testing.check_step(lambda **how: Own(net, "sgd", **how), data, **ways)


def test_one_trainer_takes_what_is_absent_here_and_there():
    class Either(looplab.Trainer):
        def compute_loss(self, batch, training):
            inputs, targets, _ = split_batch(batch)
            there = next(target for target in targets.values() if target is not None)
            return (self.model(inputs)["a"] - there) ** 2 * (1 if targets["a"] is None else 2)

    made = Either(Dense, "sgd", execution="graph")
    values = [
        made.evaluate(X, targets)["loss"]
        for targets in ({"a": Y, "b": None}, {"a": None, "b": Y}, {"a": Y, "b": None})
    ]
    np.testing.assert_allclose(values, [values[0], values[0] / 2, values[0]], rtol=1e-6)


def test_a_batch_that_make_batch_makes_may_lack_parts():
    class Own(looplab.Trainer):
        nothing = False

        def make_batch(self, step):
            return None if self.nothing else (X, {"a": Y, "aux": None}, None)

    made = Own(Dense, **OPTIONS)
    assert len(made.fit(steps=3, verbose=0).history["loss"]) == 1
    made = Own(Dense, **OPTIONS)
    made.nothing = True
    with pytest.raises(looplab.DataError, match=r"make_batch\(0\) returned None"):
        made.fit(steps=3, verbose=0)
