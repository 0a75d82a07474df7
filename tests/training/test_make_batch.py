"""`make_batch` is called once for each step, and what a call changes is changed once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.checkpoint import state
from tests.conftest import make_strategy
from tests.process import differing


def policy():
    return keras.Sequential([keras.layers.Dense(4), keras.layers.Dropout(0.5), keras.layers.Dense(1)])


class Counting(looplab.Trainer):
    """Makes batches of variables that it changes, with a model that it builds there, and counts its calls."""

    def setup(self):
        self.count = tf.Variable(0.0, trainable=False)
        self.seeds = keras.random.SeedGenerator(self.seed)
        self._steps = []

    def make_batch(self, step):
        self._steps.append(step)
        self.count.assign_add(1.0)
        x = keras.random.normal((6, 4), seed=self.seeds) + self.count
        return x, self.model(x, training=False)

    def compute_loss(self, batch, training):
        return (self.model(batch[0], training=training) - batch[1] + 1.0)[:, 0] ** 2


def trainer(kind=Counting, replicas=1, **options):
    strategy = make_strategy(replicas) if replicas > 1 else "one_device"
    return kind(policy, "adam", strategy=strategy, execution="graph", **options)


def variables(trained):
    return state.read(trained._engine.variables)


@pytest.mark.parametrize("replicas", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_each_step_has_one_call(replicas, tmp_path):
    made = trainer(replicas=replicas)
    made.fit(steps=3, verbose=0)
    assert (made._steps, float(made.count.numpy())) == ([0, 1, 2], 3)
    made.fit(steps=5, verbose=0)
    assert (made._steps, float(made.count.numpy())) == ([0, 1, 2, 3, 4], 5)
    broken = trainer(replicas=replicas, run_dir=tmp_path)
    broken.fit(steps=2, verbose=0)
    again = trainer(replicas=replicas, run_dir=tmp_path)
    again.fit(steps=5, verbose=0)
    assert differing(variables(made), variables(again)) == []


def test_a_rehearsal_leaves_all_variables_as_they_were():
    unrehearsed, made = trainer(), trainer()
    unrehearsed.fit(steps=3, verbose=0)
    made.rehearse(steps=3)
    assert (made._steps, float(made.count.numpy())) == ([0], 0)
    made.fit(steps=3, verbose=0)
    assert float(made.count.numpy()) == 3
    assert differing(variables(unrehearsed), variables(made)) == []


def test_the_first_batch_is_made_with_the_weights_that_the_run_begins_with(tmp_path):
    """`initialize_from` and a callback set weights after the shapes are known."""
    first = trainer(run_dir=tmp_path)
    first.fit(steps=1, verbose=0)
    from_weights = trainer(initialize_from=str(tmp_path))
    from_weights.fit(steps=1, verbose=0)
    assert float(from_weights.count.numpy()) == 1 and from_weights._steps == [0, 0]


def test_a_first_step_that_is_undone_is_left_out():
    class Failing(Counting):
        def compute_loss(self, batch, training):
            return super().compute_loss(batch, training) * tf.where(self.count < 2, np.inf, 1.0)

    made = trainer(Failing, on_nonfinite="skip")
    made.fit(steps=3, verbose=0)
    assert (made._steps, float(made.count.numpy())) == ([0, 1, 2], 3)
