"""`mixed_float16`: losses are scaled, an update that overflows is skipped, all else is as before."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab import optimization
from looplab.checkpoint import state
from tests.conftest import make_strategy

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype("float32")
Y = X @ np.array([[1.0], [-2.0], [0.5]], "float32")
HUGE = X.copy()
HUGE[21] = 1e5  # beyond float16, in step 3 of 5, among the rows of the second replica
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Begins with a scale that these gradients stand; that of Keras is found from above."""
    monkeypatch.setattr(optimization.loss_scale, "INITIAL", 2.0**8)


def model():
    layers = [keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((3,)), *layers])


def make(optimizer="adam", precision="mixed_float16", **options):
    return looplab.Trainer(model, optimizer, "mse", ["mae"], precision=precision, seed=3, **options)


def scale_of(trainer, name="optimizer"):
    return {what: float(v.numpy()) for what, v in trainer._engine.loss_scales[name].variables.items()}


@pytest.mark.slow
def test_it_trains_as_float32_does_and_needs_no_change():
    runs, strategy = {}, make_strategy(2)
    for precision in ("float32", "mixed_float16"):
        trainer = make("sgd", precision, strategy=strategy, micro_batches=2)
        history = trainer.fit(X, Y, **FIT, epochs=3).history
        runs[precision] = history["loss"], trainer.model.get_weights()
        assert trainer.model.layers[0].compute_dtype == precision.removeprefix("mixed_")
        assert all(weight.dtype == np.float32 for weight in trainer.model.get_weights())
    np.testing.assert_allclose(runs["mixed_float16"][0], runs["float32"][0], rtol=0.02)
    for half, single in zip(runs["mixed_float16"][1], runs["float32"][1], strict=True):
        np.testing.assert_allclose(half, single, atol=0.02)


@pytest.mark.share(1)
@pytest.mark.promise(36)
@pytest.mark.parametrize(
    ("replicas", "execution", "on_nonfinite"),
    [
        (2, "graph", "stop"),
        (1, "xla_step", "ignore"),
        (2, "eager", "ignore"),
        *(  # BatchNormalization over replicas does not compile in XLA
            pytest.param(*cell, marks=pytest.mark.slow)
            for cell in [
                (2, "graph", "ignore"),
                (1, "graph", "stop"),
                (1, "graph", "ignore"),
                (1, "xla_step", "stop"),
                (2, "eager", "stop"),
                (1, "eager", "stop"),
                (1, "eager", "ignore"),
            ]
        ),
    ],
)
def test_an_overflow_on_one_replica_makes_all_skip(replicas, execution, on_nonfinite):
    strategy = make_strategy(replicas)
    how = {"run_eagerly": True} if execution == "eager" else {"execution": execution}
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 1, 0.5)
    trainer = make(keras.optimizers.Adam(schedule), strategy=strategy, on_nonfinite=on_nonfinite, **how)
    trainer.fit(HUGE, Y, **FIT, steps=2)
    before = state.read(trainer._engine.variables)
    history = trainer.fit(HUGE, Y, **FIT, steps=3).history
    after = state.read(trainer._engine.variables)
    moved = {path for path in after if not np.array_equal(after[path], before[path])}
    assert moved == {"loop/step", "loop/loss_scale/optimizer/scale", "loop/loss_scale/optimizer/skipped"} | {
        "loop/loss_scale/optimizer/good"
    }
    assert scale_of(trainer) == {"scale": 2.0**7, "good": 0.0, "skipped": 1.0}
    assert history["skipped_updates"] == [1.0] and history["loss_scale"] == [2.0**7]
    assert float(trainer.optimizers["optimizer"].learning_rate) == pytest.approx(0.01 * 0.5**3)
    history = trainer.fit(HUGE, Y, **FIT, epochs=1).history  # and goes on
    assert scale_of(trainer) == {"scale": 2.0**7, "good": 2.0, "skipped": 1.0}
    assert int(trainer.optimizers["optimizer"].iterations.numpy()) == 4
    assert np.isfinite([history["loss"][-1], history["mae"][-1]]).all()  # the skipped step is in no mean


@pytest.mark.slow
def test_the_scale_is_doubled_after_many_good_updates(monkeypatch, tmp_path):
    monkeypatch.setattr(optimization.loss_scale, "GROWTH_STEPS", 3)
    trainer = make("sgd", run_dir=tmp_path)
    trainer.fit(X, Y, **FIT, steps=2)
    assert scale_of(trainer) == {"scale": 2.0**8, "good": 2.0, "skipped": 0.0}
    again = make("sgd", run_dir=tmp_path)
    again.fit(X, Y, **FIT, steps=7)
    assert scale_of(again) == {"scale": 2.0**10, "good": 1.0, "skipped": 0.0}


@pytest.mark.fault(55)
def test_what_no_scale_can_mend_ends_the_run():
    trainer = make("sgd")
    with pytest.raises(looplab.DivergedError, match="in step 9: loss is"):  # 2**8 is halved 8 times
        trainer.fit(HUGE * 1e6, Y, **FIT, epochs=10)
    assert scale_of(trainer)["scale"] == 1.0


class TwoOptimizers(looplab.Trainer):
    def train_step(self, batch):
        x, _ = batch
        rows = tf.cast(tf.shape(x)[0], tf.float32)

        def loss(batch, training, factor=1.0):
            return tf.cast(self.models["left"](batch[0]), tf.float32)[:, 0] ** 2 * factor

        values = self.minimize(loss, batch, "left")
        with tf.GradientTape() as tape:
            out = tf.cast(self.models["right"](x), tf.float32)
            total = tf.reduce_sum(out * tf.where(self.step == 1, np.inf, 1.0))
        variables = self.models["right"].trainable_variables
        self.apply_gradients(tape.gradient(total, variables), variables, "right", weight=rows)
        return values


def test_each_optimizer_has_a_scale_and_skips_for_itself():
    def dense():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])

    trainer = TwoOptimizers(
        models={"left": dense, "right": dense},
        optimizers={"left": "sgd", "right": "sgd"},
        precision="mixed_float16",
    )
    history = trainer.fit(X, Y, **FIT, steps=4).history
    assert (scale_of(trainer, "left")["skipped"], scale_of(trainer, "right")["skipped"]) == (0, 1)
    iterations = {name: int(o.iterations.numpy()) for name, o in trainer.optimizers.items()}
    assert iterations == {"left": 4, "right": 3}
    assert history["right/skipped_updates"] == [1.0]


def test_a_loss_scale_optimizer_is_refused_with_the_remedy():
    given = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    with pytest.raises(looplab.ConfigurationError, match="Give the inner optimizer"):
        make(given)


@pytest.mark.slow
@pytest.mark.promise(41)
def test_a_step_that_overflows_has_no_share_in_any_mean():
    """The first of three batches overflows; the others give what they give by themselves."""

    def fit(x, y):
        trainer = looplab.Trainer(
            lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]),
            lambda: keras.optimizers.SGD(0.0),
            "mse",
            ["mae"],
            precision="mixed_float16",
            strategy=make_strategy(2),
            execution="graph",
        )
        return trainer.fit(x, y, batch_size=4, shuffle=False, verbose=0).history

    x = np.linspace(-1, 1, 36, dtype="float32").reshape(12, 3)
    wild = np.concatenate([np.full((4, 3), 3e4, "float32"), x[4:]])
    found, expected = fit(wild, x[:, :1]), fit(x[4:], x[4:, :1])
    assert found["skipped_updates"] == [1.0]
    for name in ("loss", "mae"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, err_msg=name)
