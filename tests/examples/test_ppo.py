"""PPO on CartPole: advantages by hand, what a rollout holds, exact resume, and the stated result."""

import sys

import numpy as np
import pytest

import looplab
from looplab.examples.ppo import DISCOUNT, MINIBATCHES, PPO, SMOOTHING, ActorCritic
from tests.examples.shipped import continues_exactly, last, train

TINY = [
    "trainer.games=2",
    "trainer.rollout=24",
    "trainer.passes=1",
    "model.units=8",
    "callbacks.evaluation.episodes=2",
    "data.steps_per_epoch=2",
    "+schedule.total_steps=4",
]


def small(**options):
    return PPO(lambda: ActorCritic(4), "adam", games=2, rollout=60, seed=5, **options)


def test_advantages_are_discounted_sums_of_errors_up_to_the_end():
    trainer = PPO(lambda: ActorCritic(4), "adam", games=1, rollout=4)
    rows = {
        "value": np.array([[1.0], [2.0], [3.0], [4.0]]),
        "reward": np.ones((4, 1)),
        "fell": np.array([[False], [True], [False], [False]]),
        "ended": np.array([[False], [True], [False], [False]]),
    }
    found = trainer.advantages(rows, value=np.array([5.0]))[:, 0]
    step = DISCOUNT * SMOOTHING
    errors = [1 + DISCOUNT * 2 - 1, 1 - 2, 1 + DISCOUNT * 4 - 3, 1 + DISCOUNT * 5 - 4]
    expected = [errors[0] + step * errors[1], errors[1], errors[2] + step * errors[3], errors[3]]
    np.testing.assert_allclose(found, expected)


def test_a_batch_follows_from_seed_step_and_weights():
    trainer = small()
    one, same, other = trainer.make_batch(2), trainer.make_batch(2), trainer.make_batch(3)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["observation"], other["observation"])
    assert one["observation"].shape == (120, 4)
    counted = one["weight"] > 0
    assert (one["reward"][counted] == 1).all() and (one["reward"][~counted] == 0).all()  # resets earn nothing
    assert one["ended"].any() and not counted.all()
    assert abs(one["advantage"][counted].mean()) < 1e-5
    assert one["return"][0] == pytest.approx(one["reward"].sum() / (2 + (~counted).sum()), rel=0.1)


@pytest.mark.slow
def test_a_step_makes_its_updates():
    trainer = small(passes=1)
    trainer.fit(steps=2, verbose=0)
    (optimizer,) = trainer.optimizers.values()
    assert int(optimizer.iterations.numpy()) == 2 * MINIBATCHES


@pytest.mark.slow
def test_the_shipped_experiment_continues_exactly(tmp_path):
    logged = continues_exactly("ppo", tmp_path, *TINY)
    assert [r["step"] for r in logged if "evaluation_return" in r["values"]] == [2, 4]


def test_without_gymnasium_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(looplab.ConfigurationError, match=r"pip install 'looplab\[examples\]'"):
        small().fit(steps=1, verbose=0)


@pytest.mark.slow
def test_it_earns_more_than_475(tmp_path):
    train("ppo", tmp_path)
    assert last(tmp_path, "evaluation_return") > 475
