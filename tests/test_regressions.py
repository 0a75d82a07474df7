"""Mistakes that reviewers and users found, each once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
import looplab.checkpoint.state
from tests.conftest import make_strategy, on_two_replicas

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(36, 4)).astype("float32"), RNG.uniform(size=(36, 3)).astype("float32")


def model(*layers):
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(3)])


def test_micro_batches_of_full_batches_are_never_empty():
    trainer = looplab.Trainer(lambda: model(keras.layers.BatchNormalization()), "sgd", "mse", micro_batches=5)
    trainer.fit(X, Y, batch_size=12, verbose=0)
    assert all(np.isfinite(w).all() for w in trainer.model.get_weights())


@pytest.mark.share(1)
@pytest.mark.parametrize(
    "loss",
    [
        lambda t, p: tf.reduce_mean(tf.square(t - p)),
        lambda t, p: tf.reshape(tf.square(t - p), [-1]),
        keras.losses.Dice(),
    ],
)
def test_losses_of_other_shapes_are_those_of_model_fit_or_refused(loss):
    reference, twin = model(), model()
    twin.set_weights(reference.get_weights())
    reference.compile(keras.optimizers.SGD(0.1), loss)
    expected = reference.fit(X, Y, batch_size=12, shuffle=False, verbose=0).history["loss"]
    trainer = looplab.Trainer(twin, lambda: keras.optimizers.SGD(0.1), loss)
    found = trainer.fit(X, Y, batch_size=12, shuffle=False, verbose=0).history["loss"]
    assert found == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(twin.get_weights()[0], reference.get_weights()[0], atol=1e-6)
    if not callable(loss) or loss(Y, Y).shape == ():
        with pytest.raises(looplab.LossError, match="one value for a whole batch"):
            looplab.Trainer(model, "sgd", loss, strategy=make_strategy(2)).fit(X, Y, verbose=0)


def test_one_target_for_several_outputs_and_missing_targets_are_refused():
    inputs = keras.Input((4,))
    two = keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(3)(inputs)])
    with pytest.raises(looplab.ConfigurationError, match=r"^targets: the model has several outputs"):
        looplab.Trainer(two, "sgd", "mse").fit((X, Y), verbose=0)
    with pytest.raises(looplab.ConfigurationError, match=r"^loss: there are no targets"):
        looplab.Trainer(model, "sgd", "mse").fit(X, verbose=0)


def test_a_term_may_not_take_the_name_of_the_penalties():
    class Named(looplab.Trainer):
        def compute_loss(self, batch, training):
            return {"mse": self.model(batch)[:, 0] ** 2, "regularization": self.model(batch)[:, 0]}

    with pytest.raises(looplab.LossError, match="Give the term another name"):
        Named(model, "sgd").fit(X, verbose=0)


def test_settings_that_would_be_ignored_are_refused():
    with pytest.raises(looplab.ConfigurationError, match="loss_scale_factor"):
        looplab.Trainer(model, lambda: keras.optimizers.SGD(loss_scale_factor=128.0), "mse")


def test_an_optimizer_of_optimizers_is_refused_with_the_names_that_looplab_has_for_it():
    def several():
        usual = keras.optimizers.SGD()
        return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(usual, {"a": usual}))

    with pytest.raises(looplab.ConfigurationError, match=r"MultiOptimizer.*optimizers=\{.*parameter_groups"):
        looplab.Trainer(model, several, "mse")


@on_two_replicas
@pytest.mark.promise(2)
def test_penalties_count_for_variables_given_by_hand(strategy):
    class Both(looplab.Trainer):
        def train_step(self, batch):
            both = self.models["e"].trainable_variables + self.models["d"].trainable_variables
            return self.minimize(self.error, batch, variables=both)

        def error(self, batch, training):
            return tf.reduce_sum(self.models["d"](self.models["e"](batch[0])), axis=-1)

    def penalised():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, kernel_regularizer="l2")])

    trainer = Both(models={"e": penalised, "d": penalised}, optimizer="sgd", strategy=strategy)
    history = trainer.fit((X, Y), batch_size=36, verbose=0)
    assert history.history["regularization"][0] > 0


def test_other_data_does_not_continue_a_run(tmp_path):
    def fit(**changes):
        given = {"x": X, "y": Y, "batch_size": 12, "epochs": 2, "verbose": 0, **changes}
        looplab.Trainer(model, "sgd", "mse", run_dir=tmp_path).fit(**given)

    fit(epochs=1)
    with pytest.raises(looplab.CheckpointError, match="batch_size 12 -> 9"):
        fit(batch_size=9)
    with pytest.raises(looplab.CheckpointError, match="examples 36 -> 30"):
        fit(x=X[:30], y=Y[:30])
    fit()


def test_evaluate_takes_the_trainers_own_variables_too(tmp_path):
    class Scaled(looplab.Trainer):
        def setup(self):
            self.scale = tf.Variable(1.0, trainable=False)

        def train_step(self, batch):
            logs = super().train_step(batch)
            self.scale.assign_add(1.0)
            return logs

        def compute_loss(self, batch, training):
            return tf.convert_to_tensor(self.scale) * (self.model(batch[0])[:, 0] - batch[1][:, 0]) ** 2

    def make():
        layers = [keras.layers.Dropout(0.5)]
        return Scaled(lambda: model(*layers), "sgd", run_dir=tmp_path)

    trained = make()
    trained.fit((X, Y), verbose=0)
    fresh = make()
    assert fresh.evaluate((X, Y)) == trained.evaluate((X, Y))
    fresh.model.set_weights([np.zeros_like(w) for w in fresh.model.get_weights()])
    assert fresh.evaluate((X, Y)) != trained.evaluate((X, Y))  # what was set by hand stays


def test_make_batch_finds_what_setup_made():
    class Queue(looplab.Trainer):
        def setup(self):
            self.queue = tf.Variable(X, trainable=False)

        def make_batch(self, step):
            return self.queue.numpy(), Y

    trainer = Queue(model, "sgd", "mse")
    trainer.fit(steps=2, verbose=0)
    trainer.fit(steps=3, verbose=0)
    assert int(trainer.step.numpy()) == 3


def test_an_optimizer_may_serve_a_second_trainer_of_the_same_model():
    shared, optimizer = model(), keras.optimizers.SGD(0.1)
    for _ in range(2):
        looplab.Trainer(shared, optimizer, "mse").fit(X, Y, verbose=0)


def test_an_eager_step_may_ask_for_values():
    def build():
        return keras.Sequential(
            [
                keras.layers.Dense(8),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(3),
            ]
        )

    class Looked(looplab.Trainer):
        def setup(self):
            self.steps = tf.Variable(0, trainable=False)

        def train_step(self, batch):
            assert batch[0].numpy().shape == (12, 4)
            self.steps.assign_add(1)
            logs = self.minimize(self.compute_loss, batch)
            assert np.isfinite(logs["loss"].numpy())
            return logs

    eager = Looked(build, "sgd", "mse", ["mae"], run_eagerly=True)
    eager.fit(X, Y, batch_size=12, verbose=0)
    assert eager.steps.numpy() == 3  # looking at the step left no trace
    compiled = looplab.Trainer(build, "sgd", "mse", ["mae"])
    compiled.fit(X, Y, batch_size=12, verbose=0)
    for left, right in zip(eager.model.get_weights(), compiled.model.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_a_layer_that_is_never_called_does_no_harm():
    class Unused(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.unused = keras.layers.Dense(3), keras.layers.Dense(5)

        def call(self, x):
            return self.used(x)

    looplab.Trainer(Unused, "sgd", "mse").fit(X, Y, verbose=0)


def test_a_model_object_serves_one_replica_of_another_strategy():
    trainer = looplab.Trainer(model(), "sgd", "mse", strategy=looplab.strategy.simulated(1))
    trainer.fit(X, Y, verbose=0)


@pytest.mark.promise(39)
def test_by_replica_generators_on_the_trainer_draw_differently_on_each():
    class Noisy(looplab.Trainer):
        def setup(self):
            self.noise = keras.random.SeedGenerator(3)

    trainer = Noisy(model, "sgd", "mse", strategy=make_strategy(2), random="replicas")
    trainer.fit(X, Y, verbose=0)
    seeds = looplab.checkpoint.state.read(trainer._engine.variables)["trainer/noise/state@replicas"]
    assert seeds[0, 0] != seeds[1, 0]


def test_a_damaged_newest_checkpoint_does_not_push_good_ones_out(tmp_path):
    def trainer():
        policy = looplab.CheckpointPolicy(every="1st", keep_last=2)
        return looplab.Trainer(model, "sgd", "mse", run_dir=tmp_path, checkpoint=policy)

    trainer().fit(X, Y, batch_size=12, steps=3, verbose=0)
    newest = tmp_path / "checkpoints" / "step-00000003" / "arrays.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    trainer().fit(X, Y, batch_size=12, steps=6, verbose=0)
    folders = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert folders[0].startswith("damaged-step-00000003")
    assert {"step-00000005", "step-00000006"} <= set(folders)


@pytest.mark.parametrize("monitor", ["val_previous_loss", "val_decoder2_loss", "val_mae"])
def test_losses_fall_whatever_letters_they_hold(monitor):
    assert not looplab.CheckpointPolicy(monitor=monitor).better(2.0, 1.0)


@pytest.mark.parametrize(
    "arithmetic",
    [lambda t: t + tf.ones([]), lambda t: tf.ones([4]) * t, lambda t: 2.0 * t, lambda t: -t, tf.reduce_mean],
)
def test_a_term_of_a_loss_is_no_tensor(arithmetic):
    class Penalized(looplab.Trainer):
        def compute_loss(self, batch, training):
            return arithmetic(super().compute_loss(batch, training))

    with pytest.raises(looplab.LooplabError, match="it is a sum with its weight, not values"):
        Penalized(model, "sgd", "mse").fit(X, Y, batch_size=12, verbose=0)
