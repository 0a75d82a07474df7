"""`looplab.testing.check_step`: right steps pass, and each wrong one is told its cause."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.testing import StepDiffers, check_step
from tests.conformance.cases import CASES, CLASSES, FEATURES, GAN, OwnTape, X, Y

BATCH = (X[:8], Y[:8])
ONE_WAY = {"replicas": (1, 2), "micro_batches": (1,), "modes": ()}


def network(*layers):
    return lambda: keras.Sequential([keras.Input((FEATURES,)), *[make() for make in layers], dense()])


def dense():
    return keras.layers.Dense(CLASSES)


def losses(logits, y):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)


def maker(kind, model=None, optimizer="sgd"):
    return lambda **options: kind(model or network(), optimizer, **options)


def refused(make, batch=BATCH, **asked):
    """The error, of which the cause and the variable are asked for."""
    with pytest.raises(StepDiffers) as caught:
        check_step(make, batch, **asked)
    return caught.value


class Own(looplab.Trainer):
    """A loss of its own, of each example."""

    def compute_loss(self, batch, training):
        x, y = batch
        return losses(self.model(x, training=training), y)


class MeanWithWeightOne(looplab.Trainer):
    def train_step(self, batch):
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(losses(self.model(batch[0], training=True), batch[1]))
        self.apply_gradients(tape.gradient(loss, variables), variables, weight=self.weight_of(batch))
        return {"loss": loss}

    def weight_of(self, batch):
        return 1.0


class MeanWithCount(MeanWithWeightOne):
    def weight_of(self, batch):
        return tf.cast(tf.shape(batch[0])[0], tf.float32)


class SumWithWeightOne(looplab.Trainer):
    def train_step(self, batch):
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            each = losses(self.model(batch[0], training=True), batch[1])
            total = tf.reduce_sum(each)
        self.apply_gradients(tape.gradient(total, variables), variables, weight=1.0)
        return {"loss": tf.reduce_mean(each)}


class LocalNegatives(looplab.Trainer):
    """Contrastive, and sees only the replica's own rows."""

    def compute_loss(self, batch, training):
        logits = self.model(batch[0], training=training)
        similarity = tf.matmul(logits, logits, transpose_b=True)
        return tf.reduce_logsumexp(similarity, axis=-1) - tf.reduce_sum(logits * logits, axis=-1)


class AllNegatives(LocalNegatives):
    def compute_loss(self, batch, training):
        logits = self.model(batch[0], training=training)
        similarity = tf.matmul(logits, self.all_gather(logits), transpose_b=True)
        return tf.reduce_logsumexp(similarity, axis=-1) - tf.reduce_sum(logits * logits, axis=-1)


class HiddenTower(OwnTape):
    """A normalised tower beside the models, where looplab does not synchronise it."""

    def setup(self):
        super().setup()
        self.tower = keras.Sequential([keras.Input((FEATURES,)), keras.layers.BatchNormalization()])

    def train_step(self, batch):
        return super().train_step((self.tower(batch[0], training=True), batch[1]))


class LocalState(Own):
    """A moving average of the replica's own rows."""

    def setup(self):
        self.center = tf.Variable(
            tf.zeros([FEATURES]), trainable=False, synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )  # fmt: skip

    def train_step(self, batch):
        self.center.assign(0.9 * self.center + 0.1 * tf.reduce_mean(batch[0], axis=0))
        return super().train_step(batch)


class ReturnsASum(Own):
    def train_step(self, batch):
        return {**super().train_step(batch), "total": tf.reduce_sum(batch[0])}


class Noisy(Own):
    def compute_loss(self, batch, training):
        x, y = batch
        return losses(self.model(x + tf.random.uniform(tf.shape(x)), training=training), y)


class NumpyNoise(Own):
    def compute_loss(self, batch, training):
        x, y = batch
        return losses(self.model(x + np.random.normal(size=FEATURES).astype("float32"), training=training), y)


class Attribute(Own):
    """Decides in Python what the graph decides once."""

    def setup(self):
        self.before = 1.0

    def compute_loss(self, batch, training):
        if self.before > 0.001:
            self.before *= 0.1
        return super().compute_loss(batch, training) * self.before


