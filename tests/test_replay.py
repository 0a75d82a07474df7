"""A step that was not finite, in a process of its own: the same numbers, and the operation that made them."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab import replay, train
from looplab.checkpoint import state
from tests.process import ended, start, write
from tests.recorded import act

X = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
Y = np.abs(X[:, :1])


class Roots(looplab.Trainer):
    def compute_loss(self, batch, training):
        x, y = batch
        return tf.math.log(tf.nn.relu(self.model(x, training=training)[:, 0]) + y[:, 0])


def model():
    layers = [keras.layers.Dropout(0.5), keras.layers.Dense(1, name="last")]
    return keras.Sequential([keras.Input((3,)), *layers])


@pytest.mark.share(1)
@pytest.mark.promise(37)
@pytest.mark.fault(53)
@pytest.mark.parametrize("execution", ["graph", "xla_loop"])
def test_it_is_reproduced_and_the_operation_named(execution, tmp_path):
    targets = Y.copy()
    targets[20] = -100.0  # the logarithm of a negative number, in step 3
    how = {"execution": execution, "steps_per_execution": 5}
    data = {"y": targets, "batch_size": 8, "shuffle": False}
    trainer = Roots(model, "adam", run_dir=tmp_path, **how)
    with pytest.raises(looplab.DivergedError, match="in step 3"):
        trainer.fit(X, **data, verbose=0)
    again = Roots(model, "adam", seed=5)
    again.build(X, targets, batch_size=8)
    found = again.replay(tmp_path / "bad_steps" / "step-00000003", X, **data)
    assert found.is_same and found.step == 3 and found.examples == list(range(16, 24))
    assert np.isnan(found.values["loss"])
    assert "operation 'Log'" in found.operation and "test_replay.py" in found.operation
    before = state.read(again._engine.variables)
    assert all(np.isfinite(array).all() for array in before.values())


@pytest.mark.slow
def test_a_batch_that_is_not_finite_is_named_itself(tmp_path):
    inputs = X.copy()
    inputs[21, 1] = np.nan
    data = {"y": Y, "batch_size": 8, "shuffle": False}
    with pytest.raises(looplab.DivergedError, match="in step 3"):
        Roots(model, "adam", run_dir=tmp_path).fit(inputs, **data, verbose=0)
    found = Roots(model, "adam").replay(tmp_path / "bad_steps" / "step-00000003", inputs, **data)
    assert found.is_same
    assert found.operation == "the batch itself (the inputs: 1 value not finite, first in example 21)"


@pytest.mark.slow
def test_what_was_mended_is_not_reproduced(tmp_path):
    targets = Y.copy()
    targets[20] = -100.0
    data = {"batch_size": 8, "shuffle": False}
    with pytest.raises(looplab.DivergedError):
        Roots(model, "adam", run_dir=tmp_path).fit(X, targets, **data, verbose=0)

    class Mended(Roots):
        def compute_loss(self, batch, training):
            return tf.square(self.model(batch[0], training=training)[:, 0])

    found = Mended(model, "adam").replay(tmp_path / "bad_steps" / "step-00000003", X, Y, **data)
    assert not found.is_same and found.operation is None


PROJECT = {
    "broken.py": '''
import keras
import numpy as np
import tensorflow as tf

import looplab


class Overflows(keras.layers.Layer):
    """Too much for float32, where an input is large."""

    def call(self, x):
        return tf.exp(x)


@looplab.configurable
def net():
    first = keras.layers.Dense(4, kernel_initializer="ones")
    return keras.Sequential([first, Overflows(name="overflows"), keras.layers.Dense(1)])


@looplab.configurable
def points():
    x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    x[20] = 1000.0
    return {"train": (x, x[:, :1])}
''',
    "conf/experiment/broken.yaml": """
# @package _global_
# one point that is too large
epochs: 2
model: {_target_: broken.net}
data:
  source: {_target_: broken.points}
  batch_size: 8
  shuffle: false
loss: mse
""",
}


@pytest.mark.slow
@pytest.mark.fault(53)
def test_the_command_names_operation_layer_and_examples(tmp_path):
    write(tmp_path, PROJECT)
    code, _ = act(train.main, "experiment=broken", "run_dir=run", cwd=tmp_path)
    assert code == 4
    code, said = ended(start("run_dir=run", module="looplab.replay", cwd=tmp_path))  # knows nothing of it
    assert code == 0, said
    found = r"operation 'Exp' of layer 'sequential\w*/overflows\w*' \(float32, shape \(8, 4\)\)"
    assert re.search(found, " ".join(said.split())), said
    assert "16, 17, 18, 19, 20, 21, 22, 23" in said and "reproduced" in said
    assert "broken.py:12 in call" in said, said
    code, said = act(replay.main, "run_dir=run", "step=7", cwd=tmp_path)
    assert code == 2 and "has kept no bad step 7; there are: 3" in said
