"""A compiled model brings what it trains with; `looplab.fit` trains it as `model.fit` does."""

import json
import logging

import keras
import numpy as np
import pytest

import looplab
from looplab.options.execution import Execution

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3))
Y = X[:, :1] * 2
FIT = {"batch_size": 6, "shuffle": False, "verbose": 0}
Dense = keras.layers.Dense


def plain(kind=keras.Sequential):
    return kind([keras.Input((3,)), Dense(4, "tanh"), keras.layers.Dropout(0.0), Dense(1)])


def compiled(optimizer=None, loss="mse", **settings):
    model = plain()
    model.compile(optimizer or keras.optimizers.SGD(0.125, momentum=0.5), loss, **settings)
    return model


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def halving():
    rate = keras.optimizers.schedules.ExponentialDecay(0.125, 3, 0.5, staircase=True)
    return keras.optimizers.SGD(rate, momentum=0.5)


@pytest.mark.share(1)
@pytest.mark.parametrize("optimizer", [None, halving], ids=["constant", "schedule"])
def test_fit_trains_in_place_as_model_fit_and_goes_on(optimizer, strategy, float64):
    settings = {"metrics": ["mae"], "weighted_metrics": ["mae"], "loss_weights": 0.5}
    theirs, ours = (compiled(optimizer and optimizer(), **settings) for _ in range(2))
    ours.set_weights(theirs.get_weights())
    rest = {"validation_split": 0.2, "class_weight": None, "sample_weight": np.arange(20) / 8.0, **FIT}
    for _ in range(2):  # each two epochs more, counted anew
        expected = theirs.fit(X, Y, epochs=2, **rest)
        found = looplab.fit(ours, X, Y, epochs=2, strategy=strategy, **rest)
        assert found.model is ours and found.epoch == expected.epoch
        for name, values in expected.history.items():
            np.testing.assert_allclose(found.history[name], values, rtol=1e-6, err_msg=name)
        same(theirs, ours)
    theirs.fit(X, Y, epochs=4, initial_epoch=3, **FIT)  # Keras goes on with both
    ours.fit(X, Y, epochs=4, initial_epoch=3, **FIT)
    same(theirs, ours)


def same(theirs, ours):
    for left, right in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-12)
    assert int(ours.optimizer.iterations) == int(theirs.optimizer.iterations)
    momenta = zip(ours.optimizer.momentums, theirs.optimizer.momentums, strict=True)
    for left, right in momenta:
        np.testing.assert_allclose(np.asarray(left), np.asarray(right), atol=1e-12)


