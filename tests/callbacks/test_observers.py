"""What the callbacks that look on log and show, and that they change nothing."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.callbacks import Histograms, Lambda, LearningRateMonitor, Norms, Samples, TimeLimit
from looplab.execution import autotune
from looplab.protocols import Logger
from looplab.training import session as sessions
from tests.conftest import make_strategy

X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = X[:, :1]


def model(*, noise=False):
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="hidden")], name="inner")
    layers = [keras.layers.GaussianNoise(1.0, seed=1)] if noise else []
    return keras.Sequential([keras.Input((3,)), inner, *layers, keras.layers.Dense(1, name="head")])


def make(*callbacks, cls=looplab.Trainer, **options):
    options = {"model": model, "optimizer": lambda: keras.optimizers.SGD(0.1), "loss": "mse"} | options
    return cls(callbacks=callbacks, **options)


def fit(trainer, steps, **options):
    return trainer.fit((X, Y), batch_size=8, steps=steps, shuffle=False, verbose=0, **options)


def logged(run_dir):
    """Returns `{tag: {step: value}}` of training; a tag that stands twice at a step fails."""
    found = {}
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        line = json.loads(line)
        for tag, value in line["values"].items():
            assert line["step"] not in found.setdefault(tag, {}), (tag, line["step"])
            found[tag][line["step"]] = value
    return found


@pytest.fixture
def shown(monkeypatch):
    """What loggers were shown."""
    media = []

    class Shelf(Logger):
        def show(self, one):
            media.append(one)

    class Session(sessions.Session):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.loggers.append(Shelf())

    monkeypatch.setattr("looplab.training.fit.Session", Session)
    return media


# --- LearningRateMonitor --------------------------------------------------------------------------


def test_the_rate_is_logged_once_a_step_under_the_epochs_tag(tmp_path):
    schedule = keras.optimizers.schedules.PolynomialDecay(0.01, 10, 0.0)
    options = {"optimizer": lambda: keras.optimizers.SGD(schedule), "run_dir": tmp_path, "run_eagerly": True}
    halve = Lambda("4st", on_step=lambda event, controls: controls.scale_learning_rate(0.5))
    fit(make(halve, LearningRateMonitor("1st"), **options), 7)  # epochs of 3 steps
    rates = logged(tmp_path)["learning_rate"]
    used = {1: 10e-3, 2: 9e-3, 3: 8e-3, 4: 7e-3, 5: 3e-3, 6: 2.5e-3, 7: 2e-3}  # by that very step
    assert rates == pytest.approx(used)


# --- TimeLimit ------------------------------------------------------------------------------------


class Clock:
    """Stands in for the module `time`: each look is a minute later."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 60.0
        return self.now


@pytest.mark.slow
@pytest.mark.parametrize("verify", [False, True])
def test_the_time_of_all_starts_counts(verify, tmp_path, monkeypatch):
    monkeypatch.setattr("looplab.callbacks.time_limit.time", Clock())
    policy = looplab.CheckpointPolicy(every="1st", verify=verify)
    options = {"run_dir": tmp_path, "checkpoint": policy, "steps_per_execution": 1, "run_eagerly": True}
    fit(make(TimeLimit("6min"), **options), 2)  # looks at the clock when it begins, and twice
    trainer = make(TimeLimit("6min"), **options)
    fit(trainer, 20)
    # A start costs a minute here, between its two looks; the first has used three.
    assert int(trainer.step.numpy()) == 4
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert (outcome["status"], outcome["exit_code"]) == ("stopped", 0)
    assert (outcome["reason"], outcome["last_checkpoint"]) == (
        "the time limit of 6min is used up",
        "step-00000004",
    )
    trainer = make(TimeLimit("6min"), **options)
    fit(trainer, 20)
    assert int(trainer.step.numpy()) == 4  # it stays used up
    fit(make(TimeLimit("60min"), **options), 6)


def test_a_limit_is_minutes():
    for wrong in ("10ep", "soon"):
        with pytest.raises(looplab.ConfigurationError, match=r"TimeLimit\.limit.*'90min'"):
            TimeLimit(wrong)


def test_a_time_limit_makes_no_execution_shorter():
    executions = []
    trainer = make(
        TimeLimit("60min"),
        Lambda(on_clock=lambda event, controls: executions.append(event.step)),
        steps_per_execution=6,
    )
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat()
    trainer.fit(data, steps=12, steps_per_epoch=12, verbose=0)
    assert executions == [6, 12]


# --- Norms ----------------------------------------------------------------------------------------


def whole(tensors):
    return float(np.sqrt(sum(np.sum(np.square(np.asarray(t, "float64"))) for t in tensors)))


