"""`looplab.testing.check_resume`: right trainers pass, and each that forgets something is told what."""

import re
from collections import deque

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.data import passes, stream
from looplab.testing import ResumeDiffers, check_resume
from tests.conformance.cases import CASES, CLASSES, FEATURES, X, Y
from tests.conftest import make_strategy

DATA = (X, Y)


def network(*layers):
    return lambda: keras.Sequential(
        [keras.Input((FEATURES,)), *[make() for make in layers], keras.layers.Dense(CLASSES)]
    )


class Own(looplab.Trainer):
    def __init__(self, model=None, optimizer="adam", **options):
        super().__init__(model or network(), optimizer, **{"execution": "graph", **options})

    def compute_loss(self, batch, training):
        x, y = batch
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y, self.model(x, training=training))


def refused(trainer, data=DATA, **how):
    """The error, of which cause and path are asked for."""
    with pytest.raises(ResumeDiffers) as caught:
        check_resume(trainer, data, **({"batch_size": 8} | how))
    print(caught.value)
    return caught.value


# --- what passes ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_is_broken_in_an_epoch_and_at_its_end():
    report = check_resume(Own(), DATA, batch_size=8)
    assert [(each.step, each.where, each.verdict) for each in report.breaks] == [
        (2, "in epoch 1", "same"),
        (4, "the end of epoch 1", "same"),
        (6, "in epoch 2", "same"),
    ]
    assert report.steps == 8 and "the end of epoch 1" in repr(report)


@pytest.mark.slow
def test_dropout_averages_and_callbacks_with_state_pass():
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=2),
        keras.callbacks.ReduceLROnPlateau(patience=1),
        looplab.callbacks.EarlyStopping("val_loss", patience=2),
        looplab.callbacks.TimeLimit("60min"),
    ]
    model = network(lambda: keras.layers.Dropout(0.5), keras.layers.BatchNormalization)
    trainer = Own(model, lambda: keras.optimizers.Adam(0.01, use_ema=True), callbacks=callbacks)
    report = check_resume(
        trainer, DATA, batch_size=8, epochs=4, validation_data=(X[:9], Y[:9]), breaks=(3, 8)
    )
    assert {each.verdict for each in report.breaks} == {"same"}


@pytest.mark.slow
def test_a_run_that_stops_early_stops_at_the_same_step_again():
    stops = looplab.callbacks.EarlyStopping("loss", stopping_threshold=1e9)
    report = check_resume(Own(callbacks=[stops]), DATA, batch_size=8, epochs=3, breaks=(3, 7))
    assert report.steps == 4 and [(each.step, each.verdict) for each in report.breaks] == [(3, "same")]
    with pytest.raises(looplab.ConfigurationError, match="ended after step 4, before it could be broken"):
        check_resume(Own(callbacks=[stops]), DATA, batch_size=8, epochs=3, breaks=(7,))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gan", "reinforce", "own tape", "stream"])
def test_trainers_of_every_kind_pass(name):
    case = CASES[name]
    how = dict(case.data())
    data = how.pop("x", None)
    make = (lambda: case.data()["x"]) if name == "stream" else data
    trainer = lambda **options: case.make(execution="graph", **options)  # noqa: E731
    report = check_resume(trainer, make, **{**how, "epochs": 2, "breaks": (3,)})
    assert {each.verdict for each in report.breaks} == {"same"}


@pytest.mark.slow
def test_two_replicas_pass():
    trainer = Own(network(lambda: keras.layers.Dropout(0.5)), strategy=make_strategy(2))
    report = check_resume(trainer, DATA, batch_size=8, breaks=(3,))
    assert [each.verdict for each in report.breaks] == ["same"]


@pytest.mark.slow
def test_steps_that_never_end_can_be_broken():
    class Makes(Own):
        def make_batch(self, step):
            return np.random.default_rng([self.seed, step]).normal(size=(4, FEATURES)).astype("float32"), Y[
                :4
            ]

    report = check_resume(Makes(), steps=5)
    assert [(each.step, each.where) for each in report.breaks] == [(2, "in epoch 1")]


@pytest.mark.slow
def test_a_trainer_is_left_as_it_is(tmp_path):
    model = network()()
    trainer = Own(model, keras.optimizers.Adam(0.01), run_dir=tmp_path / "none", seed=3)
    before = [array.copy() for array in model.get_weights()]
    check_resume(trainer, DATA, batch_size=8, breaks=(3,))
    assert all(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))
    assert list(tmp_path.iterdir()) == [] and int(trainer.step.numpy()) == 0