@pytest.mark.slow
def test_initial_epoch_and_the_validation_batch_size_mean_what_they_mean_in_keras():
    class Told(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.epochs, self.batches = [], 0

        def on_epoch_begin(self, epoch, logs=None):
            self.epochs.append(epoch)

    def run(train):
        told = Told()
        arguments = {"initial_epoch": 3, "epochs": 5, "callbacks": [told], "validation_data": (X, Y)}
        return train(X, Y, **arguments, validation_batch_size=9, **FIT).epoch, told.epochs

    model = compiled()
    trainer = looplab.Trainer(compiled)
    assert run(model.fit) == run(trainer.fit) == ([3, 4], [3, 4])
    assert int(trainer.step.numpy()) == 8
    with pytest.raises(looplab.ConfigurationError, match="initial_epoch=2: the run continues, and 5 epochs"):
        trainer.fit(X, Y, initial_epoch=2, epochs=9, **FIT)
    assert trainer.fit(X, Y, initial_epoch=5, epochs=6, **FIT).epoch == [3, 4, 5]
    with pytest.raises(looplab.ConfigurationError, match="epochs=3 is the last one"):
        looplab.Trainer(compiled).fit(X, Y, initial_epoch=3, epochs=3, **FIT)
    with pytest.raises(looplab.ConfigurationError, match="there is no validation data"):
        looplab.Trainer(compiled).fit(X, Y, validation_batch_size=3, **FIT)


@pytest.mark.slow
def test_a_run_that_began_at_an_epoch_is_resumed_there(tmp_path):
    def run(epochs, folder):
        trainer = looplab.Trainer(compiled, run_dir=tmp_path / folder)
        history = trainer.fit(X, Y, initial_epoch=3, epochs=epochs, batch_size=6, verbose=0)
        return history.epoch, trainer.model.get_weights()

    run(4, "two")
    (again, resumed), (_, whole) = run(6, "two"), run(6, "one")
    assert again == [3, 4, 5]
    for left, right in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.slow
def test_with_a_run_directory_a_call_is_a_run(tmp_path, capfd):
    model = compiled()
    for _ in range(2):
        looplab.fit(model, X, Y, epochs=2, run_dir=tmp_path / "run", batch_size=6, verbose=2)
    assert "nothing is left to do" in capfd.readouterr().out
    assert int(model.optimizer.iterations) == 8
    assert json.loads((tmp_path / "run" / "outcome.json").read_text())["step"] == 8
    assert (
        len(looplab.fit(model, X, Y, epochs=3, run_dir=tmp_path / "run", batch_size=6, verbose=0).epoch) == 3
    )


@pytest.mark.share(1)
@pytest.mark.parametrize("form", ["object", "factory", "saved", "clone"])
def test_a_trainer_takes_what_the_model_was_compiled_with(form, tmp_path):
    model = compiled(metrics=["mae"], weighted_metrics=["mse"])
    if form == "saved":
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    strategy = looplab.strategy.simulated(2) if form == "clone" else "auto"
    given = (lambda: compiled(metrics=["mae"], weighted_metrics=["mse"])) if form == "factory" else model
    trainer = looplab.Trainer(given, strategy=strategy)
    history = trainer.fit(X, Y, sample_weight=np.arange(20.0), epochs=1, **FIT).history
    assert {"loss", "mae", "mse", "learning_rate"} == history.keys()
    (optimizer,) = trainer.optimizers.values()
    assert (optimizer is model.optimizer) == (form in ("object", "saved")) and optimizer.momentum == 0.5
    assert ("compile", "model.compile gives optimizer, loss, metrics, weighted_metrics") in trainer.rehearse(
        X, Y
    ).lines


@pytest.mark.slow
def test_what_the_trainer_is_given_counts_instead_and_it_is_said():
    model = compiled(
        loss="mse",
        metrics=["mae"],
        loss_weights=2.0,
        steps_per_execution=4,
        run_eagerly=False,
        jit_compile=True,
    )
    trainer = looplab.Trainer(model, keras.optimizers.Adam(), "mae", metrics=[])
    assert trainer.fit(X, Y, epochs=1, **FIT).history.keys() == {"loss", "learning_rate"}
    assert isinstance(trainer.optimizers["optimizer"], keras.optimizers.Adam)
    lines = [text for label, text in trainer.rehearse(X, Y).lines if label == "compile"]
    assert lines[0] == "model.compile gives steps_per_execution"
    left = [text.partition(":")[0] for text in lines[1:]]
    assert left == [
        f"{name} is not used" for name in ("optimizer", "loss", "loss_weights", "metrics", "jit_compile")
    ]
    same_loss = looplab.Trainer(model, loss_weights=3.0)
    assert same_loss.evaluate(X, Y)["loss"] == pytest.approx(
        1.5 * looplab.Trainer(model).evaluate(X, Y)["loss"]
    )


def test_run_eagerly_counts_unless_a_mode_is_given():
    ran = []

    class Watched(keras.layers.Layer):
        def call(self, inputs):
            ran.append(hasattr(inputs, "numpy"))
            return inputs

    def build(**settings):
        model = keras.Sequential([keras.Input((3,)), Watched(), Dense(1)])
        model.compile("sgd", "mse", run_eagerly=True)
        return model

    looplab.Trainer(build).fit(X, Y, epochs=1, **FIT)
    assert any(ran)
    ran.clear()
    trainer = looplab.Trainer(build, execution=Execution("graph"))
    trainer.fit(X, Y, epochs=1, **FIT)
    assert not any(ran)
    assert (
        "compile",
        "run_eagerly is not used: the trainer was given execution='graph'",
    ) in trainer.rehearse(X, Y).lines


def test_a_step_of_ones_own_needs_nothing_of_compile():
    class Own(looplab.Trainer):
        def setup(self):
            self.rate = 0.5

        def train_step(self, batch):
            return {"zero": 0.0 * self.model(batch[0])[0, 0]}

    class Mine(looplab.Trainer):
        def compute_loss(self, batch, training):
            return self.model(batch[0], training=training)[:, 0] ** 2

    model = compiled(metrics=["mae"])  # as one that was loaded to be used otherwise
    own, mine = Own(model), Mine(model)
    own.fit(X, Y, epochs=1, **FIT)
    assert not own.optimizers
    assert mine.fit(X, Y, epochs=1, **FIT).history.keys() == {"loss", "learning_rate"}
    lines = [text for label, text in mine.rehearse(X, Y).lines if label == "compile"]
    assert lines == [
        "model.compile gives optimizer",
        "loss is not used: no step uses it",
        "metrics is not used: no step uses it",
    ]
    with pytest.raises(looplab.ConfigurationError, match="has no optimizer"):
        looplab.Trainer(models={"a": compiled(), "b": compiled()}).fit(X, Y, epochs=1, **FIT)


@pytest.mark.slow
def test_several_outputs_train_by_what_was_compiled(float64):
    def build():
        inputs = keras.Input((3,))
        model = keras.Model(inputs, [Dense(1, name="a")(inputs), Dense(1, name="b")(inputs)])
        model.compile("sgd", ["mse", "mae"], loss_weights=[1.0, 0.5], metrics=[["mae"], ["mse"]])
        return model

    theirs, ours = build(), build()
    ours.set_weights(theirs.get_weights())
    expected = theirs.fit(X, [Y, Y], epochs=2, **FIT).history
    found = looplab.fit(ours, X, [Y, Y], epochs=2, **FIT).history
    assert expected.keys() == found.keys() - {"learning_rate"}
    for left, right in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-12)


