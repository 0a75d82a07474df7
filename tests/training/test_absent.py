"""`None` in what models and steps return: predictions keep its place, losses and scalars say what lacks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab import predictions
from looplab.callbacks import Samples
from looplab.data import split_batch
from tests.conftest import make_strategy

X = np.random.default_rng(0).normal(size=(11, 3)).astype("float32")
Y = X[:, :1]
TARGETS = {"a": Y, "b": None}


class Two(keras.Model):
    """An output, and one that is None."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return {"a": self.dense(inputs), "b": None}


def trainer(loss=None, kind=looplab.Trainer, **options):
    return kind(Two, "sgd", loss or {"a": "mse", "b": None}, **options)


def one_layer():
    return keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])


@pytest.mark.share(2)
@pytest.mark.parametrize("options", [{}, {"strategy": 2}, {"run_eagerly": True}, {"execution": "xla_step"}])
def test_predictions_keep_none_in_its_place(options, tmp_path):
    class Nested(looplab.Trainer):
        def predict_step(self, batch):
            outputs = self.model(split_batch(batch)[0])
            return outputs | {"deep": (outputs["a"] + 1, [None, outputs["b"]])}

    options = {**options, "strategy": make_strategy(options.get("strategy", 1))}
    made = trainer(kind=Nested, **options)
    found = made.predict(X, batch_size=2)  # six batches, of which several run in one call
    assert found["b"] is None and found["deep"][1] == [None, None]
    np.testing.assert_allclose(found["a"], made.model(X)["a"], rtol=1e-5)
    np.testing.assert_allclose(found["deep"][0], found["a"] + 1, rtol=1e-5)
    for suffix in (".npz", ".parquet"):
        shapes = predictions.write(tmp_path / f"p{suffix}", made.predict_batches(X, batch_size=2))
        assert shapes == {"a": (11, 1), "deep/0": (11, 1)}  # what is None has neither array nor column
    assert sorted(np.load(tmp_path / "p.npz")) == ["a", "deep/0"]


@pytest.mark.parametrize("eager", [False, True])
def test_predictions_that_are_nothing_are_refused(eager, tmp_path):
    class Nothing(looplab.Trainer):
        def predict_step(self, batch):
            self.model(split_batch(batch)[0])

    with pytest.raises(looplab.ConfigurationError, match="predict_step returned None: return tensors"):
        trainer(kind=Nothing, run_eagerly=eager).predict(X)
    with pytest.raises(looplab.DataError, match="returned only None"):
        predictions.write(tmp_path / "p.npz", [{"a": None}])


@pytest.mark.slow
def test_an_output_without_a_loss_trains_as_in_keras():
    made = trainer(loss_weights={"a": 2.0, "b": 3.0}, metrics={"a": ["mae"]})
    model = Two()
    model(X[:1])
    made.build(X, TARGETS)
    model.set_weights(made.model.get_weights())
    model.compile("sgd", {"a": "mse", "b": None}, loss_weights={"a": 2.0, "b": 3.0}, metrics={"a": ["mae"]})
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).map(lambda x, y: (x, {"a": y, "b": None}))
    expected = model.fit(data, validation_data=data, epochs=2, verbose=0).history
    history = made.fit(data, validation_data=data, epochs=2, verbose=0).history
    for name in ("loss", "val_loss", "a_mae", "val_a_mae"):
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-5)


