"""REINFORCE on CartPole: what an episode is, exact resume, and the stated result."""

import sys

import numpy as np
import pytest

import looplab
from looplab.examples.reinforce import LIMIT, Policy, Reinforce, play
from tests.examples.shipped import continues_exactly, last, train

TINY = ["trainer.episodes=4", "model.units=8", "callbacks.evaluation.episodes=2", "data.steps_per_epoch=2"]


def balance(observations):
    """A policy that is known to do well: push to where the pole falls."""

    class Logits:
        def numpy(self):
            towards = observations @ np.array([0.1, 0.2, 1.0, 0.5])
            return np.stack([-towards, towards], axis=1)

    return Logits()


def test_an_episode_ends_where_the_pole_falls_or_at_the_limit():
    long = play(balance, lambda logits: logits.argmax(axis=-1), episodes=3, seed=0)
    assert long["alive"].sum(axis=1).tolist() == [LIMIT] * 3
    short = play(balance, lambda logits: np.zeros(len(logits), "int64"), episodes=3, seed=0)
    lengths = short["alive"].sum(axis=1).astype(int)
    assert all(8 <= length <= 11 for length in lengths)  # always to the left
    for alive, length in zip(short["alive"], lengths, strict=True):
        assert alive[:length].all() and not alive[length:].any()


def test_a_batch_follows_from_seed_step_and_weights():
    trainer = Reinforce(lambda: Policy(4), "adam", episodes=3, seed=5)
    one, same, other = trainer.make_batch(2), trainer.make_batch(2), trainer.make_batch(3)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["observation"], other["observation"])
    np.testing.assert_allclose(one["advantage"].mean(axis=0), 0, atol=1e-5)  # a baseline for every time
    np.testing.assert_array_equal(one["return"], one["alive"].sum(axis=1))


@pytest.mark.slow
def test_the_shipped_experiment_continues_exactly(tmp_path):
    logged = continues_exactly("reinforce", tmp_path, *TINY)
    assert [r["step"] for r in logged if "evaluation_return" in r["values"]] == [2, 4]


def test_without_gymnasium_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(looplab.ConfigurationError, match=r"pip install 'looplab\[examples\]'"):
        Reinforce(lambda: Policy(4), "adam").fit(steps=1, verbose=0)


@pytest.mark.slow
def test_it_earns_more_than_195(tmp_path):
    train("reinforce", tmp_path)
    assert last(tmp_path, "evaluation_return") > 195
