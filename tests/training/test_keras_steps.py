"""A keras.Model's own train_step, test_step, predict_step and compute_loss run as they are, on one device."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from tests.training import keras_models

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(22, 6)).astype("float32")
Y = _RNG.integers(0, 3, size=(22, 1))
_LABELLED = ("contrastive", "distiller")
_EVALUATED = ("contrastive", "diffusion", "distiller")


def made(name):
    keras.utils.set_random_seed(3)
    return getattr(keras_models, name)()


def data(name):
    return (X, Y) if name in _LABELLED else (X,)


def fitted(trains, name, **more):
    validation = data(name) if name in _EVALUATED else None
    if validation is not None:
        more["validation_data"] = validation if len(validation) == 2 else X
    return trains.fit(*data(name), batch_size=8, epochs=2, shuffle=False, verbose=0, **more).history


def without_rates(history):
    return {name: values for name, values in history.items() if "learning_rate" not in name}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("vae", "wgan", "contrastive", "diffusion")),
        "gan",
        "distiller",
    ],
)
def test_guides_of_keras_train_as_under_model_fit(name):
    oracle, model = made(name), made(name)
    oracle.jit_compile = False
    expected = fitted(oracle, name)
    trainer = looplab.Trainer(model)
    found = without_rates(fitted(trainer, name))
    assert set(found) == set(expected)
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-5, err_msg=key)
    for one, other in zip(oracle.variables, model.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-6, err_msg=one.path)
    if name in _EVALUATED:
        args = data(name)
        expected = oracle.evaluate(*args, batch_size=8, verbose=0, return_dict=True)
        assert trainer.evaluate(*args, batch_size=8) == pytest.approx(expected, rel=1e-5)


class Stop(looplab.Callback):
    every = 1

    def __init__(self, at):
        self.at = at

    def on_step(self, event, controls):
        if event.step == self.at:
            controls.stop("here")


class CountingGAN(keras_models.GAN):
    """Keeps what Keras does not see: a variable, and a generator in a dict."""

    def __init__(self):
        super().__init__()
        self.count, self.generators = tf.Variable(0), {"own": tf.random.Generator.from_seed(3)}

    def train_step(self, data):
        self.count.assign_add(1)
        return {**super().train_step(data), "drawn": self.generators["own"].normal(())}


def test_a_run_goes_on_in_the_middle_of_an_epoch_with_all_that_changes(tmp_path):
    def fit(run_dir, *callbacks):
        def counting_gan():
            keras.utils.set_random_seed(3)
            model = CountingGAN()
            rate = keras.optimizers.schedules.ExponentialDecay(0.01, 2, 0.5)
            loss = keras.losses.BinaryCrossentropy(from_logits=True)
            model.compile(keras.optimizers.Adam(rate), keras.optimizers.SGD(0.01, momentum=0.9), loss)
            return model

        trainer = looplab.Trainer(counting_gan, run_dir=run_dir, execution="graph", callbacks=callbacks)
        history = trainer.fit(X, batch_size=8, epochs=3, verbose=0).history
        return history, looplab.checkpoint.read(max((run_dir / "checkpoints").iterdir())), trainer

    whole, expected, trainer = fit(tmp_path / "whole")
    fit(tmp_path / "parts", Stop(5))
    parts, found, _ = fit(tmp_path / "parts")
    assert parts == whole and set(found) == set(expected)
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)
    assert expected["models/model/attributes/count"] == trainer.model.count.numpy() == 9
    assert {"metrics/d_loss/total", "models/model/attributes/generators/own/state"} < set(expected)
    assert list(trainer.optimizers) == ["d_optimizer", "g_optimizer"]  # and no RMSprop of super().compile()


class Line(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1, kernel_initializer="ones", kernel_regularizer="l2")
        self.calls = self.stops_at = 0

    def call(self, inputs):
        return self.dense(inputs)


class OwnStep(Line):
    def train_step(self, data):
        self.calls += 1
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        if self.calls == self.stops_at:
            self.stop_training = True
        self.metrics[0].update_state(loss)
        return self.compute_metrics(x, y, self(x, training=True))


class OwnLoss(Line):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 3 * super().compute_loss(x, y, y_pred, sample_weight, training)


class OwnMetrics(Line):
    def __init__(self):
        super().__init__()
        self.own = keras.metrics.Mean(name="own")

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.own.update_state(y_pred)
        return {**super().compute_metrics(x, y, y_pred, sample_weight), "more": self.own.result()}


class OwnTest(Line):
    def test_step(self, data):
        return {"first": tf.reduce_max(data[0]), "nested": {"loss": tf.constant(2.0)}}


class OwnPredict(Line):
    def predict_step(self, data):
        assert not isinstance(data, tuple)
        return self(data), 2 * data


TARGETS = X[:, :1] * 2
WEIGHTS = np.linspace(0.5, 2, len(X)).astype("float32")


def adam():
    return keras.optimizers.Adam(0.1)


def line(trains, **more):
    validation = X, TARGETS
    how = {"batch_size": 8, "epochs": 5, "shuffle": False, "verbose": 0, "validation_data": validation}
    return trains.fit(X, TARGETS, **how, **more).history


def compiled(model):
    model = model()
    model.compile(adam(), "mse", metrics=["mae"], jit_compile=False)
    return model


def callbacks():
    return [
        keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=0, min_delta=100),
        keras.callbacks.EarlyStopping(monitor="val_mae", patience=0, start_from_epoch=2, min_delta=1),
    ]


@pytest.mark.share(1)
@pytest.mark.parametrize("model", [OwnLoss, OwnMetrics, OwnTest])
def test_a_loss_metrics_and_an_evaluation_of_the_model_are_as_in_keras(model):
    expected = line(compiled(model), sample_weight=WEIGHTS)
    trainer = looplab.Trainer(model, adam, "mse", metrics=["mae"])
    found = without_rates(line(trainer, sample_weight=WEIGHTS))
    assert found == {name: pytest.approx(values, rel=1e-5) for name, values in expected.items()}


@pytest.mark.slow
def test_callbacks_of_keras_see_the_optimizer_and_the_values_of_a_model_with_its_own_step():
    expected = line(compiled(OwnStep), callbacks=callbacks())
    found = line(looplab.Trainer(OwnStep, adam, "mse", metrics=["mae"]), callbacks=callbacks())
    assert len(expected["loss"]) == 4 and expected["learning_rate"][-1] < 0.05
    assert found == {name: pytest.approx(values, rel=1e-5) for name, values in expected.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"execution": "graph"},
        {"run_eagerly": True},
        pytest.param({"execution": "xla_step"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_step_whose_weights_are_not_finite_is_undone(how):
    bad = X.copy()
    bad[17] = np.nan  # in the last of three batches
    oracle = compiled(OwnStep)
    oracle.fit(X[:16], TARGETS[:16], batch_size=8, epochs=2, shuffle=False, verbose=0)
    trainer = looplab.Trainer(OwnStep, adam, "mse", metrics=["mae"], on_nonfinite="skip", **how)
    history = trainer.fit(bad, TARGETS, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    for one, other in zip(oracle.variables, trainer.model.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, err_msg=one.path)
    assert history["loss"][-1] == pytest.approx(oracle.history.history["loss"][-1], rel=1e-5)
    assert int(trainer.optimizers["optimizer"].iterations) == 4
    with pytest.raises(looplab.errors.DivergedError, match=r"step 3: loss is nan"):
        looplab.Trainer(OwnStep, adam, "mse", **how).fit(bad, TARGETS, batch_size=8, shuffle=False, verbose=0)


def test_a_step_in_python_can_stop_training():
    trainer = looplab.Trainer(OwnStep, adam, "mse", run_eagerly=True)
    trainer.model.stops_at = 5  # one of which only makes variables
    line(trainer)
    assert int(trainer.step) == 4


def test_predictions_are_those_of_the_models_predict_step(strategy):
    trainer = looplab.Trainer(OwnPredict, adam, "mse", strategy=strategy)
    outputs, doubled = trainer.predict(X)
    np.testing.assert_array_equal(doubled, 2 * X)
    np.testing.assert_allclose(outputs[:, 0], X.sum(axis=1), rtol=1e-5)


class OwnTrainer(looplab.Trainer):
    def compute_loss(self, batch, training):
        x, y = batch
        return (self.model(x, training=training) - y)[:, 0] ** 2


class OwnEvaluation(looplab.Trainer):
    def test_step(self, batch):
        return {"own": tf.constant(1.0)}


@pytest.mark.slow
def test_a_step_of_the_trainer_is_in_force_and_that_of_the_model_is_named():
    trainer = OwnTrainer(OwnLoss, adam, strategy=looplab.strategy.simulated(2))
    plan = trainer.rehearse(X, TARGETS).lines
    why = "OwnLoss.compute_loss of 'model' is not called: OwnTrainer.compute_loss is in force"
    assert ("note", why) in plan and not [text for label, text in plan if label == "step"]
    assert ("step", "OwnLoss.compute_loss in Keras' own steps, unchanged") in looplab.Trainer(
        OwnLoss, adam, "mse"
    ).rehearse(X, TARGETS).lines
    assert OwnEvaluation(OwnTest, adam, "mse").evaluate(X, TARGETS) == {"own": 1}


def compiled_again(model):
    trainer = looplab.Trainer(model, adam, "mse")
    trainer.evaluate(X, TARGETS)
    trainer.model.compile(adam(), "mae")
    return trainer.fit(X, TARGETS, verbose=0)


def averaging():
    return keras.optimizers.SGD(0.1, use_ema=True)


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        (
            OwnLoss,
            {"strategy": "simulated"},
            ["strategy: OwnLoss overrides", "2 replicas", "def compute_loss"],
        ),
        (OwnStep, {"micro_batches": 2}, ["micro_batches: OwnStep overrides Keras' train_step", "minimize"]),
        (OwnLoss, {"micro_batches": "auto"}, ["micro_batches: OwnLoss"]),
        (OwnStep, {"spikes": looplab.SpikeDetection("skip")}, ["spikes: OwnStep", "def train_step"]),
        (OwnStep, {"parameter_groups": {"a": {"match": "*", "weight_decay": 0.1}}}, ["parameter_groups: "]),
        (OwnStep, {"precision": "mixed_float16"}, ["precision: ", "Use mixed_bfloat16"]),
        (OwnStep, {"optimizers": {"a": adam, "b": adam}, "optimizer": None}, ["optimizers: OwnStep"]),
        (OwnStep, {"optimizer": averaging}, ["use_ema=True averages weights"]),
        (OwnStep, {"optimizer": None, "loss": None}, ["overrides Keras' train_step, and is not compiled"]),
        (OwnStep, {"optimizer": None}, ["has no optimizer", "model.compile"]),
        (OwnStep, {"callbacks": [looplab.callbacks.Norms()]}, ["callbacks: ", "Norms", "train_step"]),
        (lambda: compiled(OwnStep), {}, ["optimizer, loss: OwnStep", "is compiled already"]),
        (keras_models.GAN, {}, ["GAN has its own compile", "d_optimizer"]),
    ],
)
def test_what_a_models_own_step_does_not_go_with_is_refused_by_name(model, arguments, words):
    with pytest.raises(looplab.ConfigurationError) as refused:
        looplab.Trainer(model, **{"optimizer": adam, "loss": "mse", **arguments}).fit(X, TARGETS)
    for each in words:
        assert each in str(refused.value)


def test_two_sides_of_one_model_are_refused():
    with pytest.raises(looplab.ConfigurationError, match="OwnEvaluation overrides test_step, and OwnStep"):
        OwnEvaluation(OwnStep, adam, "mse")
    with pytest.raises(looplab.ConfigurationError, match="OwnStep was compiled again"):
        compiled_again(OwnStep)