class Words(Own):
    def compute_loss(self, batch, training):
        long = tf.strings.length(tf.strings.as_string(batch[1]))
        return super().compute_loss(batch, training) * tf.cast(long, tf.float32)


class Rootless(Own):
    """Fails where the loss is computed in pieces."""

    def compute_loss(self, batch, training):
        tf.debugging.assert_greater(tf.shape(batch[0])[0], 6)
        return super().compute_loss(batch, training)


def test_the_default_step_is_the_same_in_all_ways():
    def make(**options):
        return looplab.Trainer(
            network(), "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options
        )

    report = check_step(make, BATCH)
    named = [
        "the same again",
        "eager",
        "XLA",
        "2 replicas",
        "3 replicas",
        "2 micro-batches",
        "3 micro-batches",
    ]
    assert [row.name for row in report.rows] == named
    assert {row.verdict for row in report.rows} == {"same"}
    assert all(row.largest <= report.rtol == 1e-4 for row in report.rows)
    assert all(name in repr(report) for name in named)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_loss_of_ones_own_passes(optimizer):
    check_step(maker(Own, optimizer=optimizer), BATCH, replicas=(2,), micro_batches=(3,), modes=("eager",))


@pytest.mark.slow
def test_a_gan_with_two_optimizers_passes():
    batch = {"real": X[:7], "noise": X[:7, ::-1].copy()}
    report = check_step(CASES["gan"].make, batch, replicas=(2,), micro_batches=(2,), modes=())
    assert {row.verdict for row in report.rows} == {"same"}


@pytest.mark.slow
def test_a_trainer_that_makes_its_batches_passes():
    check_step(CASES["reinforce"].make, replicas=(2,), micro_batches=(2,), modes=())


@pytest.mark.slow
def test_rounding_that_an_optimizer_makes_large_is_no_difference():
    # The gradient of a bias before a BatchNormalization is only rounding, and Adam divides by its size.
    make = CASES["classifier"].make
    report = check_step(make, BATCH, replicas=(2,), micro_batches=(1,), modes=())
    assert {row.verdict for row in report.rows} == {"same"}


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("kind", "cause", "replicas"),
    [
        pytest.param(MeanWithWeightOne, "local mean", 3, marks=pytest.mark.slow),
        pytest.param(MeanWithCount, "local mean", 2, marks=pytest.mark.slow),
        (SumWithWeightOne, "weight", 3),
        (LocalNegatives, "across the batch", 2),
        pytest.param(HiddenTower, "batch normalisation", 2, marks=pytest.mark.slow),
        pytest.param(LocalState, "state", 2, marks=pytest.mark.slow),
        (ReturnsASum, "returned value", 2),
    ],
)
def test_a_step_that_differs_on_replicas_is_told_why(kind, cause, replicas):
    error = refused(maker(kind), replicas=(replicas,), micro_batches=(1,), modes=())
    assert error.cause == cause, error
    assert f"with {replicas} replicas" in str(error)


@pytest.mark.slow
def test_the_first_variable_and_its_difference_are_named():
    error = refused(maker(MeanWithWeightOne), **ONE_WAY)
    assert error.cause == "local mean" and "with 2 replicas" in str(error), error
    # Eight examples split evenly; the second step has seven.
    assert "after step 2:\n    models/model/dense/" in str(error)
    assert "tf.reduce_mean" in str(error) and "weight=" in str(error)
    row = error.report.rows[-1]
    assert (row.name, row.verdict) == ("2 replicas", "differs") and row.largest > error.report.rtol
    assert repr(error.report) in str(error)


@pytest.mark.slow
def test_what_a_second_optimizer_does_wrong_is_found():
    class LocalGenerator(GAN):
        def generator_loss(self, batch, training):
            values = super().generator_loss(batch, training)
            return values - tf.reduce_mean(values) ** 2

    def make(**options):
        return LocalGenerator(
            models={
                "generator": lambda: keras.Sequential([keras.layers.Dense(FEATURES)]),
                "discriminator": lambda: keras.Sequential([keras.layers.Dense(1)]),
            },
            optimizers={"generator": "sgd", "discriminator": "sgd"},
            **options,
        )

    error = refused(make, {"real": X[:8], "noise": X[:8]}, **ONE_WAY)
    assert error.cause == "across the batch"
    assert "    models/generator/dense" in str(error)


