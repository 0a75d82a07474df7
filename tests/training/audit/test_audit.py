"""What no checkpoint would hold is found when a run begins; of a clean trainer nothing is said."""

import itertools
import logging
import random
import threading
from collections import deque

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.callbacks import CallbackList
from looplab.errors import ConfigurationError
from tests.conformance.cases import CASES, CLASSES, FEATURES, SMALL, X, Y
from tests.conftest import make_strategy


def network():
    return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])


def losses(logits, y):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)


class Own(looplab.Trainer):
    def __init__(self, *parts, **options):
        super().__init__(*parts, **{"execution": "graph", **options})

    def compute_loss(self, batch, training):
        x, y = batch
        return losses(self.model(x, training=training), y)


def stepping(*actions, **options):
    """A trainer whose step does something besides; `actions` get the batch."""

    class Stepping(Own):
        def train_step(self, batch):
            for action in actions:
                action(batch)
            return super().train_step(batch)

    return Stepping(network, "sgd", **options)


def fit(trainer, data=(X, Y), **how):
    how = {"batch_size": 8, "epochs": 2, "verbose": 0} | how
    return trainer.fit(data, **{key: value for key, value in how.items() if value is not None})


def said(caplog):
    """The warnings of the audit."""
    return [r.getMessage() for r in caplog.records if "will not be exact" in r.getMessage()]


def found(trainer):
    return [(one.kind, one.text) for one in trainer._preparation.so_far.findings]


# --- variables -----------------------------------------------------------------------------------


def in_a_branch(variable):
    def act(batch):
        tf.cond(tf.reduce_sum(batch[0]) > 0, lambda: variable.assign_add(1.0), lambda: variable + 0.0)

    return act


def in_a_loop(variable):
    def turn(i):
        variable.assign_add(1.0)
        return i + 1

    return lambda batch: tf.while_loop(lambda i: i < 3, turn, [0])


def in_a_function(variable):
    inner = tf.function(lambda: variable.assign_add(1.0))
    return lambda batch: inner()


@pytest.mark.parametrize(
    "act",
    [lambda v: lambda batch: v.assign_add(1.0), in_a_branch, in_a_loop, in_a_function],
    ids=["at once", "in a branch", "in a loop", "in a function"],
)
def test_a_stray_variable_that_the_step_assigns_is_refused(act, tmp_path):
    counter = tf.Variable(0.0, name="counter")
    trainer = stepping(act(counter), run_dir=tmp_path / "run")
    with pytest.raises(looplab.ConfigurationError) as caught:
        fit(trainer)
    message = str(caught.value)
    assert "assigns counter at " in message and "test_audit.py:" in message
    assert "self.counter = ..." in message
    assert not (tmp_path / "run").exists()  # before anything is written


def test_strays_are_refused_in_a_rehearsal_and_without_a_run_directory(strategy):
    counter = tf.Variable(0.0, name="counter")
    trainer = stepping(lambda batch: counter.assign_add(1.0), strategy=strategy)
    with pytest.raises(looplab.ConfigurationError, match="assigns counter"):
        trainer.rehearse((X, Y), batch_size=8)
    with pytest.raises(looplab.ConfigurationError, match="assigns counter"):
        fit(trainer)


def test_a_variable_that_a_keras_layer_does_not_see_is_refused():
    class Counting(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.calls = tf.Variable(0.0, name="calls", trainable=False)

        def call(self, x):
            self.calls.assign_add(1.0)
            return x

    model = lambda: keras.Sequential([Counting(), keras.layers.Dense(CLASSES)])  # noqa: E731
    with pytest.raises(looplab.ConfigurationError, match=r"calls.*self\.add_weight"):
        fit(Own(model, "sgd"))


def test_generators_in_a_closure_are_refused():
    generator = tf.random.Generator.from_seed(1)
    with pytest.raises(looplab.ConfigurationError, match="StateVar"):
        fit(stepping(lambda batch: generator.normal([2])))
    seeds = keras.random.SeedGenerator(1)
    with pytest.raises(looplab.ConfigurationError, match="seed_generator_state"):
        fit(stepping(lambda batch: keras.random.normal((2,), seed=seeds)))


def test_what_is_only_read_may_be_anywhere(tmp_path, caplog):
    table = tf.Variable([1.0, 2.0], trainable=False)
    lookup = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1, 2], [3, 4]), 0)
    reads = lambda batch: (tf.gather(table, [0]), lookup.lookup(tf.constant([1])))  # noqa: E731
    fit(stepping(reads, run_dir=tmp_path))
    assert said(caplog) == []


