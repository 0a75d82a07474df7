"""What is enumerated, under which paths, and that restoring is strict and exact."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.checkpoint import state
from tests.conftest import make_strategy, on_two_replicas


class Parts(keras.Model):
    """Everything that object tracking is known to forget."""

    def __init__(self):
        super().__init__()
        self.listed = [keras.layers.Dense(2), keras.layers.Dropout(0.5), keras.layers.Dense(2)]
        self.named = {"norm": keras.layers.BatchNormalization()}
        self.nested = {"deep": [keras.layers.Dense(3)]}

    def call(self, x, training=False):
        for layer in [*self.listed, self.named["norm"], self.nested["deep"][0]]:
            x = layer(x)
        return x


class WithState(looplab.Trainer):
    def setup(self):
        self.queue = tf.Variable([1.0, 2.0], trainable=False)
        self.by_name = {"baseline": [keras.Variable(0.5)]}
        self.generator = tf.random.Generator.from_seed(1)
        self.seeds = keras.random.SeedGenerator(2)
        self.teacher = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        self.same_model = self.model  # no second path


def fitted(strategy="auto", **options):
    trainer = WithState(Parts, "adam", "mse", ["mae"], strategy=strategy, **options)
    x = np.arange(12, dtype="float32").reshape(4, 3)
    trainer.fit((x, x), batch_size=2, verbose=0)
    return trainer


@pytest.mark.slow
@on_two_replicas
def test_every_kind_of_state_has_a_path(strategy):
    paths = set(fitted(strategy)._engine.variables)
    for expected in (
        "models/model/dense/kernel",
        "models/model/dense_1/bias",
        "models/model/dense_2/kernel",
        "models/model/batch_normalization/moving_variance",
        "models/model/seed_generator/seed_generator_state",
        "optimizers/optimizer/model/dense_2/kernel/velocity",
        "metrics/mae/total",
        "loop/step",
        "loop/learning_rate_factor/optimizer",
        "trainer/queue",
        "trainer/by_name/baseline/0",
        "trainer/generator/state",
        "trainer/seeds/state",
        "trainer/teacher/dense/kernel",
    ):
        assert expected in paths
    assert not [path for path in paths if "same_model" in path]


@pytest.mark.slow
def test_paths_do_not_depend_on_what_the_process_named_before():
    first = set(fitted()._engine.variables)
    for _ in range(3):
        keras.layers.Dense(1), keras.layers.BatchNormalization(), keras.optimizers.Adam()
    assert set(fitted()._engine.variables) == first


def test_equal_names_get_different_paths():
    class Variable:
        def __init__(self, name):
            self.name = name

    names = ["dense_4/kernel", "dense_9/kernel", "dense_9/kernel", "layer_7/w", "layer/w"]
    paths = state.stable_paths([Variable(name) for name in names])
    assert paths == ["dense/kernel", "dense_1/kernel", "dense_1/kernel.1", "layer/w", "layer_1/w"]


@on_two_replicas
def test_values_come_back_bit_for_bit(strategy):
    source = fitted(strategy)
    arrays = state.read(source._engine.variables)
    target = fitted(strategy, seed=9)
    state.assign(target._engine.variables, arrays, "here")
    again = state.read(target._engine.variables)
    assert again.keys() == arrays.keys()
    for path, array in arrays.items():
        np.testing.assert_array_equal(again[path], array, err_msg=path)
        assert again[path].dtype == array.dtype


@pytest.mark.slow
def test_p39_replicas_draw_their_own_masks_and_keep_their_own_sums():
    """By replica; by row, which is the default, all replicas have one state, which is stored once."""
    arrays = state.read(fitted(make_strategy(2), random="replicas")._engine.variables)
    seeds = arrays["models/model/seed_generator/seed_generator_state@replicas"]
    assert seeds.shape == (2, 2) and seeds[0, 0] != seeds[1, 0] and seeds[0, 1] == seeds[1, 1]
    by_row = state.read(fitted(make_strategy(2))._engine.variables)
    assert by_row["models/model/seed_generator/seed_generator_state"].shape == (2,)


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.pop("trainer/queue"), r"missing in the checkpoint: trainer/queue"),
        (
            lambda a: a.update({"models/old/kernel": np.zeros(2)}),
            r"only in the checkpoint: models/old/kernel",
        ),
        (
            lambda a: a.update({"models/model/dense/bias": np.zeros(5, "float32")}),
            r"models/model/dense/bias: shape \(5,\) in the checkpoint, \(2,\) here",
        ),
        (
            lambda a: a.update({"loop/step": np.float32(2)}),
            r"loop/step: float32 in the checkpoint, int64 here",
        ),
    ],
)
def test_p16_what_does_not_fit_is_named_and_nothing_is_changed(change, says):
    trainer = fitted()
    before = state.read(trainer._engine.variables)
    arrays = {path: np.zeros_like(array) for path, array in before.items()}
    change(arrays)
    with pytest.raises(looplab.CheckpointError, match=says):
        state.assign(trainer._engine.variables, arrays, "step-00000002")
    for path, array in state.read(trainer._engine.variables).items():
        np.testing.assert_array_equal(array, before[path])


def test_numbers_of_something_that_is_not_here_are_left_as_they_are():
    """Such as a metric's, under a name that another metric has now; `assign` says what is missing."""
    arrays = {"metrics/was/total": np.float32(3.0), "metrics/was/seeds@replicas": np.ones(2)}
    assert state.regrouped({}, arrays) == arrays