@pytest.mark.slow
def test_gathered_negatives_are_right_on_replicas_and_not_in_micro_batches():
    make = maker(AllNegatives)
    check_step(make, BATCH, replicas=(2,), micro_batches=(1,), modes=())
    error = refused(make, replicas=(1,), micro_batches=(2,), modes=())
    assert error.cause == "across the batch"
    assert "separable = False" in str(error)


@pytest.mark.slow
def test_batch_normalisation_in_micro_batches_is_told():
    make = maker(Own, network(keras.layers.BatchNormalization))
    error = refused(make, replicas=(1,), micro_batches=(2,), modes=())
    assert error.cause == "batch normalisation"
    assert "model/batch_normalization" in str(error)


class Mixed(Own):
    """Draws an order of the rows, which each replica has for its own."""

    def compute_loss(self, batch, training):
        inputs, targets = batch
        order = keras.random.shuffle(inputs, seed=self.seeds)
        return super().compute_loss((inputs + 0.1 * order, targets), training)

    def setup(self):
        self.seeds = keras.random.SeedGenerator(3)


@pytest.mark.slow
def test_masks_are_compared_on_every_part_of_a_batch():
    make = maker(Own, network(lambda: keras.layers.Dropout(0.5)))
    report = check_step(make, BATCH, replicas=(2,), micro_batches=(2,), modes=("eager",))
    assert {row.verdict for row in report.rows} == {"same"}


@pytest.mark.slow
def test_an_order_of_the_rows_is_refused_unless_it_is_meant():
    make = maker(Mixed)
    asked = {"replicas": (2,), "micro_batches": (1,), "modes": ("eager",)}
    error = refused(make, **asked)
    assert error.cause == "randomness" and "random=True" in str(error)
    assert "test_check_step.py" in str(error) and "orders or chooses among the rows" in str(error)
    assert [row.verdict for row in error.report.rows] == ["same", "same", "differs"]
    report = check_step(make, BATCH, **asked, random=True)
    assert [row.verdict for row in report.rows] == ["same", "same", "random"]
    assert "not compared" in report.rows[-1].note


def test_random_numbers_without_a_seed_are_found_first():
    error = refused(maker(Noisy))
    assert error.cause == "randomness"
    assert "RandomUniform at " in str(error) and "repeated from the same state" in str(error)
    assert len(error.report.rows) == 1


@pytest.mark.share(1)
@pytest.mark.parametrize(("kind", "cause"), [(NumpyNoise, "randomness"), (Attribute, "python")])
def test_what_python_does_once_is_found(kind, cause):
    error = refused(maker(kind), replicas=(1,), micro_batches=(1,), modes=("eager",))
    assert error.cause == cause, error


@pytest.mark.slow
def test_an_operation_that_xla_lacks_is_named_and_can_be_waived():
    asked = {"replicas": (1,), "micro_batches": (1,)}
    error = refused(maker(Words), **asked, modes=("xla_step",))
    assert error.cause == "xla"
    assert "AsString" in str(error)
    check_step(maker(Words), BATCH, **asked, modes=("eager", "graph"))


@pytest.mark.slow
def test_a_step_that_raises_in_pieces_is_told_where():
    error = refused(maker(Rootless), replicas=(2,), micro_batches=(2,), modes=())
    assert error.cause == "error" and "with 2 replicas" in str(error)
    assert [row.verdict for row in error.report.rows] == ["same", "failed", "failed"]
    assert all("assertion failed" in row.note for row in error.report.rows[1:])


@pytest.mark.slow
def test_a_trainer_is_left_as_it_is():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 1, 0.5))
    metrics = [keras.metrics.SparseCategoricalAccuracy()]
    trainer = looplab.Trainer(network()(), optimizer, loss, metrics, seed=3)
    trainer.fit(BATCH, batch_size=8, epochs=2, verbose=0)
    before = looplab.checkpoint.state.read(trainer._engine.variables)
    report = check_step(trainer, BATCH, replicas=(2,), micro_batches=(1,), modes=())
    assert {row.verdict for row in report.rows} == {"same"}
    after = looplab.checkpoint.state.read(trainer._engine.variables)
    assert all(np.array_equal(after[path], value) for path, value in before.items())
    assert int(trainer.step.numpy()) == 2
    trainer.fit(BATCH, batch_size=8, epochs=3, verbose=0)