@pytest.mark.parametrize(
    ("replicas", "micro_batches"),
    [
        (2, 2),
        pytest.param(1, 1, marks=pytest.mark.slow),
        pytest.param(1, 2, marks=pytest.mark.slow),
        pytest.param(2, 1, marks=pytest.mark.slow),
    ],
)
def test_norms_are_those_of_the_global_batch_before_clipping(replicas, micro_batches, tmp_path):
    trainer = make(
        Norms("1st"),
        optimizer=lambda: keras.optimizers.SGD(1.0, global_clipnorm=0.01),
        strategy=make_strategy(replicas),
        micro_batches=micro_batches,
        run_dir=tmp_path,
        log_every=1,
    )
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(trainer.model(X[:8]) - Y[:8]))
    gradients = tape.gradient(loss, trainer.model.trainable_variables)
    fit(trainer, 2, steps_per_epoch=2)
    found = logged(tmp_path)
    assert {tag: series[1] for tag, series in found.items() if tag.startswith("gradient")} == pytest.approx(
        {
            "gradient_norm/all": whole(gradients),
            "gradient_norm/inner": whole(gradients[:2]),
            "gradient_norm/head": whole(gradients[2:]),
        },
        rel=1e-5,
    )
    weights = [v.numpy() for v in trainer.model.trainable_variables]
    assert {tag: series[2] for tag, series in found.items() if tag.startswith("parameter")} == pytest.approx(
        {
            "parameter_norm/all": whole(weights),
            "parameter_norm/inner": whole(weights[:2]),
            "parameter_norm/head": whole(weights[2:]),
        },
        rel=1e-5,
    )
    assert not any(tag.startswith("epoch_gradient") for tag in found)


class Two(looplab.Trainer):
    def train_step(self, batch):
        left = self.minimize(self.loss_of("left"), batch, "left")
        return left | self.minimize(self.loss_of("right"), batch, "right")

    def loss_of(self, name):
        return lambda batch, training: tf.square(self.models[name](batch[0]) - batch[1])


def test_groups_may_be_deeper_and_optimizers_several(tmp_path):
    sgd = keras.optimizers.SGD
    trainer = Two(
        models={"left": model, "right": model},
        optimizers={"left": sgd, "right": sgd},
        callbacks=[Norms("1st", depth=2), LearningRateMonitor("1st")],
        run_dir=tmp_path,
        run_eagerly=True,
        log_every=1,
    )
    fit(trainer, 2)
    found = set(logged(tmp_path))
    assert {"left/gradient_norm/left/inner/hidden", "right/gradient_norm/right/head"} <= found
    assert {"left/gradient_norm/all", "parameter_norm/left/inner/hidden", "parameter_norm/all"} <= found
    assert {"left/learning_rate", "right/learning_rate"} <= found


@pytest.mark.slow
def test_without_norms_nothing_is_traced_and_with_them_the_run_is_the_same(tmp_path):
    plain, measured = make(run_dir=tmp_path / "plain"), make(Norms("2st"), run_dir=tmp_path / "measured")
    fit(plain, 5)
    fit(measured, 5)
    for own, other in zip(plain.model.weights, measured.model.weights, strict=True):
        np.testing.assert_array_equal(own, other)
    found = logged(tmp_path / "plain")
    assert not [tag for tag in found if "norm" in tag]
    measured.fit((X, Y), batch_size=8, steps=6, verbose=0)
    fit(plain, 6, callbacks=[Norms("2st")])  # traced anew for it
    assert 6 in logged(tmp_path / "plain")["parameter_norm/all"]


def test_norms_are_found_before_execution_modes_are_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(autotune, "_FEW", 0)
    fit(make(Norms("1st"), run_dir=tmp_path), 2)
    assert logged(tmp_path)["parameter_norm/all"].keys() == {1, 2}


def test_an_update_in_a_loop_of_the_graph_cannot_be_measured():
    class Looping(looplab.Trainer):
        def train_step(self, batch):
            loss = tf.constant(0.0)
            for _ in tf.range(2):
                loss = self.minimize(self.compute_loss, batch)["loss"]
            return {"last": loss}

    fit(make(cls=Looping, on_nonfinite="ignore"), 1)
    with pytest.raises(looplab.LossError, match=r"inside a tf\.while_loop"):
        fit(make(Norms(), cls=Looping, on_nonfinite="ignore"), 1)


# --- Histograms and Samples -----------------------------------------------------------------------


