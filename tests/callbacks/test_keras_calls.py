"""What Keras callbacks are told, and what they can do with their model, against `model.fit`."""

import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(22, 3)).astype("float32")  # 6 batches of 4, the last one short
Y = X[:, :1]


def net():
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="dense")])


class Everything(keras.callbacks.Callback):
    """Notes every hook with what it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []


def _note(hook):
    def told(self, *arguments, logs=None):
        if isinstance(arguments[-1], dict):
            *arguments, logs = arguments
        numbers = {name: value for name, value in logs.items() if name != "outputs"}
        if "outputs" in logs:
            assert isinstance(logs["outputs"], np.ndarray)
            numbers["rows"] = len(logs["outputs"])
        self.seen.append((hook, *arguments, numbers))

    return told


for _what in ("train", "test", "predict"):
    for _when in ("begin", "end", "batch_begin", "batch_end"):
        setattr(Everything, f"on_{_what}_{_when}", _note(f"on_{_what}_{_when}"))
for _when in ("begin", "end"):
    setattr(Everything, f"on_epoch_{_when}", _note(f"on_epoch_{_when}"))


@pytest.mark.share(1)
@pytest.mark.parametrize("steps", [1, pytest.param(2, marks=pytest.mark.slow), 5])
def test_every_hook_comes_as_under_model_fit(steps):
    """fit with validation, evaluate, predict: hooks, indices and logs, for executions of several steps."""
    how = {"batch_size": 4, "verbose": 0, "shuffle": False}
    once = {"batch_size": 4}
    expected, found, made = Everything(), Everything(), net()
    made.compile(
        keras.optimizers.SGD(0.05), "mse", metrics=["mae"], steps_per_execution=steps, jit_compile=False
    )
    made.fit(X, Y, validation_data=(X, Y), epochs=2, callbacks=[expected], **how)
    made.evaluate(X, Y, verbose=0, callbacks=[expected], **once)
    made.predict(X, verbose=0, callbacks=[expected], **once)
    trainer = looplab.Trainer(
        net,
        lambda: keras.optimizers.SGD(0.05),
        "mse",
        ["mae"],
        steps_per_execution=steps if steps > 1 else "auto",
    )
    trainer.fit(X, Y, validation_data=(X, Y), epochs=2, callbacks=[found], **how)
    trainer.evaluate(X, Y, callbacks=[found], **once)
    assert trainer.predict(X, callbacks=[found], **once).shape == (22, 1)
    assert [entry[:-1] for entry in found.seen] == [entry[:-1] for entry in expected.seen]
    for (*_, own), (*hook, other) in zip(found.seen, expected.seen, strict=True):
        assert own == pytest.approx(other, rel=1e-5), hook


def test_hooks_of_calls_can_end_them_and_looplabs_callbacks_are_refused():
    class Ends(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            self.model.stop_evaluating = batch == 1

        def on_predict_batch_end(self, batch, logs=None):
            self.model.stop_predicting = batch == 1

    trainer, one = looplab.Trainer(net, "sgd", "mse"), {"batch_size": 4}
    assert len(trainer.predict(X, callbacks=[Ends()], **one)) == 8
    stopped = trainer.evaluate(X, Y, callbacks=[Ends()], **one)
    assert stopped == pytest.approx(trainer.evaluate(X[:8], Y[:8], **one), rel=1e-6)
    with pytest.raises(looplab.ConfigurationError, match="EarlyStopping is not a keras"):
        trainer.evaluate(X, Y, callbacks=[looplab.callbacks.EarlyStopping("val_loss")])


# --- the model that a callback sees ---------------------------------------------------------------------


class Uses(keras.callbacks.Callback):
    """Does in the middle of a fit what callbacks do with their model."""

    def on_epoch_end(self, epoch, logs=None):
        seen, made = self.model, {}
        made["evaluate"] = seen.evaluate(X, Y, batch_size=4, verbose=0)
        made["by name"] = seen.evaluate(X, Y, batch_size=4, return_dict=True)
        made["a batch"] = seen.test_on_batch(X[:5], Y[:5])
        made["rows"] = seen.predict(X, verbose=0).shape
        made["metrics"] = seen.metrics_names, [type(metric.result()) for metric in seen.metrics[1:]]
        made["loss"] = seen.loss, seen.compiled, seen.get_compile_config()["loss"]
        made["the loss"] = float(seen.metrics[0].result())
        self.found = made, logs

    def on_train_end(self, logs=None):
        self.errors = []
        for act in (
            lambda seen: seen.fit(X, Y),
            lambda seen: seen.train_on_batch(X, Y),
            lambda seen: seen.compile("adam", "mae"),
        ):
            with pytest.raises(looplab.ConfigurationError) as error:
                act(self.model)
            self.errors.append(str(error.value))


@pytest.mark.share(1)
@pytest.mark.parametrize("own", [False, True])
def test_a_callback_evaluates_as_the_trainer_and_training_goes_on_untouched(own):
    """Also where training and evaluation share a metric object, and with no validation data before."""
    metric = keras.metrics.MeanAbsoluteError("mae") if own else "mae"
    uses, losses = Uses(), {}
    for name, callbacks in (("with", [uses]), ("without", [])):
        trainer = looplab.Trainer(net, "sgd", "mse", [metric], callbacks=callbacks)
        losses[name] = trainer.fit(X, Y, epochs=2, batch_size=4, verbose=0).history
        if callbacks:
            made, logs = uses.found
            values = trainer.evaluate(X, Y, batch_size=4)
            assert not {"evaluate", "optimizer", "_compile_config"} & vars(trainer.model).keys()
            assert not trainer.model.compiled and trainer.model.metrics == []
    assert losses["with"] == losses["without"]
    assert made["by name"] == values and made["evaluate"] == [values["loss"], values["mae"]]
    assert made["a batch"] == pytest.approx(list(trainer.evaluate(X[:5], Y[:5]).values()), rel=1e-5)
    assert made["rows"] == (22, 1) and made["metrics"] == (["loss", "compile_metrics"], [dict])
    assert made["loss"] == ("mse", True, "mse") and made["the loss"] == pytest.approx(logs["loss"])
    for words, error in zip(("trainer.fit", "train_step", "to the Trainer"), uses.errors, strict=True):
        assert words in error


def test_of_several_models_an_evaluation_is_the_trainers():
    class Asks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.evaluate(X, Y)

    class Pair(looplab.Trainer):
        def train_step(self, batch):
            return self.minimize(self.compute_loss, batch, "a")

        def compute_loss(self, batch, training):
            return tf.reduce_sum(tf.square(self.models["a"](batch[0]) - self.models["b"](batch[0])), -1)

    trainer = Pair(models={"a": net, "b": net}, optimizers={"a": "sgd"})
    with pytest.raises(looplab.ConfigurationError, match=r"several models.*trainer\.evaluate"):
        trainer.fit(X, Y, verbose=0, callbacks=[looplab.callbacks.Keras(Asks(), model="a")])


@pytest.mark.slow
def test_a_metric_says_itself_which_way_a_monitor_goes():
    class Up(keras.metrics.MeanAbsoluteError):
        def __init__(self, name):
            super().__init__(name)
            self._direction = "up"

    stopping = keras.callbacks.EarlyStopping("val_quality")
    trainer = looplab.Trainer(net, "sgd", "mse", [Up("quality")], callbacks=[stopping])
    trainer.fit(X, Y, validation_data=(X, Y), verbose=0)
    assert stopping.monitor_op is keras.ops.greater


# --- the learning rate ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}])
def test_a_learning_rate_is_a_variable_and_an_assignment_counts(how):
    class Changes(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            rate = self.model.optimizer.learning_rate
            assert isinstance(rate, keras.Variable) and float(rate) == rate.numpy() == float(rate.value)
            assert float(keras.ops.convert_to_numpy(rate)) == float(rate) == float(rate * 1.0)
            if epoch:
                rate.assign(rate * 0.5)
                rate.assign_sub(0.001)

    weights = []
    for given in (0.0, 0.1):  # of 0 there is no factor
        made = net()
        made.compile(keras.optimizers.SGD(given), "mse", jit_compile=False)
        made.fit(X, Y, epochs=3, batch_size=8, shuffle=False, verbose=0, callbacks=[Changes()])
        trainer = looplab.Trainer(net, lambda given=given: keras.optimizers.SGD(given), "mse", **how)
        trainer.fit(X, Y, epochs=3, batch_size=8, shuffle=False, verbose=0, callbacks=[Changes()])
        np.testing.assert_allclose(trainer.model.get_weights()[0], made.get_weights()[0], rtol=1e-5)
        weights.append(made.get_weights()[0])
    optimizer = trainer.optimizers["optimizer"]
    again = looplab.Trainer(trainer.model, optimizer, "mse")  # takes the rate that was set
    again.fit(X, Y, verbose=0)
    assert again.optimizers["optimizer"].learning_rate.numpy() == made.optimizer.learning_rate.numpy()


@pytest.mark.slow
def test_a_schedule_that_is_set_later_counts():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([100], [0.0, 0.1])

    class Sets(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                self.model.optimizer.learning_rate = schedule

    trainer = looplab.Trainer(net, "sgd", "mse", callbacks=[Sets()])
    rates = trainer.fit(X, Y, epochs=2, batch_size=8, verbose=0).history["learning_rate"]
    trainer.optimizers["optimizer"].learning_rate = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 1.0)
    rates = trainer.fit(X, Y, epochs=3, batch_size=8, verbose=0).history["learning_rate"]
    assert rates == [np.float32(0.01), np.float32(0.01), 0.5]
    before = trainer.model.get_weights()
    rates = trainer.fit(X, Y, epochs=4, batch_size=8, verbose=0).history["learning_rate"]
    assert rates[3] == 0.0
    np.testing.assert_array_equal(trainer.model.get_weights()[0], before[0])


def test_another_optimizer_in_a_callback_is_refused():
    class Sets(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer = keras.optimizers.SGD(1.0)

    with pytest.raises(looplab.ConfigurationError, match="a callback has set another optimizer"):
        looplab.Trainer(net, "sgd", "mse", callbacks=[Sets()]).fit(X, Y, verbose=0)


# --- what is saved ------------------------------------------------------------------------------------------


LOADS = """
import sys, keras
sys.modules["looplab"] = None  # as where it is not installed
import numpy as np
for path in sys.argv[1:]:
    model = keras.models.load_model(path)
    optimizer = model.optimizer
    print(float(np.array(optimizer.learning_rate)), int(optimizer.iterations), model.loss)
    model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0)
    print(int(optimizer.iterations))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases",  # of each: whether Keras compiles the model first, and whether its rate is a schedule
    [
        [(False, False), (True, True)],
        pytest.param([(False, True), (True, False)], marks=pytest.mark.slow),
    ],
)
def test_saved_models_load_without_looplab_and_train_on(tmp_path, cases):
    files = []
    for index, (compiled, schedule) in enumerate(cases):
        folder = tmp_path / str(index)
        folder.mkdir()
        files.append(saved(folder, compiled, schedule))
    process = subprocess.run(
        [sys.executable, "-c", LOADS, *files], capture_output=True, text=True, timeout=300, check=True
    )
    assert process.stdout.split() == ["0.25", "6", "mse", "7"] * len(cases)