BOTH = {"a": "mse", "b": "mae"}
REFUSED = {
    "an output that is None": (
        BOTH,
        {"a": Y, "b": Y},
        {},
        "'b' has a loss, and the model's output for it is None",
    ),
    "a target that is None": (BOTH, TARGETS, {}, "'b' has a loss, and the target for it is None"),
    "targets that are None": (BOTH, None, {}, "'a' has a loss, and the target for it is None"),
    "no loss at all": ({"a": None, "b": None}, TARGETS, {}, "loss: no output has a loss"),
    "metrics": (None, TARGETS, {"metrics": {"b": ["mae"]}}, "'mae' compares .* no target"),
    "accuracy": (None, {"a": Y, "b": Y}, {"metrics": {"b": ["accuracy"]}}, "'accuracy' .* no prediction"),
    "a metric": (
        None,
        TARGETS,
        {"metrics": {"b": [keras.metrics.MeanSquaredError("own")]}},
        "'own' compares .* no target",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_loss_or_a_metric_needs_is_named(case):
    loss, targets, options, message = REFUSED[case]
    with pytest.raises(looplab.ConfigurationError, match=message):
        trainer(loss, **options).fit((X, targets), epochs=1, verbose=0)


@pytest.mark.slow
def test_one_loss_takes_no_targets_of_which_some_are_none():
    def fit(targets, **options):
        made = looplab.Trainer(one_layer, "sgd", "mse", execution="graph")
        return made.fit(X, targets, epochs=1, shuffle=False, verbose=0, **options).history["loss"]

    for targets in ({"a": Y, "b": None}, [Y, None], {"a": None}):
        with pytest.raises(looplab.ConfigurationError, match=r"some of the targets are None: .*None"):
            fit(targets)
    with pytest.raises(looplab.ConfigurationError, match=r"some of the sample weights are None: \{a: float"):
        fit(Y, sample_weight={"a": X[:, 0], "b": None})
    assert fit(Y, sample_weight={"a": None}) == fit(Y, sample_weight=[None]) == fit(Y)


def test_predictions_that_cannot_be_joined_say_so():
    class Changes(looplab.Trainer):
        calls = 0

        def predict_step(self, batch):
            self.calls += 1
            return {"a": self.model(batch), "b": None if self.calls % 2 else batch}

    with pytest.raises(looplab.DataError, match=r"cannot be joined: .*None in one of them"):
        looplab.Trainer.predict(Changes(one_layer, run_eagerly=True), X, batch_size=4)


def test_inputs_and_outputs_that_are_none_are_said():
    class Forgets(keras.Model):
        def call(self, inputs):
            inputs + 1

    for call in ("fit", "evaluate", "predict"):
        with pytest.raises(looplab.DataError, match="no inputs: the first part of a batch is None"):
            getattr(looplab.Trainer(one_layer, "sgd", "mse"), call)((None, Y))
    with pytest.raises(looplab.ConfigurationError, match="the model returned None"):
        looplab.Trainer(Forgets, "sgd", "mse").evaluate(X, Y)
    for call in ("fit", "evaluate"):
        with pytest.raises(looplab.ConfigurationError, match="there are no targets"):
            getattr(looplab.Trainer(one_layer, "sgd", "mse"), call)((X, None))


STEPS = {
    "a scalar": ({"extra": None}, "'extra' is None; leave it out"),
    "all scalars": (None, "a step returned None; return scalars by name"),
}
LOSSES = {
    "nothing": (lambda values: None, "the loss function returned None"),
    "a term": (lambda values: {"main": values, "extra": None}, "the loss term 'extra' is None; leave it out"),
    "values": (lambda values: (None, values), "the loss term 'loss' is None"),
}


@pytest.mark.parametrize("call", ["fit", "evaluate"])
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("case", STEPS)
def test_scalars_that_are_none_are_refused_by_name(case, eager, call):
    returned, message = STEPS[case]

    class Own(looplab.Trainer):
        def train_step(self, batch):
            logs = self.minimize(self.compute_loss, batch)
            return None if returned is None else logs | returned

        def test_step(self, batch):
            logs = self.measure(self.compute_loss, batch)
            return None if returned is None else logs | returned

    with pytest.raises(looplab.LossError, match=message):
        getattr(Own(one_layer, "sgd", "mse", run_eagerly=eager), call)(X, Y)


@pytest.mark.parametrize("call", ["fit", "evaluate"])
@pytest.mark.parametrize("case", LOSSES)
def test_losses_that_are_none_are_refused_by_name(case, call):
    returned, message = LOSSES[case]

    class Own(looplab.Trainer):
        def compute_loss(self, batch, training):
            return returned((self.model(batch[0]) - batch[1]) ** 2)

    with pytest.raises(looplab.LossError, match=message):
        getattr(Own(one_layer, "sgd"), call)(X, Y)


def test_values_with_weights_that_are_none_are_values():
    class Own(looplab.Trainer):
        def compute_loss(self, batch, training):
            inputs, targets, weights = split_batch(batch)
            return {"own": ((self.model(inputs) - targets) ** 2, weights)}

    options = {"epochs": 2, "shuffle": False, "verbose": 0, "batch_size": 4}
    made = Own(one_layer, "sgd"), looplab.Trainer(one_layer, "sgd", "mse")
    own, plain = (trainer.fit(X, Y, **options) for trainer in made)
    np.testing.assert_allclose(own.history["loss"], plain.history["loss"], rtol=1e-6)


def test_samples_and_mixed_precision_leave_none_alone(tmp_path):
    def render(outputs):
        assert outputs["b"] is None and isinstance(outputs["a"], np.ndarray)
        return np.zeros([1, 2, 2], "float32")

    made = trainer(
        callbacks=[Samples(X[:2], render=render)],
        precision="mixed_bfloat16",
        run_dir=tmp_path,
        execution="graph",
    )
    made.fit((X, TARGETS), epochs=1, verbose=0)
    assert made.predict(X)["b"] is None


@pytest.mark.slow
def test_a_bad_step_is_run_again_with_what_was_absent(tmp_path):
    class Diverges(looplab.Trainer):
        def compute_loss(self, batch, training):
            inputs, targets, weights = batch
            assert targets["b"] is None and weights is None
            return tf.math.log((self.model(inputs) - targets["a"]) ** 2) / targets["c"]

    def made(**options):
        return Diverges(one_layer, "sgd", execution="graph", **options)

    data = (
        X,
        {"a": Y, "b": None, "c": np.where(np.arange(11) == 9, 0.0, 1.0).astype("float32")[:, None]},
        None,
    )
    with pytest.raises(looplab.DivergedError):
        made(run_dir=tmp_path).fit(data, batch_size=4, shuffle=False, epochs=1, verbose=0)
    folder = tmp_path / "bad_steps" / "step-00000003"
    again = made().replay(folder, data, batch_size=4, shuffle=False, epochs=1)
    assert again.is_same and again.examples == [8, 9, 10]