class Outside(looplab.Trainer):
    """Creates in its constructor what the step changes, with the model's own factory already called."""

    def __init__(self, kind, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if kind == "layer":
            self.noise = keras.layers.GaussianNoise(0.1)
        elif kind == "seeds":
            self.seeds = keras.random.SeedGenerator(1)
        else:
            self.count = tf.Variable(0, trainable=False)
        self.kind = kind

    def compute_loss(self, batch, training):
        x, y = batch
        if self.kind == "layer":
            x = self.noise(x, training=training)
        elif self.kind == "seeds":
            x += keras.random.normal(tf.shape(x), seed=self.seeds)
        else:
            self.count.assign_add(1)
        return (self.model(x, training=training)[:, 0] - y) ** 2


@pytest.mark.parametrize(
    ("kind", "named"),
    [("layer", "noise/.*seed_generator_state"), ("seeds", "seeds/state"), ("variable", "trainer/count")],
)
def test_what_replicas_share_and_a_step_changes_is_refused(kind, named):
    """Each replica would change it, and draw other numbers than one device, in silence."""
    x, y = np.ones((8, 2), "float32"), np.ones(8, "float32")

    def fit(**options):
        made = Outside(kind, lambda: keras.Sequential([keras.layers.Dense(1)]), "sgd", **options)
        made.fit(x, y, batch_size=4, epochs=1, verbose=0)

    fit()
    with pytest.raises(ConfigurationError, match=rf"changes .*{named}.* outside of the .* in setup"):
        fit(strategy=make_strategy(2))


def test_what_is_kept_on_the_trainer_is_no_stray_on_two_replicas(tmp_path, caplog):
    class Keeps(Own):
        def setup(self):
            sums = {"trainable": False, "aggregation": tf.VariableAggregation.SUM}
            self.kept = {"seen": [tf.Variable(0.0, **sums)]}
            self.seeds = keras.random.SeedGenerator(1)
            self.generator = tf.random.Generator.from_seed(1)

        def train_step(self, batch):
            self.kept["seen"][0].assign_add(tf.reduce_sum(batch[0]))
            keras.random.normal((2,), seed=self.seeds)
            self.generator.normal([2])
            return super().train_step(batch)

    fit(Keeps(network, "sgd", strategy=make_strategy(2), run_dir=tmp_path))
    assert said(caplog) == []


# --- randomness of the step ----------------------------------------------------------------------


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("draw", "kind"),
    [
        pytest.param(  # that in a branch is found by the same, and more
            lambda batch: tf.random.uniform([2]), "RandomUniform at ", marks=pytest.mark.slow
        ),
        (lambda batch: tf.random.normal([2], seed=4), "RandomStandardNormal at "),
        (
            lambda batch: tf.cond(
                tf.reduce_sum(batch[0]) > 0, lambda: tf.random.uniform([]), lambda: tf.constant(0.0)
            ),
            "RandomUniform at ",
        ),
    ],
    ids=["uniform", "a seed of its own", "in a branch"],
)
def test_random_numbers_of_no_saved_state_are_said_once(draw, kind, tmp_path, caplog):
    trainer = stepping(draw, run_dir=tmp_path)
    fit(trainer)
    fit(trainer, epochs=3)
    (warning,) = said(caplog)
    assert kind in warning and "test_audit.py:" in warning and "keras.random.SeedGenerator" in warning
    assert [kind for kind, _ in found(trainer)] == ["randomness"]


def test_nothing_is_said_where_nothing_can_be_resumed(caplog):
    trainer = stepping(lambda batch: tf.random.uniform([2]))
    fit(trainer)
    assert said(caplog) == [] and found(trainer) == []


# --- fields --------------------------------------------------------------------------------------


