"""BatchNormalization on several replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.checkpoint import state
from tests.conftest import make_strategy

RNG = np.random.default_rng(0)


def fitted(model, data, replicas, **options):
    trainer = looplab.Trainer(
        model,
        keras.optimizers.SGD(0.125),
        "mse",
        strategy=make_strategy(replicas),
        precision="float64",
        **options,
    )
    trainer.fit(data, batch_size=5, epochs=2, shuffle=False, verbose=0)
    return trainer


def masked():
    inputs = keras.Input((None, 3))
    x = keras.layers.Masking()(inputs)
    x = keras.layers.BatchNormalization(momentum=0.5)(x)
    return keras.Model(inputs, keras.layers.LSTM(2)(x))


@pytest.mark.parametrize("replicas", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_p01_with_a_mask_too_it_sees_the_batch_of_all_replicas(replicas):
    x = RNG.normal(size=(11, 4, 3))  # two batches of 5, and one example for the last replica alone
    lengths = RNG.integers(1, 5, 11)
    x[np.arange(4)[None, :] >= lengths[:, None]] = 0.0
    data = x, RNG.normal(size=(11, 2))
    one, several = fitted(masked, data, 1), fitted(masked, data, replicas)
    for left, right in zip(one.model.get_weights(), several.model.get_weights(), strict=True):
        np.testing.assert_allclose(right, left, rtol=0, atol=1e-6)  # Keras adds 1e-7 to a mask's count
    assert not np.allclose(several.model.layers[2].moving_mean, 0.0)


def plain(synchronized=False):
    norm = keras.layers.BatchNormalization(momentum=0.5, synchronized=synchronized)
    return keras.Sequential([keras.Input((3,)), norm, keras.layers.Dense(1)])


# Of the layer: the trainer's policy stands above it.
@pytest.mark.parametrize("synchronized", [pytest.param(False, marks=pytest.mark.slow), True])
def test_local_statistics_are_averaged_by_rows_and_an_empty_replica_counts_for_nothing(synchronized):
    x, y = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 1))  # 5 rows: 1, 2, 2; 1 row: 0, 0, 1
    trainer = fitted(lambda: plain(synchronized), (x, y), 3, batch_norm="local")
    mean, variance = np.zeros(3), np.ones(3)
    for _ in range(2):
        for rows in ([x[:1], x[1:3], x[3:5]], [x[5:6]]):
            count = sum(len(own) for own in rows)
            mean = 0.5 * mean + 0.5 * sum(own.mean(0) * len(own) for own in rows) / count
            variance = 0.5 * variance + 0.5 * sum(own.var(0) * len(own) for own in rows) / count
    layer = trainer.model.layers[0]
    np.testing.assert_allclose(layer.moving_mean, mean, atol=1e-12)
    np.testing.assert_allclose(layer.moving_variance, variance, atol=1e-12)
    for part in state.parts(layer.moving_mean):
        np.testing.assert_array_equal(part.numpy(), layer.moving_mean.numpy())
    assert all(np.isfinite(weight).all() for weight in trainer.model.get_weights())


@pytest.mark.slow
def test_local_ones_compile_and_on_one_device_both_are_the_same():
    x, y = RNG.normal(size=(10, 3)), RNG.normal(size=(10, 1))
    graph = fitted(plain, (x, y), 2, batch_norm="local")
    compiled = fitted(plain, (x, y), 2, batch_norm="local", execution="xla_step")
    sync, local = (fitted(plain, (x, y), 1, batch_norm=policy) for policy in ("sync", "local"))
    for left, right in ((graph, compiled), (sync, local)):
        for one, other in zip(left.model.get_weights(), right.model.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.slow
def test_the_plan_says_what_it_depends_on(capsys):
    data = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 1))
    for policy, said in (("sync", "as on one device"), ("local", "so results depend on their number")):
        trainer = looplab.Trainer(plain, "sgd", "mse", strategy=make_strategy(2), batch_norm=policy)
        trainer.fit(data, steps=1, verbose=2)
        assert said in " ".join(capsys.readouterr().out.split())


def test_another_policy_is_refused():
    with pytest.raises(
        looplab.ConfigurationError, match="batch_norm: 'global' is not one of 'sync', 'local'"
    ):
        looplab.Trainer(plain, "sgd", "mse", batch_norm="global")


@pytest.mark.slow
def test_a_frozen_one_keeps_its_statistics_to_the_bit():
    x, y = RNG.normal(size=(10, 3)), RNG.normal(size=(10, 1))

    def frozen():
        model = plain()
        model.layers[0].trainable = False
        model.layers[0].moving_mean.assign(tf.constant([0.1, 0.2, 0.7], tf.float64))
        return model

    trainer = fitted(frozen, (x, y), 3, batch_norm="local")
    np.testing.assert_array_equal(trainer.model.layers[0].moving_mean, [0.1, 0.2, 0.7])


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("replicas", "policy"),
    [
        (1, "sync"),
        (2, "local"),
        pytest.param(1, "local", marks=pytest.mark.slow),
        pytest.param(2, "sync", marks=pytest.mark.slow),
    ],
)
def test_a_piece_without_rows_changes_nothing(replicas, policy):
    x, y = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 1))
    trainer = looplab.Trainer(
        plain, "sgd", "mse", strategy=make_strategy(replicas), precision="float64", micro_batches=3,
        batch_norm=policy,
    )  # fmt: skip
    trainer.fit((x, y), batch_size=2, shuffle=False, verbose=0)
    mean = np.zeros(3)
    pieces = [x[0:1], x[1:2], x[2:3], x[3:4]] if replicas == 1 else [x[0:2], x[2:4]]
    for rows in pieces:  # one row in each of two pieces; or both in the last, one on each replica
        mean = 0.5 * mean + 0.5 * rows.mean(0)
    np.testing.assert_allclose(trainer.model.layers[0].moving_mean, mean, atol=1e-12)
    assert all(np.isfinite(weight).all() for weight in trainer.model.get_weights())