def saved(folder, compiled, schedule):
    """Trains a model and looks at what is saved of it; returns the file that a callback wrote."""
    rate = keras.optimizers.schedules.ExponentialDecay(0.25, 100, 1.0) if schedule else 0.5
    made, optimizer = net(), keras.optimizers.SGD(rate, momentum=0.5)
    if compiled:
        made.compile(optimizer, "mse")
    during, after = str(folder / "during.keras"), str(folder / "after.keras")
    callbacks = [keras.callbacks.ModelCheckpoint(during)]
    if not schedule:
        callbacks.append(keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.25))
    trainer = looplab.Trainer(made, optimizer, "mse", callbacks=callbacks)
    trainer.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    made.save(after)
    for path in (during, after)[: 1 + compiled]:
        with zipfile.ZipFile(path) as archive:
            assert "looplab" not in archive.read("config.json").decode()
        loaded = keras.models.load_model(path)
        for own, other in zip(loaded.optimizer.variables[-2:], optimizer.variables[-2:], strict=True):
            np.testing.assert_array_equal(own, other)
    written = optimizer.get_config()["learning_rate"]
    assert (
        json.dumps(written) and (written["config"]["initial_learning_rate"] if schedule else written) == 0.25
    )
    return during


def test_what_keras_cannot_load_again_is_left_out_of_a_file_with_a_warning(tmp_path, caplog):
    path = str(tmp_path / "model.keras")
    saves = keras.callbacks.ModelCheckpoint(path)
    trainer = looplab.Trainer(net, "sgd", lambda y, p: tf.reduce_mean((y - p) ** 2, -1), callbacks=[saves])
    trainer.fit(X, Y, epochs=2, verbose=0)
    assert not keras.models.load_model(path).compiled
    assert caplog.text.count("saved without its optimizer, loss and metrics") == 1