class Counts(looplab.Callback):
    """Everything that the audit must tell apart."""

    every = 1

    def __init__(self):
        self.count, self.seen, self.window = 0, [], np.zeros(3)
        self.generator, self.numbers = np.random.default_rng(0), itertools.count()
        self.limit, self.lock, self._private, self.undrawn = 5, threading.Lock(), 0, random.Random(0)

    def on_train_begin(self, event, controls):
        self.began = event.step  # is what it is made, not what training makes of it

    def on_step(self, event, controls):
        self.count += 1
        self._private += 1
        self.seen.append(event.step)
        self.generator.random(), next(self.numbers)
        self.window[event.step % 3] = event.step
        self.latest = event.step


def test_callback_fields_that_change_and_are_not_saved_are_named_once(tmp_path, caplog):
    fit(Own(network, "sgd", run_dir=tmp_path, callbacks=[Counts()]), epochs=4)
    (warning,) = said(caplog)
    names = ("count", "seen", "window", "generator", "numbers", "latest")
    assert " and ".join(f"Counts.{name}" for name in names) + " change" in warning
    assert "restore(state)" in warning
    assert all(name not in warning for name in ("_private", "began", "limit", "lock", "undrawn"))


def test_a_callback_with_a_state_knows_what_it_does(tmp_path, caplog):
    class Saved(Counts):
        def state(self):
            return {"count": self.count}

    quiet = [
        Saved(),
        keras.callbacks.EarlyStopping("loss", patience=9),
        looplab.callbacks.EarlyStopping("loss"),
    ]
    quiet += [
        looplab.callbacks.TimeLimit("60min"),
        looplab.callbacks.Lambda(on_step=lambda event, controls: 0),
    ]
    fit(Own(network, "sgd", run_dir=tmp_path, callbacks=quiet))
    assert said(caplog) == []


def test_a_field_of_the_trainer_that_changes_is_named(tmp_path, caplog):
    class Makes(Own):
        def setup(self):
            self.made, self._asked, self.rows = 0, 0, {"x": X[:8]}

        def make_batch(self, step):
            self.made += 1
            self._asked += 1
            return self.rows["x"] + self.made % 2, Y[:8]

    fit(Makes(network, "sgd", run_dir=tmp_path), None, batch_size=None, steps_per_epoch=3)
    (warning,) = said(caplog)
    assert "Makes.made changes" in warning and "tf.Variable(..., trainable=False)" in warning


class Game:
    """An environment, in a wrapper: it has a state of its own."""

    def __init__(self, inner=None):
        self.inner, self.place = inner, 0.0

    def step(self):
        if self.inner is not None:
            return self.inner.step()
        self.place += 1.0
        return self.place


class Plays(Own):
    """Makes batches with what it keeps in `field`, and keeps much besides that never changes."""

    def __init__(self, made, act, **options):
        super().__init__(network, "sgd", **options)
        self.made, self.act, self.limits = made, act, {"rows": 8, "scale": np.ones(4)}
        self.loader, self.path, self.lock = (lambda: X[:8]), Game(), threading.Lock()

    def setup(self):
        self.field, self.unused = self.made(), self.made()
        self.frozen, self.count = network(), tf.Variable(0, trainable=False)
        self.late = None

    def make_batch(self, step):
        self.count.assign_add(1)
        self.late = self.late or Game()
        self.act(self.field)
        return X[:8], Y[:8]


KEEPS = {
    "an environment": (lambda: Game(Game()), Game.step),
    "a queue": (lambda: deque(maxlen=2), lambda queue: queue.append({"x": np.ones(3)})),
    "a generator object": (lambda: iter(row for row in range(10**6)), next),
    "an iterator of a dataset": (lambda: iter(tf.data.Dataset.range(100)), next),
    "a NumPy generator": (lambda: np.random.default_rng(0), lambda generator: generator.random()),
    "a large array": (lambda: np.zeros(10**6), lambda array: array.put(10**6 - 1, array[-1] + 1)),
}


