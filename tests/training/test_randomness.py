"""What a step draws: the numbers of one device on any number of replicas and micro-batches, or a reason."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import looplab
from looplab.errors import CheckpointError, ConfigurationError, LossError
from looplab.testing.probe import Probe
from looplab.training.trainer_parts import parts_of
from tests.conftest import make_strategy

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(17, 6)), RNG.normal(size=(17, 1))
SPLITS = [(2, 1), (1, 2), (3, 2)]


def network(*more):
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, "tanh"), *(make() for make in more), layers.Dense(1)]
    )


def dropping():
    return network(lambda: layers.Dropout(0.4))


class Drawing(looplab.Trainer):
    """Its loss adds what `noise` draws to the inputs."""

    def setup(self):
        self.seeds = keras.random.SeedGenerator(self.seed)

    def compute_loss(self, batch, training):
        inputs, targets = batch
        outputs = self.model(inputs + 0.1 * self.noise(inputs), training=training)
        return tf.reduce_mean((outputs - targets) ** 2, axis=-1)


def trainer(kind=looplab.Trainer, replicas=1, micro_batches=1, model=network, **options):
    keras.backend.clear_session(free_memory=False)
    loss = None if issubclass(kind, Drawing) else "mse"
    return kind(
        model,
        keras.optimizers.Adam(0.01),
        loss,
        seed=3,
        strategy=make_strategy(replicas),
        micro_batches=micro_batches,
        **{"execution": "graph", "precision": "float64", **options},
    )


def fitted(made, steps=3):
    """Trains on batches of 7, 7 and 3 rows: on three replicas and two micro-batches some parts have none."""
    made._losses = made.fit(X, Y, batch_size=7, steps=steps, verbose=0).history["loss"]
    return made


def shown(made):
    return made._losses


def state(made):
    variables = [*made.model.variables, *(v for v in vars(made).values() if isinstance(v, keras.Variable))]
    return np.concatenate([np.ravel(variable.numpy()) for variable in variables])


def said(made):
    """Returns what the plan says of random numbers."""
    return dict(parts_of(made).engine.draws.line()).get("random numbers", "")


def prepared(made):
    """Traces the training step, and makes none."""
    Probe(made, [(X[:7].astype(keras.config.floatx()), Y[:7])])
    return made


class Kinds(Drawing):
    """Each kind of draw that TensorFlow and Keras have; also what shapes cannot show, and what all share."""

    def noise(self, x):
        shape, options = tf.shape(x), {"seed": self.seeds, "dtype": x.dtype}
        rows = shape[0]
        found = keras.random.normal(shape, **options) + keras.random.uniform(shape, **options)
        found += keras.random.truncated_normal(shape, **options) + keras.random.normal((6,), **options)
        found += keras.random.gamma(shape, 2.0, **options) + keras.random.beta(shape, 2.0, 1.0, **options)
        found += keras.random.binomial(shape, 5.0, 0.3, **options)
        found += tf.cast(keras.random.randint((rows, 1), 0, 9, seed=self.seeds), x.dtype)
        found += tf.cast(tf.random.stateless_poisson(shape, self.seeds.next(), tf.abs(x)), x.dtype)
        chosen = keras.random.categorical(tf.cast(x, tf.float32), 6, seed=self.seeds)
        found += tf.cast(chosen, x.dtype)
        with looplab.random.rows(axis=1):
            found += tf.transpose(keras.random.normal((6, rows), **options))
        with looplab.random.rows(folded=True):
            found += tf.reshape(keras.random.normal((2 * rows, 3), **options), shape)
        with looplab.random.rows(views=2):
            first, second = tf.split(keras.random.normal((2 * rows, 6), **options), 2)
        with looplab.random.shared():
            found += keras.random.normal((1, 6), **options)
        return found + first * second


class Loops(Drawing):
    """Draws in loops, with seeds of the rows and with a generator that a loop advances."""

    def noise(self, x):
        found = tf.zeros_like(x)
        for turn in tf.range(3):
            found += tf.random.stateless_normal(tf.shape(x), [self.seed, turn], dtype=x.dtype)
            found += keras.random.normal(tf.shape(x), seed=self.seeds, dtype=x.dtype)
        seeds = tf.random.split(self.seeds.next(), tf.shape(x)[0])
        drawn = tf.map_fn(
            lambda seed: tf.random.stateless_normal([6], seed, dtype=x.dtype),
            seeds,
            fn_output_signature=x.dtype,
        )
        return found + tf.reshape(drawn, tf.shape(x))  # eagerly, of no rows it has the shape [0]


class InStep(looplab.Trainer):
    """Draws from seed and step, outside of the loss."""

    def train_step(self, batch):
        inputs, targets = batch
        seed = [self.seed, tf.cast(self.step, tf.int32)]
        noise = tf.random.stateless_normal(tf.shape(inputs), seed, dtype=inputs.dtype)
        return self.minimize(self.compute_loss, (inputs + noise, targets))


class Unseeded(Drawing):
    def noise(self, x):
        return keras.random.normal(tf.shape(x), dtype=x.dtype) + keras.random.normal((6,), dtype=x.dtype)


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("kind", "model", "options"),
    [
        pytest.param(Kinds, network, {}, id="every kind"),
        pytest.param(Loops, network, {}, id="loops"),
        pytest.param(InStep, dropping, {}, id="step and masks"),
        pytest.param(InStep, dropping, {"execution": "xla_step"}, id="XLA"),
        pytest.param(Loops, dropping, {"run_eagerly": True}, id="eagerly", marks=pytest.mark.slow),
        pytest.param(Unseeded, dropping, {}, id="without a seed"),
    ],
)
@pytest.mark.promise(1)
def test_no_split_of_the_batch_changes_what_a_row_draws(kind, model, options):
    whole = fitted(trainer(kind, model=model, **options))
    for replicas, micro_batches in SPLITS if options.get("execution") is None else SPLITS[:2]:
        split = fitted(trainer(kind, replicas, micro_batches, model=model, **options))
        assert np.allclose(state(split), state(whole), rtol=0, atol=1e-12), (replicas, micro_batches)
        assert shown(split) == pytest.approx(shown(whole), rel=1e-12)


def test_the_plan_says_that_draws_follow_the_row():
    lines = dict(trainer(replicas=2, model=dropping).rehearse(X, Y, batch_size=7).lines)
    said = "by row (1 draw); weights do not depend on replicas or micro-batches"
    assert lines["random numbers"] == said


class TwoViews(Drawing):
    def noise(self, x):
        both = keras.random.normal((2 * tf.shape(x)[0], 6), seed=self.seeds, dtype=x.dtype)
        return tf.split(both, 2)[0]


class Misdeclared(Drawing):
    def noise(self, x):
        with looplab.random.rows(views=3):
            return keras.random.normal(tf.shape(x), seed=self.seeds, dtype=x.dtype)


class Shuffled(Drawing):
    def noise(self, x):
        return keras.random.shuffle(x, seed=self.seeds)


class ShuffledByTensorFlow(Drawing):
    def noise(self, x):
        return tf.random.experimental.stateless_shuffle(x, [self.seed, 1])


class OfTensorFlow(Drawing):
    def setup(self):
        self.generator = tf.random.Generator.from_seed(3)

    def noise(self, x):
        return self.generator.normal(tf.shape(x), dtype=x.dtype)


class WithoutSeed(Drawing):
    def noise(self, x):
        return tf.random.normal(tf.shape(x), dtype=x.dtype)


class Conditional(Drawing):
    def noise(self, x):
        if tf.reduce_sum(x) > 0:
            return keras.random.normal(tf.shape(x), seed=self.seeds, dtype=x.dtype)
        return tf.zeros_like(x)


class AsLongAs(Drawing):
    def noise(self, x):
        found = tf.zeros_like(x)
        while tf.reduce_sum(found) < 1:
            found += 1 + keras.random.uniform(tf.shape(x), seed=self.seeds, dtype=x.dtype)
        return found


class Raw(Drawing):
    def noise(self, x):
        seed = tf.constant([1, 2])
        return tf.raw_ops.StatelessRandomNormal(shape=tf.shape(x), seed=seed, dtype=x.dtype)


class Recomputed(Drawing):
    def noise(self, x):
        return tf.recompute_grad(lambda x: keras.random.normal(tf.shape(x), seed=self.seeds, dtype=x.dtype))(
            x
        )


class Counting(Drawing):
    def setup(self):
        self.count = tf.Variable(0, trainable=False)

    def noise(self, x):
        return tf.random.stateless_normal(tf.shape(x), [self.seed, self.count.assign_add(1)], dtype=x.dtype)


class SomeRows(looplab.Trainer):
    """Gives `minimize` other rows than its own, in which a layer draws."""

    def train_step(self, batch):
        return self.minimize(self.compute_loss, tf.nest.map_structure(lambda part: part[:2], batch))


def mixing():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Reshape((2, 3, 1)),
            layers.AugMix((0, 1)),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )


UNPLACED = [
    (TwoViews, network, "has the shape [96, 6] for 48 rows and [192, 6] for 96"),
    (Misdeclared, network, "which is not as Layout(axis=0, views=3, folded=False) declares"),
    (Shuffled, network, "orders or chooses among the rows of each replica and micro-batch alone"),
    (ShuffledByTensorFlow, network, "orders the rows of each replica and micro-batch alone"),
    (OfTensorFlow, network, "is of a tf.random.Generator"),
    (WithoutSeed, network, "draws from a state that no seed determines"),
    (Conditional, network, "is advanced in a condition, or in a loop whose length depends on values"),
    (AsLongAs, network, "is advanced in a condition, or in a loop whose length depends on values"),
    (Raw, network, "is not drawn by tf.random.stateless_* or keras.random"),
    (Recomputed, network, "is made again in the backward pass"),
    (Counting, network, "has a seed from a variable that the step changes"),
    (SomeRows, dropping, "so its rows are not known"),
    (looplab.Trainer, mixing, "draws from Python's global generator when it is traced"),
]


@pytest.mark.share(2)
@pytest.mark.parametrize(("kind", "model", "reason"), UNPLACED)
def test_the_plan_names_the_draw_that_cannot_be_placed_and_replicas_draw_apart(kind, model, reason):
    precision = "float32" if model is mixing else "float64"  # AugMix computes in nothing else
    made = trainer(kind, micro_batches=2, model=model, precision=precision)
    with looplab.strategy.precision.scope(precision):
        text = said(prepared(made))
    assert text.startswith("by replica, since ") and reason in text
    if kind not in (Conditional, AsLongAs, looplab.Trainer):  # which name a generator, or the step
        assert f"{__file__.rsplit('/', 1)[1]}:" in text


@pytest.mark.slow
def test_replicas_without_a_placed_draw_do_not_draw_the_same():
    """Eight rows on two replicas have eight numbers, not four, where only prediction cannot be placed."""

    class Shown(Drawing):
        def noise(self, x):
            return keras.random.normal(tf.shape(x), seed=self.seeds, dtype=x.dtype)

        def predict_step(self, batch):
            inputs = batch[0] if isinstance(batch, tuple) else batch
            drawn = keras.random.normal(tf.shape(inputs), seed=self.seeds)
            return keras.random.shuffle(drawn, seed=self.seeds)

    made = fitted(trainer(Shown, replicas=2))
    assert said(made).startswith("by row")
    drawn = made.predict(X[:8], batch_size=8)
    assert len({row.tobytes() for row in drawn}) == 8


@pytest.mark.slow
def test_evaluation_and_prediction_draw_the_numbers_of_one_device():
    class Shown(Drawing):
        def noise(self, x):
            return keras.random.normal(tf.shape(x), seed=self.seeds, dtype=x.dtype)

        def predict_step(self, batch):
            return batch[0] + self.noise(batch[0])

    shown = []
    for replicas in (1, 3):
        made = trainer(Shown, replicas)
        values = made.evaluate(X, Y, batch_size=7)
        history = made.fit(X, Y, batch_size=7, epochs=2, validation_data=(X, Y), verbose=0).history
        shown.append((values["loss"], history["val_loss"], made.predict((X, Y), batch_size=7)))
    for one, three in zip(*shown, strict=True):
        assert np.allclose(one, three, rtol=1e-12)


def test_a_run_that_draws_goes_on_with_other_replicas_and_micro_batches(tmp_path):
    """A checkpoint holds one state of each generator, also of the one behind draws without a seed."""
    whole = fitted(trainer(Unseeded, model=dropping, run_dir=tmp_path / "whole"), 7)
    for steps, split in ((2, (2, 1)), (4, (3, 1)), (6, (1, 2)), (7, (2, 2))):
        made = fitted(trainer(Unseeded, *split, model=dropping, run_dir=tmp_path / "moved"), steps)
    assert np.allclose(state(made), state(whole), rtol=0, atol=1e-12)
    arrays = looplab.checkpoint.read(next((tmp_path / "moved" / "checkpoints").glob("*7")))
    assert not [path for path in arrays if path.endswith("@replicas")]


@pytest.mark.slow
def test_a_run_goes_on_by_the_rule_with_which_it_was_begun(tmp_path, caplog):
    """`random="replicas"` draws as looplab drew before; only `allow_change` lets a run change the rule."""
    unbroken = fitted(trainer(replicas=2, model=dropping, random="replicas", run_dir=tmp_path / "whole"), 4)
    fitted(trainer(replicas=2, model=dropping, random="replicas", run_dir=tmp_path / "run"), 2)
    made = fitted(trainer(replicas=2, model=dropping, run_dir=tmp_path / "run"), 4)
    assert "random numbers go on by replica" in caplog.text
    assert np.array_equal(state(made), state(unbroken))
    with pytest.raises(CheckpointError, match="topology: replicas 2 -> 3; its steps draw random numbers"):
        fitted(trainer(replicas=3, model=dropping, run_dir=tmp_path / "run"), 5)
    changed = trainer(replicas=2, model=dropping, run_dir=tmp_path / "run", allow_change=["config"])
    assert said(fitted(changed, 5)).startswith("by row")
    with pytest.raises(CheckpointError, match="config: random rows -> replicas"):
        fitted(trainer(replicas=2, model=dropping, random="replicas", run_dir=tmp_path / "run"), 6)


class ByNumber(Drawing):
    def noise(self, x):
        shape = (tf.shape(x)[0], 6 if x.shape[0] == 3 else 1)
        return keras.random.normal(shape, seed=self.seeds, dtype=x.dtype)


def test_a_draw_that_was_not_there_when_looplab_looked_is_refused():
    made = trainer(ByNumber, micro_batches=2, run_eagerly=True)
    with pytest.raises(LossError, match=r"shape \[3, 6\].* was not there .* it saw normal"):
        made.fit(X[:6], Y[:6], batch_size=6, epochs=1, verbose=0)


@pytest.mark.parametrize("by", ["keras.remat", "tf.recompute_grad"])
def test_a_layer_that_draws_again_in_the_backward_pass_is_named(by):
    """Keras' and TensorFlow's own gradient is that of another mask."""

    class Again(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner, self.drop, self.top = layers.Dense(4), layers.Dropout(0.5), layers.Dense(1)

        def call(self, inputs, training=False):
            recompute = keras.remat if by == "keras.remat" else tf.recompute_grad
            return self.top(recompute(lambda x: self.drop(self.inner(x), training=training))(inputs))

    warning = dict(trainer(model=Again).rehearse(X, Y, batch_size=7).lines)["warning"]
    assert "seed_generator_state: the second pass draws other numbers" in warning


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: looplab.random.rows(axis=-1), "axis=-1, views=1"),
        (lambda: looplab.random.rows(views=0), "the views from 1"),
        (lambda: looplab.random.rows(views=2, folded=True), "different layouts"),
        (lambda: trainer(random="row"), "random: 'row' is not one of 'rows', 'replicas'"),
    ],
)
def test_a_wrong_word_is_refused(call, message):
    with pytest.raises(ConfigurationError, match=message), call():
        pass


class PerPart(Drawing):
    """Draws for as many rows as only the number of rows tells, which a trace of open batches does not."""

    def noise(self, x):
        half = tf.shape(x)[0] // 2
        drawn = tf.random.stateless_normal([half, 6], [self.seed, self.step], dtype=x.dtype)
        return tf.concat([drawn, drawn, drawn], 0)[: tf.shape(x)[0]]


@pytest.mark.share(1)
@pytest.mark.parametrize("rows", [7, 6], ids=["open batches", "whole batches"])
def test_half_as_many_draws_as_rows_are_not_taken_for_rows(rows):
    made = trainer(PerPart, replicas=2)
    line = dict(made.rehearse(X[:12], Y[:12], batch_size=rows).lines)["random numbers"]
    assert line.startswith("by replica, since normal at") and "its rows are not known" in line


def test_the_plan_says_that_numbers_by_replica_were_asked_for():
    line = dict(trainer(replicas=2, model=dropping, random="replicas").rehearse(X, Y, batch_size=7).lines)
    assert line["random numbers"].startswith("by replica, as random='replicas' says; other replicas")
