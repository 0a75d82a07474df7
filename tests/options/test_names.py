"""Names of a user's own: refused before training begins, or they train, are saved and resume."""

import string
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import looplab
from looplab.checkpoint import state
from looplab.errors import ConfigurationError
from looplab.options.names import wrong_name

ONES = np.ones((4, 1), "float32")
BAD = [
    "a/../b",
    "..",
    ".",
    "",
    " ",
    "/a",
    "a/",
    "a//b",
    "a\\..\\b",
    "a\x1b[2J",
    "a\nb",
    "a\u202eb",
    "a ",
    201 * "x",
]
GOOD = [
    "discriminator/loss",
    "acc@5",
    "mse:0",
    "läufe",
    "学習",
    "a b",
    "...",
    "a..b",
    "%2e",
    "x" * 200,
    "-",
    "[b]",
]


@pytest.mark.parametrize("name", [*BAD, None, 3, "\ud800", "\0"], ids=ascii)
def test_what_is_no_name(name):
    assert wrong_name(name)


@pytest.mark.parametrize("name", GOOD, ids=ascii)
def test_what_is_one(name):
    assert wrong_name(name) is None


class Returns(looplab.Trainer):
    name = "x"

    def train_step(self, batch):
        return {**super().train_step(batch), self.name: tf.constant(1.0)}


class Shows(looplab.Trainer):
    name = "x"

    def compute_loss(self, batch, training):
        looplab.summary.scalar(self.name, tf.constant(1.0))
        return super().compute_loss(batch, training)


def network():
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])


def made(place, name, run_dir=None):
    """Returns a trainer to which something with a name is given at a place."""
    options = {"run_dir": run_dir, "execution": "graph"}
    kind = {"returned": Returns, "shown": Shows}.get(place, looplab.Trainer)
    if place == "metric" and name:  # of an empty one Keras makes its own
        options["metrics"] = [keras.metrics.MeanSquaredError(name=name)]
    if place == "models":
        trainer = looplab.Trainer(models={name: network}, optimizers={name: "sgd"}, loss="mse", **options)
    else:
        trainer = kind(network, "sgd", "mse", **options)
    if kind is not looplab.Trainer:
        trainer.name = name
    return trainer


def fit(place, name, run_dir, epochs):
    trainer = made(place, name, run_dir)
    data = looplab.Validation((ONES, ONES))
    sets = {name: data} if place == "set" else (ONES, ONES)
    return trainer.fit(ONES, ONES, epochs=epochs, validation_data=sets, verbose=0).history


PLACES = ["metric", "returned", "shown", "set", "optimizer"]


@pytest.mark.parametrize("name", ["a/../b", "a\x1b[2J", 201 * "x", " "], ids=ascii)
@pytest.mark.parametrize("place", PLACES)
def test_it_is_refused_before_anything_begins(place, name, tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"Choose another name|letters, digits and underscores"
    ) as caught:
        if place == "optimizer":
            looplab.Trainer(network, optimizers={name: "sgd"}, loss="mse")
        fit(place, name, tmp_path / "run", 1)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    assert (
        not (tmp_path / "run" / "checkpoints").exists() and not (tmp_path / "run" / "metrics.jsonl").exists()
    )


def test_losses_by_output_too():
    with pytest.raises(ConfigurationError, match=r"loss: the name 'a/\.\./b' cannot be a tag"):
        looplab.Trainer(network, "sgd", {"a/../b": "mse"})


NAMES = st.text(
    st.sampled_from([*string.ascii_letters[:4], *"/\\._- %~\n\0\x1b\u202eé学"]), max_size=12
) | st.sampled_from([*BAD, *GOOD])


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(name=NAMES, place=st.sampled_from(["metric", "returned", "set"]))
def test_any_name_is_refused_or_trains_and_resumes(name, place):
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        try:
            fit(place, name, run, 1)
        except ConfigurationError:
            assert not (run / "checkpoints").exists()
            return
        history = fit(place, name, run, 2)
        assert len(history["loss"]) == 2
        assert {path.name for path in Path(folder).iterdir()} == {"run"}


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=30) | st.text("./%\0a\ud800", max_size=8) | st.sampled_from(["x" * 5000, "../a", "/a"])
)
def test_any_name_of_a_variable_is_a_path_of_a_checkpoint(name):
    path = state.as_path(name)
    path.encode()
    assert ".." not in path.split("/") and "\0" not in path and not path.startswith("/") and len(path) < 1100
    assert state.as_path(path) == path


@pytest.mark.share(1)
@pytest.mark.parametrize("name", ["..", ".", "a>..>b", "x" * 2000], ids=["dots", "dot", "arrow", "long"])
def test_layers_whose_names_nobody_chose_are_saved(name, tmp_path):
    def model():
        return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name=name)])

    def trained(epochs):
        trainer = looplab.Trainer(model, "adam", "mse", run_dir=tmp_path / "run", execution="graph")
        return trainer.fit(ONES, ONES, epochs=epochs, verbose=0).history

    trained(1)
    assert len(trained(2)["loss"]) == 2


class Keeps(looplab.Trainer):
    def setup(self):
        keys = ["../x", "\0", "..", "/", "", 1, "1", "%2e%2e", "y" * 3000]
        self.kept = {key: tf.Variable(float(at)) for at, key in enumerate(keys)}

    def train_step(self, batch):
        for variable in self.kept.values():
            variable.assign_add(10.0)
        return super().train_step(batch)


@pytest.mark.slow
def test_variables_under_any_keys_are_saved_and_come_back(tmp_path):
    def trainer():
        return Keeps(network, "sgd", "mse", run_dir=tmp_path / "run", execution="graph")

    trainer().fit(ONES, ONES, epochs=1, verbose=0)
    again = trainer()
    again.fit(ONES, ONES, epochs=2, verbose=0)
    assert [float(own.numpy()) for own in again.kept.values()] == [at + 20.0 for at in range(9)]


def test_several_of_a_kind_are_given_by_name():
    with pytest.raises(looplab.ConfigurationError, match="optimizers: expected a dict"):
        looplab.Trainer(network, optimizers=["adam", "sgd"])