@pytest.mark.slow
def test_a_stream_whose_place_is_kept_passes(monkeypatch):
    """The state of its pipeline is that of any save before, as the clock has it: two runs do not share it."""
    monkeypatch.setattr(stream, "_SHARE", 1e9)  # the first save's in each run, of another step in each

    def ordered():
        data = tf.data.Dataset.from_tensor_slices(DATA)
        return data.shuffle(9, seed=0, reshuffle_each_iteration=False).repeat().batch(4)

    report = check_resume(Own(), ordered, epochs=2, steps_per_epoch=5, breaks=(3, 5))
    assert [each.verdict for each in report.breaks] == ["same", "same"]


# --- what does not -------------------------------------------------------------------------------


class Counting(Own):
    """Makes batches that depend on how often it was asked."""

    def setup(self):
        self.asked = 0

    def make_batch(self, step):
        self.asked += 1
        return X[:8] + self.asked, Y[:8]


class Hiding(Counting):
    """The same, in a field that the audit does not look at."""

    def setup(self):
        self._box = [0]

    def make_batch(self, step):
        self._box[0] += 1
        return X[:8] + self._box[0], Y[:8]


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("kind", "field", "verdicts"),
    [
        (Counting, "Counting.asked", {1: "same", 3: "differs", 4: "differs"}),
        (Hiding, "Hiding._box", {3: "differs", 4: "differs"}),
    ],
)
def test_a_counter_in_make_batch_is_found(kind, field, verdicts):
    error = refused(kind(), None, batch_size=None, steps_per_epoch=3, breaks=tuple(verdicts))
    assert error.cause == "attribute" and field in str(error)
    # After step 1 the call for the shapes stands for that of step 0, and hides what the counter does.
    assert "the run that was broken after step 3 (the end of epoch 1) and resumed is another" in str(error)
    assert "The first that differs, after step 4:\n    models/model/dense/" in str(error)
    assert {each.step: each.verdict for each in error.report.breaks} == verdicts


def drawing(draw):
    def batches():
        for _ in range(4):
            yield (X[:8] + draw()).astype("float32"), Y[:8]

    return batches


