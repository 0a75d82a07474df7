"""State that Keras keeps beside its variables, and optimizers that serve two models."""

import keras
import numpy as np
import pytest

import looplab
from looplab.errors import ConfigurationError
from looplab.strategy import precision
from tests.conftest import make_strategy

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3, 2)), RNG.normal(size=(12, 1))


def recurrent(*first):
    keras.utils.set_random_seed(0)
    inside = keras.layers.Bidirectional(keras.layers.SimpleRNN(2, stateful=True))
    return keras.Sequential([*first, keras.layers.LSTM(3, stateful=True, return_sequences=True), inside,
                             keras.layers.Dense(1)])  # fmt: skip


def known():
    return recurrent(keras.Input(batch_shape=(4, 3, 2)))


def rate():
    return keras.optimizers.SGD(0.25)


def fit(make, how, **options):
    trainer = looplab.Trainer(make, rate, "mse", **({"execution": "graph", "precision": "float64"} | how))
    given = {"batch_size": 4, "shuffle": False, "verbose": 0, "validation_data": (X[:8], Y[:8])} | options
    return trainer.fit(X, Y, **given).history


@pytest.fixture(scope="module")
def of_keras():
    """The history of `model.fit`."""
    with precision.scope("float64"):
        own = known()
        own.compile(rate(), "mse", jit_compile=False)
        held = {"validation_data": (X[:8], Y[:8]), "validation_batch_size": 4}
        return own.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0, **held).history


@pytest.mark.share(1)
@pytest.mark.parametrize(
    "how", [{}, {"run_eagerly": True}, {"execution": "xla_step"}, {"execution": "xla_loop"}], ids=str
)
def test_a_stateful_layer_carries_its_state_as_in_keras(of_keras, how):
    found = fit(known, how, epochs=2)
    for name, series in of_keras.items():
        np.testing.assert_allclose(found[name], series, rtol=1e-10, err_msg=name)


@pytest.mark.slow
def test_a_broken_run_goes_on_with_the_states(tmp_path):
    def run(folder, *ends):
        for steps in ends:
            # Without evaluations, which move the states as in Keras: one comes at the end of each fit.
            found = fit(recurrent, {"run_dir": tmp_path / folder}, steps=steps, validation_data=None)
        return found

    assert run("whole", 5) == run("broken", 2, 5)
    arrays = looplab.checkpoint.read(tmp_path / "whole" / "checkpoints" / "step-00000005")
    assert sorted(path for path in arrays if path.startswith("states/")) == [
        "states/model/backward_simple_rnn/0", "states/model/forward_simple_rnn/0", "states/model/lstm/0",
        "states/model/lstm/1",
    ]  # fmt: skip


@pytest.mark.parametrize("how", [{"micro_batches": 2}, {"strategy": "simulated"}], ids=str)
def test_a_stateful_layer_is_refused_where_a_batch_is_computed_in_pieces(how):
    with pytest.raises(
        ConfigurationError, match=r"'lstm.*' of 'model' keeps its state .* one device and micro"
    ):
        fit(known, how)


def dense():
    return keras.Sequential([keras.Input([2]), keras.layers.Dense(1, name="same")])


def adam():
    return keras.optimizers.Adam(0.125, beta_1=0.5, beta_2=0.75)  # numbers that float32 has exactly


class Both(looplab.Trainer):
    """One optimizer trains two models, each in an update of its own."""

    def train_step(self, batch):
        logs = {}
        for name, model in self.models.items():
            found = self.minimize(self.loss_of(name), batch, variables=model.trainable_variables)
            logs[f"{name}/loss"] = found["loss"]
        return logs

    def loss_of(self, name):
        return lambda batch, training: (self.models[name](batch[0]) - batch[1])[:, 0] ** 2


@pytest.mark.slow
def test_one_optimizer_may_train_two_models_with_layers_of_one_name(tmp_path):
    """As a loop by hand does it: its count rises with each update, and each weight has its own slots."""
    x, y = X[:, 0], Y
    run_dir = tmp_path / "run"
    trainer = None
    for steps in (1, 3):
        keras.utils.set_random_seed(0)
        options = {
            "precision": "float64",
            "execution": "graph",
            "strategy": make_strategy(2),
            "run_dir": run_dir,
        }
        trainer = Both(models={"a": dense, "b": dense}, optimizer=adam, **options)
        start = {name: model.get_weights() for name, model in trainer.models.items()}
        trainer.fit(x, y, batch_size=4, steps=steps, shuffle=False, verbose=0)
    with precision.scope("float64"):
        models = {name: dense() for name in start}
        for name, model in models.items():
            model.set_weights(start[name])
        own = adam()
        own.build([v for model in models.values() for v in model.trainable_variables])
        for at in (0, 4, 8):
            for model in models.values():
                part, error = x[at : at + 4], model(x[at : at + 4]).numpy() - y[at : at + 4]
                gradients = [2 * part.T @ error / 4, 2 * error.mean(0)]
                own.apply([keras.ops.convert_to_tensor(g) for g in gradients], model.trainable_variables)
        for name, model in models.items():
            for one, other in zip(trainer.models[name].get_weights(), model.get_weights(), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-10)


@pytest.mark.parametrize("made", [lambda one: one, lambda one: lambda: one], ids=["object", "function"])
def test_one_optimizer_object_under_two_names_is_refused(made):
    one = keras.optimizers.Adam()
    with pytest.raises(ConfigurationError, match=r"'a' and 'b' are one object, .*'both': "):
        looplab.Trainer(models={"a": dense, "b": dense}, optimizers={"a": made(one), "b": made(one)})
