"""`check_step` checks the step that trains: frozen layers stay, in each phase, and nothing is dropped."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.callbacks import Freeze
from looplab.testing import StepDiffers, check_step
from tests.conftest import make_strategy

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(8, 3)).astype("float32"), RNG.normal(size=(8, 1)).astype("float32")
GRAPH = {"replicas": (1,), "micro_batches": (1,), "modes": ("graph",)}
EAGER = {"replicas": (1,), "micro_batches": (1,), "modes": ("eager",)}
SPLIT = {"replicas": (2,), "micro_batches": (1,), "modes": ()}


@keras.saving.register_keras_serializable("test_check_frozen")
class Counting(keras.layers.Layer):
    """A scale, and a statistic that moves whether the layer is frozen or not."""

    def __init__(self, asks=False, **options):
        super().__init__(**options)
        self.asks = asks

    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")
        self.seen = self.add_weight(name="seen", shape=(), initializer="zeros", trainable=False)

    def call(self, x, training=False):
        if training and (self.trainable or not self.asks):
            self.seen.assign(self.seen + 1.0)
        return x * self.scale

    def get_config(self):
        return {**super().get_config(), "asks": self.asks}


def network(*, asks=True, frozen=""):
    stem = keras.Sequential([keras.layers.Dense(4), Counting(asks, name="count")], name="stem")
    model = keras.Sequential([keras.Input((3,)), stem, keras.layers.Dense(1, name="head")])
    if frozen:
        model.get_layer(frozen).trainable = False
    return model


class Own(looplab.Trainer):
    def compute_loss(self, batch, training):
        x, y = batch
        return tf.square(self.model(x, training=training) - y)[:, 0]


class Held(Own):
    """Trains what was trainable when it was made."""

    def setup(self):
        self.chosen = list(self.model.trainable_variables)

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            tape.watch([variable.value for variable in self.chosen])
            total = tf.reduce_sum(self.compute_loss(batch, True))
        gradients = tape.gradient(total, self.chosen)
        rows = tf.cast(tf.shape(batch[0])[0], tf.float32)
        self.apply_gradients(gradients, self.chosen, weight=rows)
        return {"loss": total / rows}


class Decays(keras.optimizers.SGD):
    """Decays all that it was built for."""

    def apply(self, grads, trainable_variables=None):
        super().apply(grads, trainable_variables)
        for variable in self._trainable_variables:
            variable.assign(variable * 0.99)


class Target(Own):
    """Moves a frozen copy by itself."""

    def train_step(self, batch):
        logs = super().train_step(batch)
        head = self.model.get_layer("head").kernel
        stem = self.model.get_layer("stem").layers[0].bias
        stem.assign(0.9 * stem + 0.1 * tf.reduce_mean(head))
        return logs


class OnlyThen(Own):
    """Wrong while the stem is frozen, or only when it is not."""

    wrong_if = True

    def train_step(self, batch):
        if self.model.get_layer("stem").layers[0].trainable != self.wrong_if:
            return self.minimize(self.compute_loss, batch)
        return self.minimize(self.local, batch)

    def local(self, batch, training):
        values = self.compute_loss(batch, training)
        return values - tf.reduce_mean(values) ** 2


class OnlyFrozen(OnlyThen):
    wrong_if = False


def refused(trainer, batch=(X, Y), **asked):
    with pytest.raises(StepDiffers) as caught:
        check_step(trainer, batch, **asked)
    return caught.value


def adamw(**options):
    return lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, use_ema=True, **options)


# --- what passes ---------------------------------------------------------------------------------


@pytest.mark.share(1)
@pytest.mark.parametrize(
    "trainer",
    [
        lambda: Own(network(frozen="stem"), adamw()()),
        lambda: Own(lambda: network(frozen="stem"), adamw()),
        lambda: Own(network(), adamw(), callbacks=[Freeze("stem")]),
        lambda: Own(network, adamw(), callbacks=[Freeze("stem")]),
        lambda: Own(network, adamw(), callbacks=[Freeze("stem/dense", until="2ep"), Freeze("*/bias")]),
        lambda: lambda **options: Own(network, "sgd", callbacks=[Freeze("head", until=3)], **options),
    ],
    ids=["object", "factory", "by name", "for good", "for a time", "function"],
)
def test_frozen_layers_pass(trainer):
    report = check_step(trainer(), (X, Y), **GRAPH)
    assert {row.verdict for row in report.rows} == {"same"}, report


@pytest.mark.slow
def test_each_phase_has_its_rows():
    trainer = Own(network, "sgd", callbacks=[Freeze("stem", until="2ep"), Freeze("head", until="5st")])
    report = check_step(trainer, (X, Y), **SPLIT)
    assert [row.name for row in report.rows] == [
        "the same again, stem, head frozen",
        "the same again, after 5st, stem frozen",
        "2 replicas, after 5st, stem frozen",
        "the same again, after 2ep",
        "2 replicas, after 2ep",
    ]
    assert report.notes == ["everything is frozen (stem, head frozen), so no update was compared"]
    assert "note: everything is frozen" in repr(report)


@pytest.mark.slow
def test_what_a_step_assigns_itself_is_told_and_no_fault():
    report = check_step(Target(network(frozen="stem"), "sgd"), (X, Y), **GRAPH)
    assert report.notes == ["frozen, but assigned by the step itself: models/model/stem/dense/bias"]


@pytest.mark.slow
def test_callbacks_that_are_not_called_are_told():
    watch = looplab.callbacks.Lambda(on_step=print)
    report = check_step(Own(network, "sgd", callbacks=[watch]), (X, Y), **GRAPH)
    assert report.notes == ["callbacks are not called: Lambda"]


# --- what does not -------------------------------------------------------------------------------


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("trainer", "path", "said"),
    [
        (lambda: Held(network, "sgd", callbacks=[Freeze("stem")]), "stem/dense/", "inside the step"),
        (lambda: Own(network, Decays, callbacks=[Freeze("head")]), "head/", "decay"),
        (lambda: Own(network(asks=False, frozen="stem"), "sgd"), "stem/count/seen", "self.trainable"),
        (
            lambda: Own(lambda: network(asks=False), "sgd", callbacks=[Freeze("stem", until=9)]),
            "stem/count/seen",
            "self.trainable",
        ),
    ],
    ids=["handed", "decayed", "object", "callback"],
)
def test_a_frozen_part_that_changes_is_found(trainer, path, said):
    error = refused(trainer(), **GRAPH)
    assert error.cause == "frozen", error
    assert "the step changes frozen variables" in str(error) and path in str(error) and said in str(error)


class OnReplicas(Own):
    """Moves what is frozen where there are several replicas only."""

    def train_step(self, batch):
        logs = super().train_step(batch)
        if self.num_replicas > 1:
            variables = [self.model.get_layer("stem").layers[0].kernel]
            self.apply_gradients([tf.ones_like(variables[0])], variables, weight=1.0)
        return logs


@pytest.mark.slow
def test_a_frozen_part_that_changes_on_replicas_only_is_found():
    error = refused(OnReplicas(network(frozen="stem"), "sgd"), **SPLIT)
    assert error.cause == "frozen" and "stem/dense/kernel" in str(error), error
    assert error.report.rows[-1].name == "2 replicas"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "phase"), [(OnlyThen, "(after 3st)"), (OnlyFrozen, "(stem frozen)")], ids=["thawed", "frozen"]
)
def test_a_step_that_is_wrong_in_one_phase_is_found_there(kind, phase):
    error = refused(kind(network, "sgd", callbacks=[Freeze("stem", until=3)]), **SPLIT)
    assert error.cause == "across the batch" and f"with 2 replicas {phase}." in str(error), error
    assert [row.verdict for row in error.report.rows].count("differs") == 1


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(looplab.ConfigurationError, match=r"Freeze.layers: 'stam' matches no"):
        check_step(Own(network, "sgd", callbacks=[Freeze("stam")]), (X, Y), **GRAPH)


# --- nothing is dropped where a trainer is made again --------------------------------------------


def partly_frozen():
    model = network()
    model.get_layer("head").kernel.trainable = False
    model.get_layer("stem").layers[0].trainable = False
    return model


def named_optimizer():
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["kernel"])
    return optimizer


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 1])
def test_a_model_and_an_optimizer_that_are_made_anew_lose_nothing(replicas):
    model, optimizer = partly_frozen(), named_optimizer()
    before = [array.copy() for array in model.get_weights()]
    trainer = Own(model, optimizer, strategy=make_strategy(replicas))
    trainer.fit((X, Y), batch_size=8, verbose=0)
    assert [v.trainable for v in trainer.model.weights] == [v.trainable for v in model.weights]
    changed = {v.path.rpartition("/")[2] for v, b in zip(trainer.model.weights, before, strict=True)
               if not np.array_equal(v.numpy(), b)}  # fmt: skip
    assert changed == {"scale", "seen", "bias"}
    plain = Own(partly_frozen, named_optimizer)
    plain.model.set_weights(before)
    plain.fit((X, Y), batch_size=8, verbose=0)
    for one, other in zip(trainer.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_variables_that_are_excluded_as_objects_are_refused_where_they_are_others():
    model, optimizer = network(), keras.optimizers.AdamW(0.01)
    optimizer.exclude_from_weight_decay(var_list=model.trainable_variables[:1])
    with pytest.raises(looplab.ConfigurationError, match="var_names="):
        check_step(Own(model, optimizer), (X, Y), **GRAPH)


@pytest.mark.slow
def test_settings_of_a_run_are_those_of_the_step(tmp_path):
    class Halves(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1 * 0.5 ** tf.cast(step, tf.float32)

        def get_config(self):
            return {}

    groups = {"stem": {"match": "stem", "learning_rate_scale": 0.5}, "rest": {}}
    model = network()
    trainer = looplab.Trainer(
        model,
        keras.optimizers.Adam(Halves(), global_clipnorm=0.5),
        "mse",
        parameter_groups=groups,
        metrics=["mae"],
        on_nonfinite="rollback",
        spikes=looplab.SpikeDetection("rollback"),
        run_dir=tmp_path / "run",
        execution="xla_loop",
    )
    report = check_step(trainer, (X, Y), replicas=(2,), micro_batches=(1,), modes=("eager",))
    assert {row.verdict for row in report.rows} == {"same"}
    assert "'xla_step'" in report.notes[0] and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_metric_that_is_not_that_of_the_batch_is_found():
    class Last(keras.metrics.Metric):
        def __init__(self, name="last"):
            super().__init__(name=name)
            self.value = self.add_weight(name="value", initializer="zeros")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.value.assign(tf.reduce_mean(y_pred))

        def result(self):
            return self.value

    class Measured(Own):
        def compute_loss(self, batch, training):
            self.update_metrics(batch[1], self.model(batch[0], training=training))
            return super().compute_loss(batch, training)

    def model():
        return keras.Sequential([keras.layers.Dense(1)])

    asked = {"replicas": (2,), "micro_batches": (2,), "modes": ("eager",)}
    right = check_step(Measured(model, "sgd", metrics=["mae"]), (X, Y), **asked)
    assert {row.verdict for row in right.rows} == {"same"}
    error = refused(Measured(model, "sgd", metrics=[Last]), replicas=(1,), micro_batches=(2,), modes=())
    assert error.cause == "state" and "metrics/last" in str(error)


@pytest.mark.slow
def test_weights_by_class_and_first_weights_are_those_of_fit(tmp_path):
    classes = RNG.integers(0, 2, 8)

    def made(**options):
        return looplab.Trainer(
            lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]),
            "sgd",
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            **options,
        )

    first = made(seed=5)
    first.model.save_weights(tmp_path / "first.weights.h5")
    trainer = made(initialize_from=tmp_path / "first.weights.h5")
    seen = []

    class Seen(looplab.Trainer):
        def compute_loss(self, batch, training):
            if tf.executing_eagerly():
                seen.append((batch[2].numpy(), self.model.get_weights()[0]))
            return super().compute_loss(batch, training)

    def again(**options):
        trainer = Seen(*made_by.args, **{**made_by.keywords, **options})
        return trainer

    made_by = trainer._made_by
    check_step(again, (X, classes), class_weight={0: 1.0, 1: 0.25}, **EAGER)
    np.testing.assert_array_equal(seen[1][0], np.where(classes == 0, 1.0, 0.25))
    np.testing.assert_array_equal(seen[1][1], first.model.get_weights()[0])
    with pytest.raises(looplab.ConfigurationError, match="class_weight"):
        check_step(trainer, (X, Y, np.ones(8)), class_weight={0: 1.0}, **SPLIT)