@pytest.mark.share(1)
@pytest.mark.parametrize("kind", KEEPS)
def test_what_make_batch_changes_in_a_field_is_named_before_the_first_step(kind, tmp_path, caplog):
    class Heard(looplab.Callback):
        every = "1st"
        _before = None

        def on_step(self, event, controls):
            self._before = said(caplog) if self._before is None else self._before

    heard = Heard()
    trainer = Plays(*KEEPS[kind], run_dir=tmp_path, callbacks=[heard])
    fit(trainer, None, batch_size=None, steps_per_epoch=3)
    named = "Plays.field and Plays.unused change" if "dataset" in kind else "Plays.field changes"
    assert said(caplog) == heard._before
    assert f"{named} when make_batch runs" in said(caplog)[0] and len(said(caplog)) == 1
    assert "from self.seed and step" in said(caplog)[0] and "underscore" in said(caplog)[0]
    assert "make_batch depends on no other state" in (tmp_path / "log.txt").read_text()


def test_nothing_is_said_of_what_make_batch_only_reads(tmp_path, caplog):
    fit(Plays(Game, repr, run_dir=tmp_path), None, batch_size=None, steps_per_epoch=3)
    assert said(caplog) == []


def test_fields_that_cannot_be_compared_end_no_run(tmp_path, caplog):
    class Strange(looplab.Callback):
        def __init__(self):
            self.self_made = []
            self.self_made.append(self.self_made)  # has no end

    fit(Own(network, "sgd", run_dir=tmp_path, callbacks=[Strange()]))
    assert said(caplog) == []


# --- what cannot be written ----------------------------------------------------------------------


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    ("value", "says"),
    [
        (threading.Lock(), "Keeps.state(): inner/1/bad, a _thread.lock"),
        (lambda: 0, "Keeps.state(): inner/1/bad, a function"),
        ((n for n in range(3)), "Keeps.state(): inner/1/bad, a generator"),
        ({1, 2}, "Keeps.state(): inner/1/bad, a set"),
        (np.array(["a"]), "Keeps.state(): inner/1/bad, a numpy.ndarray of <U1"),
        ({(1, 2): 3}, "the key (1, 2) of inner/1/bad, a tuple"),
    ],
    ids=["lock", "function", "generator", "set", "array of strings", "key"],
)
def test_a_state_that_cannot_be_written_is_refused_at_step_0(value, says, tmp_path):
    class Keeps(looplab.Callback):
        def on_train_begin(self, event, controls):
            self.value = value  # known only then

        def state(self):
            return {"inner": [1.0, {"bad": self.value}], "good": [None, True, np.float32(1), np.arange(3)]}

    trainer = Own(network, "sgd", run_dir=tmp_path, callbacks=[Keeps()])
    with pytest.raises(looplab.ConfigurationError) as caught:
        fit(trainer)
    assert says in str(caught.value) and "good" not in str(caught.value)
    assert int(trainer.step.numpy()) == 0


# --- data ----------------------------------------------------------------------------------------


class SequenceSource:
    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return (X[index] + self.draw(index)).astype("float32"), Y[index]


class Batches(keras.utils.PyDataset):
    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return (X[:8] + self.draw(index)).astype("float32"), Y[:8]


def generator(draw):
    def batches():
        for index in range(3):
            yield (X[:8] + draw(index)).astype("float32"), Y[:8]

    return batches


def mapped(draw):
    function = lambda x: (x + draw(0)).astype("float32")  # noqa: E731
    return (
        tf.data.Dataset.from_tensor_slices((X, Y))
        .batch(8)
        .map(
            lambda x, y: (tf.ensure_shape(tf.numpy_function(function, [x], tf.float32), [None, FEATURES]), y)
        )
    )


KINDS = {"items": SequenceSource, "PyDataset": Batches, "generator": generator, "numpy_function": mapped}
DRAWS = {
    "NumPy's": lambda index: np.random.normal(),
    "Python's": lambda index: random.random(),
    "seeded": lambda index: np.random.default_rng([0, index]).normal(),
}


@pytest.mark.share(2)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whose", DRAWS)
def test_data_that_draws_from_the_generators_of_the_process_is_told(kind, whose, tmp_path, caplog):
    data = KINDS[kind](DRAWS[whose])
    fit(Own(network, "sgd", run_dir=tmp_path), data, batch_size=8 if kind == "items" else None)
    warnings = said(caplog)
    if whose == "seeded":
        assert warnings == []
    else:
        assert warnings and f"draws from {whose} global generator" in warnings[0]
        assert "default_rng([seed, index])" in warnings[0]
        # Where looplab reads a batch for its shapes it is said before the first step.
        assert ("first batches" in warnings[0]) == (kind != "numpy_function")


