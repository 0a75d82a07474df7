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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_rehearsal_leaves_all_variables_as_they_were():
    unrehearsed, made = trainer(), trainer()
    unrehearsed.fit(steps=3, verbose=0)
    made.rehearse(steps=3)
    assert (made._steps, float(made.count.numpy())) == ([0], 0)
    made.fit(steps=3, verbose=0)
    assert float(made.count.numpy()) == 3
    assert differing(variables(unrehearsed), variables(made)) == []


@pytest.mark.slow
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


class Sized(looplab.Trainer):
    """Reads fields in `make_batch` and in its loss."""

    def __init__(self, *arguments, rows=6, slow_steps=100, table=(1.0, 2.0), **options):
        super().__init__(*arguments, **options)
        self.rows, self.slow_steps, self.table = rows, slow_steps, np.float32(table)
        self.calls, self._name, self.tags = 0, "a", {"x", "y"}

    def make_batch(self, step):
        assert self._name and self.tags
        self.calls += 1
        x = np.random.default_rng([self.seed, step]).normal(size=(self.rows, 4)).astype("float32")
        return x, x[:, :1] * self.table[0]

    def compute_loss(self, batch, training):
        return (self.model(batch[0], training=training) - batch[1])[:, 0] ** 2 / self.slow_steps


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, []),
        ({"seed": 2}, ["data: seed 0 -> 2; "]),
        ({"rows": 8}, ["data: self.rows 6 -> 8; "]),
        ({"table": (3.0, 2.0)}, ["data: self.table array([1., 2.]"]),
        ({"slow_steps": 5}, ["code: its operations have changed: slow_steps 100 -> 5; "]),
        ({"seed": 2, "slow_steps": 5}, ["data: seed 0 -> 2; ", "slow_steps 100 -> 5; "]),
    ],
)
def test_a_run_names_the_changed_fields_that_its_batches_and_steps_read(changed, said, tmp_path):
    trainer(Sized, run_dir=tmp_path).fit(steps=1, verbose=0)
    again = trainer(Sized, run_dir=tmp_path, **changed)
    if not said:
        again.fit(steps=2, verbose=0)
        return
    with pytest.raises(looplab.CheckpointError) as error:
        again.fit(steps=2, verbose=0)
    assert all(text in str(error.value) for text in said)