@pytest.mark.slow
def test_a_wrong_trainer_object_is_told_as_its_factory_is(tmp_path):
    adam = keras.optimizers.Adam(0.01)
    trainer = MeanWithCount(network()(), adam, run_dir=tmp_path / "none", jit_compile=True)
    assert refused(trainer, **ONE_WAY).cause == "local mean"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_own_constructor_is_called_with_its_own_arguments():
    class Scaled(Own):
        def __init__(self, width, **options):
            super().__init__(network(lambda: keras.layers.Dense(width)), "sgd", **options)

    check_step(Scaled(2), BATCH, replicas=(1,), micro_batches=(2,), modes=())
    check_step(Scaled(width=2, seed=4), BATCH, replicas=(1,), micro_batches=(1,), modes=("eager",))


class Closed(Own):
    def __init__(self, width):
        super().__init__(network(lambda: keras.layers.Dense(width)), "sgd")


class Subclassed(keras.Model):
    def __init__(self, dense):
        super().__init__()
        self.dense = dense

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: Closed(2), "cannot be created again"),
        (lambda: lambda: Own(network(), "sgd"), "cannot be called with strategy="),
        (lambda: lambda **options: Own(network(), "sgd"), "was called for"),
        (lambda: lambda **options: None, "not a looplab.Trainer"),
        (lambda: Own(Subclassed(dense()), "sgd"), "cannot clone Subclassed"),
    ],
)
def test_a_trainer_that_cannot_be_made_again_is_refused(given, said):
    with pytest.raises(looplab.ConfigurationError, match=said):
        check_step(given(), BATCH, **ONE_WAY)


@pytest.mark.parametrize(
    ("batch", "asked", "said"),
    [
        (BATCH, {"modes": ("xla",)}, "no mode 'xla'.*xla_step"),
        (BATCH, {"replicas": (0,)}, "replicas must be numbers from 1"),
        (BATCH, {"replicas": (9,)}, "conftest.py"),
        ((X[:3], Y[:3]), {}, "has 3 examples"),
        (None, {}, "give a batch"),
    ],
)
def test_what_cannot_be_compared_is_refused(batch, asked, said):
    with pytest.raises(looplab.ConfigurationError, match=said):
        check_step(maker(Own), batch, **asked)


def test_a_step_that_is_not_finite_anyway_is_refused():
    with pytest.raises(looplab.LossError, match="even on one device"):
        check_step(maker(Own), (X[:8] * np.nan, Y[:8]), **ONE_WAY)


def test_steps_that_change_nothing_are_no_proof():
    with pytest.raises(looplab.ConfigurationError, match="nothing to compare"):
        check_step(maker(Own, optimizer=lambda: keras.optimizers.SGD(0.0)), BATCH, **ONE_WAY)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "optimizer", "modes"),
    [("float64", lambda: keras.optimizers.SGD(1e-3), ()), ("mixed_bfloat16", "adam", ("xla_step",))],
)
def test_other_precisions_pass_and_tell_mistakes_from_rounding(precision, optimizer, modes):
    def make(kind):
        model = network(lambda: keras.layers.Dense(4, "tanh"))
        return lambda **options: kind(model, optimizer, precision=precision, **options)

    check_step(make(Own), BATCH, replicas=(3,), micro_batches=(1,), modes=modes)
    assert refused(make(SumWithWeightOne), **ONE_WAY).cause == "weight"


@pytest.mark.slow
def test_a_trainer_that_is_not_separable_is_not_computed_in_pieces():
    class Contrast(looplab.Trainer):
        separable = False

        def compute_loss(self, batch, training):
            inner = self.model(batch, training=training)
            return tf.reduce_logsumexp(inner @ tf.transpose(self.all_gather(inner)), axis=-1)

    trainer = Contrast(lambda: keras.Sequential([keras.layers.Dense(2)]), "sgd")
    batch = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    report = looplab.testing.check_step(trainer, batch, replicas=(1, 2), micro_batches=(2,), modes=())
    assert [(row.name, row.verdict) for row in report.rows[1:]] == [
        ("2 replicas", "same"),
        ("2 micro-batches", "left out"),
    ]