REFUSED = {
    "not compiled": (plain, {}, "the model is not compiled"),
    "a factory": (lambda: compiled, {}, "expected a compiled keras.Model, got function"),
    "a loss": (compiled, {"loss": "mae"}, "loss is set by model.compile"),
    "a typo": (compiled, {"epoch": 3}, r"no argument 'epoch'.*Did you mean 'epochs'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_fit_cannot_take_is_refused_by_name(case):
    build, arguments, says = REFUSED[case]
    with pytest.raises(looplab.ConfigurationError, match=says):
        looplab.fit(build(), X, Y, **arguments, verbose=0)


def test_a_rate_that_a_callback_has_changed_stays_changed(caplog):
    model = compiled()
    caplog.set_level(logging.WARNING)

    class Halve(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate = 0.0625

    looplab.fit(model, X, Y, epochs=1, callbacks=Halve(), **FIT)
    again = looplab.fit(model, X, Y, epochs=1, **FIT)
    assert again.history["learning_rate"] == [0.0625] and not caplog.records


class OwnLoss(keras.Model):
    """Has a loss of its own, so its own steps run."""

    def compute_loss(self, *arguments, **keywords):
        return super().compute_loss(*arguments, **keywords)


class Unnamed(keras.Model):
    """Returns one value from a step that should return values by name."""

    def train_step(self, data):
        return super().train_step(data)["loss"]


def of_kind(kind, optimizer="sgd", outputs=1, **settings):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    model = kind(inputs, keras.layers.Dense(outputs)(inputs))
    model.compile(optimizer, "mse", **settings)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [
        (OwnLoss, halving),
        (keras.Model, lambda: keras.optimizers.SGD(0.125, use_ema=True, ema_momentum=0.5)),
    ],
    ids=["own steps with a schedule", "averages"],
)
def test_fit_ends_as_model_fit_does_and_goes_on_from_there(kind, optimizer, float64):
    theirs, ours = of_kind(kind, optimizer()), of_kind(kind, optimizer())
    for _ in range(2):
        theirs.fit(X, Y, epochs=2, **FIT)
        history = looplab.fit(ours, X, Y, epochs=2, **FIT)
        assert ours.history is history
        for left, right in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_allclose(left, right, atol=1e-12)


def compiled_anew(model):
    model.compile("sgd", "mae")


def another_optimizer(model):
    model.optimizer = keras.optimizers.SGD(0.0)


@pytest.mark.share(1)
@pytest.mark.parametrize("change", [compiled_anew, another_optimizer])
@pytest.mark.parametrize("call", ["fit", "evaluate"])
def test_a_model_compiled_anew_is_refused_by_the_trainer_that_took_from_it(change, call):
    model = of_kind(keras.Model)
    trainer = looplab.Trainer(model, execution="graph")
    trainer.fit(X, Y, **FIT)
    change(model)
    with pytest.raises(looplab.ConfigurationError, match=r"compiled again.*Create a new Trainer"):
        trainer.fit(X, Y, epochs=2, **FIT) if call == "fit" else trainer.evaluate(X, Y)


def test_a_step_that_returns_no_dict_is_refused_by_name():
    with pytest.raises(looplab.LossError, match=r"Unnamed: its own step returned a .*expected a dict"):
        looplab.fit(of_kind(Unnamed), X, Y, **FIT)


@pytest.mark.slow
def test_an_array_that_own_steps_return_is_shown_as_that_of_other_metrics_is():
    classes = np.eye(2, dtype="float32")[np.arange(len(X)) % 2]
    for kind in (OwnLoss, keras.Model):
        model = of_kind(kind, outputs=2, metrics=[keras.metrics.F1Score(threshold=0.5)])
        shown = looplab.fit(model, X, classes, **FIT).history.keys()
        assert {"f1_score/0", "f1_score/1"} <= shown and "f1_score" not in shown


def test_the_precision_of_a_model_is_said_where_the_trainer_has_another():
    model = of_kind(keras.Model)
    lines = looplab.Trainer(model, precision="mixed_bfloat16").rehearse(X, Y, batch_size=4).lines
    assert any("was created in float32" in text for _, text in lines)


@pytest.mark.slow
def test_a_compiled_model_lists_its_metrics_after_a_fit_as_after_that_of_keras():
    mine, theirs = (keras.Sequential([keras.Input((X.shape[1],)), keras.layers.Dense(1)]) for _ in range(2))
    for model in (mine, theirs):
        model.compile("sgd", "mse", metrics=["mae"])
    looplab.fit(mine, X, X[:, :1], verbose=0)
    theirs.fit(X, X[:, :1], verbose=0)
    assert [m.name for m in mine.metrics] == [m.name for m in theirs.metrics]
    assert [len(m.variables) for m in mine.metrics] == [len(m.variables) for m in theirs.metrics]