def test_histograms_are_of_every_weight(shown):
    trainer = make(Histograms("1ep"), model=lambda: model(noise=True), strategy=make_strategy(2))
    fit(trainer, 6)
    assert [(one.step, one.epoch, one.tag) for one in shown] == [
        (step, step // 3, f"weights/model/{weight}")
        for step in (3, 6)
        for weight in ("inner/hidden/kernel", "inner/hidden/bias", "head/kernel", "head/bias")
    ]
    assert {one.kind for one in shown} == {"histogram"}
    np.testing.assert_array_equal(shown[-2].data, trainer.model.trainable_variables[2].numpy())


class Draws(keras.layers.Layer):
    """Adds noise whether it trains or not, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(3)

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed)


def test_samples_change_nothing_not_even_random_numbers(shown):
    strategy = make_strategy(2)

    def generator():
        layers = [keras.layers.Dense(4), Draws(), keras.layers.Reshape((2, 2))]
        return keras.Sequential([keras.Input((3,)), *layers])

    def loss(targets, outputs):
        return tf.reduce_mean(tf.square(outputs), axis=[1, 2])

    trained = []
    for callbacks in ([], [Samples(X[:5], "1st")]):
        trainer = make(*callbacks, model=generator, loss=loss, strategy=strategy)
        fit(trainer, 4)
        trained.append([w.numpy() for w in trainer.model.weights])
    for own, other in zip(*trained, strict=True):
        np.testing.assert_array_equal(own, other)
    assert [one.step for one in shown] == [1, 2, 3, 4]
    for one in shown:
        assert (one.kind, one.tag, one.data.shape) == ("image", "samples", (5, 2, 2, 1))
        assert one.data.min() >= 0 and one.data.max() <= 1


@pytest.mark.slow
def test_samples_are_of_the_weights_that_an_evaluation_uses(shown):
    trainer = make(
        Samples(X[:4], "1st", kind="histogram"),
        strategy=make_strategy(2),
        optimizer=lambda: keras.optimizers.SGD(use_ema=True),
    )
    fit(trainer, 4)
    np.testing.assert_allclose(shown[-1].data, trainer.predict(X[:4]), rtol=1e-6)
    assert not np.allclose(shown[-1].data, trainer.model(X[:4]), rtol=1e-4)


@pytest.mark.slow
def test_a_render_that_calls_the_model_sees_these_weights_too_and_changes_nothing(shown):
    strategy = make_strategy(2)

    def generator():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1), Draws()])

    def optimizer():
        return keras.optimizers.SGD(use_ema=True, ema_momentum=0.5)

    made, seen, trained = None, [], []

    def render(outputs):
        seen.append((made.model.layers[0].kernel.numpy(), made.predict(X[:2])))
        made.model(X[:2])
        return outputs

    for callbacks in ([], [Samples(X[:2], "2st", kind="histogram", render=render)]):
        made = make(*callbacks, model=generator, strategy=strategy, optimizer=optimizer)
        fit(made, 4)
        trained.append([w.numpy() for w in [*made.model.weights, made.model.layers[1].seed.state]])
        with made.averaged_weights():
            averaged = made.model.layers[0].kernel.numpy()
    for own, other in zip(*trained, strict=True):
        np.testing.assert_array_equal(own, other)
    np.testing.assert_array_equal(seen[-1][0], averaged)
    assert len(seen) == 2 and not np.array_equal(averaged, made.model.layers[0].kernel.numpy())


@pytest.mark.slow
def test_a_render_that_fails_leaves_the_weights_as_they_were():
    def render(outputs):
        raise ValueError("no such palette")

    def optimizer():
        return keras.optimizers.SGD(use_ema=True, ema_momentum=0.5)

    finals = []
    for callbacks in ([], [Samples(X[:2], "2st", kind="text", render=render, on_failure="best_effort")]):
        made = make(*callbacks, optimizer=optimizer)
        fit(made, 4)
        finals.append([w.numpy() for w in made.model.weights])
    for own, other in zip(*finals, strict=True):
        np.testing.assert_array_equal(own, other)


def test_samples_are_rendered_as_told(shown):
    first = Samples(X[:2], kind="text", tag="plain")
    second = Samples(X[:2], kind="text", render=lambda outputs: f"{len(outputs)} rows")
    fit(make(first, second, run_eagerly=True), 3)
    assert [(one.tag, one.kind) for one in shown] == [("plain", "text"), ("samples", "text")]
    assert len(shown[0].data.splitlines()) == 2 and shown[1].data == "2 rows"


def test_samples_that_cannot_be_shown_are_refused():
    with pytest.raises(looplab.ConfigurationError, match=r"'imag' is not one of.*mean 'image'"):
        Samples(X, kind="imag")
    with pytest.raises(looplab.ConfigurationError, match=r"no model 'mode'.*mean 'model'"):
        fit(make(Samples(X, model="mode")), 1)
    with pytest.raises(looplab.ConfigurationError, match=r"shape \(2, 1\) is not an image.*render="):
        fit(make(Samples(X[:2], "1st"), run_eagerly=True), 1)
