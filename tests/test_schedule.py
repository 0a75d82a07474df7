import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import looplab
from looplab.optimization.follow_step import FollowStep
from looplab.schedule import Cyclic, Piecewise, Warmup, WarmupCosine, plot


def test_warmup_cosine_is_its_formula():
    schedule = WarmupCosine(0.1, total_steps=50, warmup_steps=10, floor=0.2)
    for step in (0, 5, 9, 10, 30, 49, 50, 80):
        if step < 10:
            expected = 0.1 * (step + 1) / 11
        else:
            part = min((step - 10) / 40, 1)
            expected = 0.1 * (0.2 + 0.8 * (1 + math.cos(math.pi * part)) / 2)
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-5)


@given(
    step=st.integers(0, 500),
    cycle=st.integers(2, 60),
    floor=st.sampled_from([0.0, 0.25]),
    decay=st.sampled_from([1.0, 0.5]),
)
def test_cyclic_is_its_formula(step, cycle, floor, decay):
    height = decay ** (step // cycle) * (1 - abs(2 * (step % cycle) / cycle - 1))
    expected = 0.5 * (floor + (1 - floor) * height)
    assert float(Cyclic(0.5, cycle, floor, decay)(step)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@given(step=st.integers(0, 40), warmup=st.integers(0, 20))
def test_a_warmup_goes_before_any_schedule(step, warmup):
    decay = keras.optimizers.schedules.PolynomialDecay(0.5, 30, 0.125)
    rise = min(1, (step + 1) / (warmup + 1))
    rate = Warmup(warmup_steps=warmup, schedule=decay)(step)
    assert float(rate) == pytest.approx(rise * float(decay(step)), rel=1e-5)
    assert float(Warmup(0.5, warmup)(step)) == pytest.approx(0.5 * rise, rel=1e-5)


def test_piecewise_changes_with_the_update_after_the_boundary():
    schedule = Piecewise(0.5, [2, 4], [0.5, 0.25])
    assert [float(schedule(step)) for step in range(6)] == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Warmup(warmup_steps=2), "give a learning_rate, or a schedule"),
        (lambda: Cyclic(0.5, 1), "at least 2"),
        (lambda: Piecewise(0.5, [2], [0.5, 0.25]), "equally many"),
        (lambda: Piecewise(0.5, [4, 2], [0.5, 0.25]), "must rise"),
    ],
)
def test_schedules_that_have_no_shape_are_refused(make, says):
    with pytest.raises(looplab.ConfigurationError, match=says):
        make()


def test_a_schedule_is_drawn_in_a_line():
    rates = [0.0, 0.5, 1.0, 0.25]
    assert plot(lambda step: rates[int(step)], 4) == "\u2581\u2584\u2588\u2582 0 first, 1 at most, 0.25 last"
    assert plot(0.5, 1) == "\u2588 0.5 first, 0.5 at most, 0.5 last"
    assert len(plot(Cyclic(0.5, 100), 10_000, width=20).split()[0]) == 20


def test_the_rehearsal_draws_the_learning_rate():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    trainer = looplab.Trainer(model, keras.optimizers.SGD(WarmupCosine(0.5, 8, 3)), "mse")
    lines = dict(trainer.rehearse((np.zeros((8, 1)), np.zeros((8, 1))), batch_size=1).lines)
    assert lines["learning_rate"] == plot(WarmupCosine(0.5, 8, 3), 8)


@pytest.mark.parametrize(
    "schedule",
    [
        WarmupCosine(0.1, 50, 10),
        Cyclic(0.1, 8, decay=0.5),
        Piecewise(0.1, [5, 9], [0.5, 0.1]),
        Warmup(0.1, 7),
        Warmup(warmup_steps=7, schedule=keras.optimizers.schedules.CosineDecay(0.1, 40)),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_a_schedule_survives_keras_serialisation(schedule):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert np.allclose([schedule(s) for s in range(60)], [again(s) for s in range(60)])


@given(
    base=st.floats(2**-20, 1.0, width=32),
    rates=st.lists(st.floats(2**-26, 8.0, width=32), min_size=1, max_size=5),
)
def test_a_rate_that_is_set_is_the_very_rate(base, rates):
    rate = FollowStep(base, tf.Variable(3, dtype=tf.int64), tf.Variable(1.0, dtype=tf.float64))
    for wanted in rates:
        rate.assign(wanted)
        assert rate().numpy() == np.float32(wanted)


def test_a_rate_cannot_be_set_where_the_schedule_is_at_zero():
    base = keras.optimizers.schedules.PolynomialDecay(0.1, 5, 0.0)
    rate = FollowStep(base, tf.Variable(5, dtype=tf.int64), tf.Variable(1.0, dtype=tf.float64))
    rate.assign(0.0)
    with pytest.raises(looplab.ConfigurationError, match=r"cannot be set to 0\.1 at step 5"):
        rate.assign(0.1)
