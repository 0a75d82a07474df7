"""`looplab.load` and `Trainer.restore`: the weights of a checkpoint, in code."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.checkpoint import state
from tests.conftest import make_strategy
from tests.process import HANGS, ROOT, arrays, snapshot, steps
from tests.recorded import at_home, make_run

X = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class Two(keras.Model):
    """Of its layers, prediction calls the second only."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(4), keras.layers.Dense(1)

    def call(self, x, training=False):
        return self.second(self.first(x))


class Second(looplab.Trainer):
    def setup(self):
        self.seen = tf.Variable(0.0, aggregation=tf.VariableAggregation.SUM)

    def train_step(self, batch):
        self.seen.assign_add(1.0)
        return self.minimize(self.compute_loss, batch)

    def predict_step(self, batch):
        return self.model.second(batch)


def trainer(run_dir=None, kind=looplab.Trainer, **more):
    return kind(Two, "adam", "mse", run_dir=run_dir, **more)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of Python with several checkpoints: its directory."""
    run_dir = tmp_path_factory.mktemp("python") / "run"
    policy = looplab.CheckpointPolicy(keep_last=5)
    kept = trainer(run_dir, Second, checkpoint=policy)
    kept.fit((X, Y), validation_data=(X, Y), batch_size=10, epochs=3, verbose=0)
    return run_dir


def test_load_gives_a_built_trainer_that_evaluates_predicts_and_goes_on(tmp_path):
    project = make_run(tmp_path)
    run_dir = project / "runs/mine"
    with at_home(project):
        import mine

        before = snapshot(run_dir)
        loaded = looplab.load("runs/mine", 10)
        assert isinstance(loaded, mine.Mine)
        saved = arrays(run_dir, 10)
        kernel = next(a for path, a in saved.items() if path.startswith("models/") and a.shape == (4, 16))
        np.testing.assert_array_equal(loaded.model.inner.kernel.numpy(), kernel)
        data = mine.points(50)
        assert set(loaded.evaluate(*data["validation"])) == {"loss", "accuracy"}
        assert loaded.predict(data["train"]).shape == (50, 2)
        assert snapshot(run_dir) == before
        replicated = looplab.load(run_dir, 10, overrides=["strategy=simulated", "strategy.replicas=2"])
        assert replicated.num_replicas == 2
        np.testing.assert_allclose(
            replicated.predict(data["train"]), loaded.predict(data["train"]), rtol=1e-5
        )
        history = loaded.fit(
            data["train"], validation_data=data["validation"], batch_size=10, epochs=4, verbose=0
        )
        assert history.epoch == [0, 1, 2, 3] and steps(run_dir)[-1] == 20
        for words, says in {"model.unitz=3": "unitz", "epochs=0": "at least 1|positive"}.items():
            with pytest.raises(looplab.ConfigurationError, match=says):
                looplab.load("runs/mine", overrides=[words])
        with pytest.raises(looplab.ConfigurationError, match=r"nowhere has no config.yaml"):
            looplab.load("nowhere")


@pytest.mark.slow
def test_restore_takes_the_weights_of_any_checkpoint_when_models_are_built(run):
    assert steps(run) == [2, 4, 6]
    for which in (2, "last", run / "checkpoints/step-00000004", str(run / "checkpoints/step-00000004")):
        own = trainer(run)
        path = own.restore(which)
        values = own.evaluate(X, Y)
        fresh = trainer()
        fresh.build(X, Y)
        assert fresh.restore(path) == path  # at once: it is built
        assert fresh.evaluate(X, Y) == values
        kernels = [v.numpy() for v in fresh.model.trainable_variables]
        saved = [a for name, a in arrays(run, int(path.name[5:])).items() if name.startswith("models/")]
        assert sorted(k.sum() for k in kernels) == sorted(a.sum() for a in saved)
    with pytest.raises(looplab.ConfigurationError, match=r"step 5 is not there; .* 2, 4, 6"):
        trainer(run).restore(5)
    with pytest.raises(looplab.ConfigurationError, match=r"this trainer has none"):
        trainer().restore("best")
    with pytest.raises(looplab.CheckpointError, match=r"cannot be read"):
        trainer().restore(run)


def test_a_model_of_which_a_part_is_built_is_refused_until_all_of_it_is(run):
    part = trainer(run, Second)
    part.restore("last")
    with pytest.raises(
        looplab.CheckpointError, match=r"4 variables of the model 'model', of which 2 are built"
    ):
        part.predict(X)
    whole = trainer(run, Second)
    whole.restore("last")
    whole.build(X, Y)
    saved = arrays(run)
    kernel = next(a for name, a in saved.items() if name.startswith("models/") and a.shape == (4, 1))
    np.testing.assert_array_equal(whole.model.second.kernel.numpy(), kernel)
    assert float(whole.seen.numpy()) == float(saved["trainer/seen"]) == 6.0


@pytest.mark.slow
def test_a_fit_after_a_restore_goes_on_exactly_or_begins_with_the_weights(run, tmp_path):
    def fit(one, epochs):
        one.fit((X, Y), validation_data=(X, Y), batch_size=10, epochs=epochs, verbose=0)

    straight, went_back = trainer(tmp_path / "a", resume="never"), trainer(tmp_path / "b", resume="never")
    fit(straight, 2)
    for one in (straight, went_back):
        fit(one, 2)
        if one is went_back:
            one.restore(2)
        fit(one, 3)
    one, other = arrays(tmp_path / "a"), arrays(tmp_path / "b")
    assert all(np.array_equal(one[path], other[path]) for path in one)
    tuned = trainer()
    tuned.restore(run / "checkpoints/step-00000006")
    before = trainer(run).evaluate(X, Y)["loss"]
    history = tuned.fit((X, Y), batch_size=20, epochs=1, verbose=0)
    assert history.history["loss"] == [pytest.approx(before, rel=1e-5)]  # that of the first step
    assert (history.params, history.model) == ({"epochs": 1, "steps": 1}, tuned.model)


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_values_of_each_replica_are_read_on_another_number_of_them(replicas):
    kinds = {"SUM": 6.0, "MEAN": 3.0, "ONLY_FIRST_REPLICA": 1.0}
    strategy = make_strategy(replicas)
    with tf.distribute.get_strategy().scope() if strategy == "auto" else strategy.scope():
        variables = {
            name: tf.Variable(
                0.0,
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=getattr(tf.VariableAggregation, name),
            )
            for name in kinds
        }
    saved = {f"{name}@replicas": np.array([1.0, 5.0], "float32") for name in kinds}
    state.assign(variables, state.regrouped(variables, saved), "a checkpoint of two replicas")
    assert {name: float(variable.read_value()) for name, variable in variables.items()} == kinds


TYPED = """
import looplab
trainer = looplab.load("runs/mine")
history = trainer.fit((0, 0))
reveal_type(trainer)
reveal_type(history)
reveal_type(history.history)
reveal_type(trainer.evaluate(0))
reveal_type(trainer.restore("last"))
looplab.Trainer(epochs=3)
"""


@pytest.mark.slow
def test_a_type_checker_knows_what_the_public_names_return(tmp_path):
    (tmp_path / "mine.py").write_text(TYPED)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        str(tmp_path / "mine.py"),
    ]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS).stdout
    assert re.findall(r'Revealed type is "(.*?)"', said.replace("builtins.", "")) == [
        "looplab.trainer.Trainer",
        "looplab.loggers.history.History",
        "dict[str, list[float]]",
        "dict[str, float]",
        "pathlib.Path",
    ], said
    assert 'Unexpected keyword argument "epochs" for "Trainer"' in said