def test_a_make_batch_that_draws_from_the_global_generator_is_told(tmp_path, caplog):
    class Makes(Own):
        def make_batch(self, step):
            self.model(X[:1])  # not built yet when it is called first: Keras draws seeds from Python's
            return (X[:8] + np.random.normal()).astype("float32"), Y[:8]

    lazy = lambda: keras.Sequential([keras.layers.Dropout(0.5), keras.layers.Dense(CLASSES)])  # noqa: E731
    fit(Makes(lazy, "sgd", run_dir=tmp_path), None, batch_size=None, steps_per_epoch=3)
    assert (
        said(caplog) and "make_batch (or a callback) draws from NumPy's global generator" in said(caplog)[0]
    )
    assert not [warning for warning in said(caplog) if "Python's" in warning]


def elements():
    tf.random.set_seed(None)  # as in a process that makes its data before its trainer
    return tf.data.Dataset.from_tensor_slices((X, Y))


def inner(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(4)


@pytest.mark.share(2)
@pytest.mark.fault(29)
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: elements().shuffle(20).batch(8), "has shuffle(20) without a seed"),
        (lambda: elements().batch(4).interleave(inner).batch(8), "has a shuffle at "),
        (lambda: elements().map(lambda x, y: (x + tf.random.uniform([]), y)).batch(8), "(RandomUniform at "),
        (lambda: elements().map(lambda x, y: (x, y), 2, deterministic=False).batch(8), "deterministic=False"),
    ],
    ids=["shuffle", "inner shuffle", "random map", "not in order"],
)
def test_a_stream_that_differs_in_each_process_is_told(make, says, tmp_path, caplog):
    fit(Own(network, "sgd", run_dir=tmp_path), make(), batch_size=None, steps_per_epoch=3)
    (warning,) = said(caplog)
    assert says in warning


def test_a_seeded_stream_is_not(tmp_path, caplog):
    stateless = lambda i, pair: (pair[0] + tf.random.stateless_uniform([], [0, i]), pair[1])  # noqa: E731
    data = elements().shuffle(20, seed=1).enumerate().map(stateless).batch(8).prefetch(2)
    fit(Own(network, "sgd", run_dir=tmp_path), data, batch_size=None)
    assert said(caplog) == []


@pytest.mark.share(2)
@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: generator(lambda index: 0), "exactly only if its generator yields the same"),
        (lambda: mapped(lambda index: 0), "exactly only if a numpy_function at "),
        (lambda: elements().batch(8).map(lambda *x: (x, tf.random.uniform([]))[0]), "by skipping batches"),
        (lambda: elements().batch(8), "resumes from the state of its pipeline"),
    ],
    ids=["generator", "numpy_function", "random numbers", "plain"],
)
def test_the_plan_says_what_a_resume_of_a_stream_depends_on(make, says):
    lines = dict(Own(network, "sgd").rehearse(make()).lines)
    assert says in lines["data"] and ("exactly only" in lines["data"]) == ("exactly only" in says)


# --- clean trainers ------------------------------------------------------------------------------


@pytest.mark.share(1)
@pytest.mark.parametrize("name", SMALL)
def test_clean_trainers_say_nothing(name, tmp_path, caplog):
    case = CASES[name]
    trainer = case.make(run_dir=tmp_path, execution="graph")
    trainer.fit(**{**case.data(), "epochs": 2}, verbose=0)
    assert said(caplog) == [] and found(trainer) == []


@pytest.mark.slow  # test_what_is_kept_on_the_trainer_is_no_stray_on_two_replicas is that of a smaller one
def test_clean_trainers_say_nothing_on_two_replicas(tmp_path, caplog):
    case = CASES["dropout"]
    case.make(run_dir=tmp_path, strategy=make_strategy(2)).fit(**case.data(), verbose=0)
    assert said(caplog) == []


def test_a_failure_of_the_audit_is_none_of_the_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(CallbackList, "stateless", lambda self: 1 / 0)
    with caplog.at_level(logging.DEBUG, "looplab"):
        fit(Own(network, "sgd", run_dir=tmp_path))
    assert any("the audit failed" in record.getMessage() for record in caplog.records)