class SequenceSource:
    """Examples that are found by index, each a little different each time."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return (X[index] + np.random.normal()).astype("float32"), Y[index]


@pytest.mark.slow
def test_random_numbers_of_the_process_in_data_are_found():
    error = refused(Own(), SequenceSource(), breaks=(3,))
    assert error.cause == "data" and "NumPy's global generator" in str(error)


@pytest.mark.slow
def test_random_numbers_of_nobody_are_found_by_repeating_the_run():
    error = refused(Own(), drawing(lambda: np.random.default_rng().normal()), batch_size=None, breaks=(3,))
    assert error.cause == "randomness" and "does not repeat itself" in str(error)


@pytest.mark.slow
def test_random_numbers_of_the_step_are_found():
    class Noisy(Own):
        def compute_loss(self, batch, training):
            x, y = batch
            return super().compute_loss((x + tf.random.normal(tf.shape(x)), y), training)

    error = refused(Noisy(), breaks=(3,))
    assert error.cause == "randomness" and "RandomStandardNormal at " in str(error)


class Halves(looplab.Callback):
    """Halves the learning rate each third epoch, and forgets how many there were."""

    def __init__(self):
        self.epochs = 0

    def on_epoch_end(self, event, controls):
        self.epochs += 1
        if self.epochs % 3 == 0:
            controls.scale_learning_rate(0.5)


class Half(Halves):
    """Has a state, and forgets a part."""

    def __init__(self):
        super().__init__()
        self.name = "half"

    def state(self):
        return {"name": self.name}

    def restore(self, state):
        self.name = state["name"]


class Notes(Halves):
    """Only counts."""

    def on_epoch_end(self, event, controls):
        self.epochs += 1


class Rolls(looplab.Callback):
    """Draws a learning rate for each epoch, from a generator or from an object that holds one."""

    def __init__(self, held):
        holder = Pool() if held else self
        holder.generator = np.random.default_rng(0)
        if held:
            self.dice = holder

    def on_epoch_end(self, event, controls):
        generator = self.dice.generator if hasattr(self, "dice") else self.generator
        controls.scale_learning_rate(generator.uniform(0.5, 1.0))


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("held", "says"), [(False, "Rolls.generator is Generator at"), (True, "likely Rolls.dice.")]
)
def test_a_generator_in_a_callback_is_found(held, says):
    error = refused(Own(callbacks=[Rolls(held)]), epochs=3, steps_per_epoch=2, breaks=(3,))
    assert error.cause == "callback" and says in str(error) and "restore(state)" in str(error)


FACTOR = "loop/learning_rate_factor"


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("callback", "path", "given"),
    [
        (Halves, FACTOR, "to the trainer"),
        (Half, FACTOR, "to fit"),
        (Notes, "Notes.epochs", "to the trainer"),
        pytest.param(Halves, FACTOR, "to fit", marks=pytest.mark.slow),
        pytest.param(Half, FACTOR, "to the trainer", marks=pytest.mark.slow),
        pytest.param(Notes, "Notes.epochs", "to fit", marks=pytest.mark.slow),
    ],
)
def test_a_callback_that_forgets_is_found(callback, path, given):
    trainer = Own(callbacks=[callback()] if given == "to the trainer" else [])
    how = {} if given == "to the trainer" else {"callbacks": [callback()]}
    error = refused(trainer, epochs=3, steps_per_epoch=2, breaks=(2, 3), **how)
    assert error.cause == "callback" and f"{callback.__name__}.epochs is 2, unbroken 3" in str(error)
    assert path in str(error) and "restore(state)" in str(error)


class Pool:
    rows = 0


class Draws(Own):
    """Keeps what its batches depend on in an object."""

    field = "pool"

    def setup(self):
        setattr(self, self.field, Pool())
        self._same = Pool()

    def make_batch(self, step):
        pool = getattr(self, self.field)
        pool.rows += 1
        return X[:8] + pool.rows, Y[:8]


class DrawsHidden(Draws):
    """The same, in a field that the audit does not look at."""

    field = "_pool"


class DrawsElsewhere(Own):
    """The same, in no field."""

    asked = np.zeros(1)

    def setup(self):
        self.asked[0] = 0

    def make_batch(self, step):
        self.asked[0] += 1
        return X[:8] + self.asked[0], Y[:8]


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("kind", "cause", "says"),
    [
        (Draws, "attribute", "Draws.pool changes when make_batch runs"),
        (
            DrawsHidden,
            "attribute",
            "repeats itself bit for bit, so .*, likely DrawsHidden._pool. No check",
        ),
        (
            DrawsElsewhere,
            "elsewhere",
            "repeats itself bit for bit, so .*: of an object that the data refers to",
        ),
    ],
)
def test_what_an_object_keeps_is_found(kind, cause, says):
    error = refused(kind(), None, batch_size=None, steps=4)
    assert error.cause == cause and re.search(says, str(error))


@pytest.mark.slow
def test_long_fields_are_shown_from_their_first_difference():
    class Queue(Halves):
        def __init__(self):
            self.epochs, self.seen = 0, deque(range(100))

        def on_epoch_end(self, event, controls):
            self.seen.append(event.epoch)

    error = refused(Own(callbacks=[Queue()]), epochs=2, steps_per_epoch=2, breaks=(2,))
    assert ",98,99,2], unbroken ..." in str(error) and ",98,99,1,2]. Return it in state()" in str(error)


def test_a_run_that_cannot_go_on_is_told():
    class Forgetful(Notes):
        def state(self):
            return {"epochs": self.epochs}

        def restore(self, state):
            self.epochs = state["epoch"]

    error = refused(Own(callbacks=[Forgetful()]), breaks=(3,))
    assert error.cause == "error" and "the run cannot go on: KeyError: 'epoch'" in str(error)
    assert error.report.breaks[0].verdict == "failed"


@pytest.mark.slow
def test_an_unseeded_shuffle_is_found_and_a_seeded_one_passes():
    def shuffled(seed):
        return lambda: tf.data.Dataset.from_tensor_slices(DATA).shuffle(29, seed=seed).batch(8)

    check_resume(Own(), shuffled(1), breaks=(5,))  # in another order than before
    error = refused(Own(), shuffled(None), batch_size=None, breaks=(3,))
    assert error.cause == "data" and "shuffle(29) without a seed" in str(error)


# --- what cannot be asked ------------------------------------------------------------------------


def trained():
    trainer = Own(callbacks=[Notes()])
    trainer.fit(DATA, batch_size=8, verbose=0)
    return trainer


@pytest.mark.share(3)
@pytest.mark.parametrize(
    ("make", "how", "said"),
    [
        (Own, {"breaks": (8,)}, r"breaks=\[8\]: the run ends after step 8"),
        (Own, {"breaks": ()}, "can only be broken between two steps"),
        (Own, {"steps": 1, "epochs": None}, "the run ends after step 1"),
        (trained, {}, "has trained already"),
        (lambda: lambda: Own(), {}, "cannot be called with run_dir="),
        (lambda: lambda **options: Own(), {}, "called with run_dir="),
        (Own, {"callbacks": [looplab.callbacks.Lambda(on_step=print)]}, None),
        (
            Own,
            {"data": tf.data.Dataset.from_tensor_slices(DATA).shuffle(9, 1).batch(8)},
            "continues to count",
        ),
    ],
)
def test_what_cannot_be_checked_is_refused(make, how, said, monkeypatch):
    monkeypatch.setattr(passes, "_LARGE", 0)
    how = {"epochs": 2, "data": DATA, "batch_size": 8} | how
    if said is None:
        check_resume(make(), how.pop("data"), **how, breaks=(3,))
        return
    with pytest.raises(looplab.ConfigurationError, match=said):
        check_resume(make(), how.pop("data"), **how)
