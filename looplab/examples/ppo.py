"""PPO (Schulman et al. 2017) on CartPole: many updates per step, on data that the policy generates.

    python -m looplab.train +experiment=ppo

Each step plays several environments in parallel, estimates advantages, and makes several passes of
minibatches over these data. A row of the batch is one step of one environment.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import looplab

MINIBATCHES = 4  # in a pass over the data
CLIP = 0.2  # the largest useful distance of a ratio of probabilities from 1
DISCOUNT = 0.99  # the weight of a reward one step later
SMOOTHING = 0.95  # lambda of generalised advantage estimation
ENTROPY = 0.01  # the weight of the policy's entropy, in nats


@looplab.configurable
class ActorCritic(keras.Model):
    """Maps observations, shape `[n, 4]`, to the logits of actions, `[n, 2]`, and to values, `[n]`."""

    def __init__(self, units: int = 64) -> None:
        """Creates two perceptrons with two hidden layers of `units` each."""
        super().__init__()
        dense, sequential = keras.layers.Dense, keras.Sequential
        self.actor = sequential([dense(units, "tanh"), dense(units, "tanh"), dense(2)])
        self.critic = sequential([dense(units, "tanh"), dense(units, "tanh"), dense(1)])

    def call(self, observations: Any) -> Any:
        """Returns the logits and values; see the class."""
        return self.actor(observations), self.critic(observations)[:, 0]


@looplab.configurable
class PPO(looplab.Trainer):
    """Proximal policy optimisation with the clipped objective; logs the mean `return` of its episodes."""

    def __init__(
        self, *args: Any, games: int = 8, rollout: int = 500, passes: int = 4, **kwargs: Any
    ) -> None:
        """Creates the trainer.

        Args:
            *args: See `looplab.Trainer`.
            games: The number of environments, which each step starts again.
            rollout: The steps of each game; with fewer than 500 the policy never sees the end of a long one.
            passes: The passes over the data of a step, each of `MINIBATCHES` updates.
            **kwargs: See `looplab.Trainer`.
        """
        super().__init__(*args, **kwargs)
        self.games, self.rollout, self.passes = games, rollout, passes

    @tf.function
    def act(self, observations: Any) -> Any:
        """Calls the model as one graph."""
        return self.model(observations)

    def make_batch(self, step: int) -> dict[str, np.ndarray]:
        """Plays; the data depends only on the seed, the step and the weights, so resume is exact."""
        rng = np.random.default_rng([self.seed, step])
        games = cart_poles(self.games)
        observation, _ = games.reset(seed=int(rng.integers(2**31)))
        ended = np.zeros(self.games, bool)
        steps: list[dict[str, Any]] = []
        for _ in range(self.rollout):
            logits, value = (output.numpy() for output in self.act(observation))
            action = np.argmax(logits + rng.gumbel(size=logits.shape), axis=-1)
            known = {"observation": observation, "logits": logits, "value": value, "action": action}
            known["weight"] = 1 - ended.astype("float32")  # Gymnasium's reset takes a step, without effect
            observation, reward, fell, out_of_time, _ = games.step(action)
            ended = fell | out_of_time
            steps.append({**known, "reward": reward, "fell": fell, "ended": ended})
        rows = {name: np.stack([each[name] for each in steps]) for name in steps[0]}
        advantage = self.advantages(rows, self.act(observation)[1].numpy())
        counted = advantage[rows["weight"] > 0]
        rows["target"] = rows["value"] + advantage
        rows["advantage"] = (advantage - counted.mean()) / (counted.std() + 1e-6)
        episodes = rows["ended"].sum() + (~ended).sum()
        rows["return"] = np.full_like(advantage, rows["reward"].sum() / episodes)
        order = rng.permutation(advantage.size)
        return {name: column.reshape(-1, *column.shape[2:])[order] for name, column in rows.items()}

    def advantages(self, rows: dict[str, np.ndarray], value: np.ndarray) -> np.ndarray:
        """Estimates advantages (GAE, Schulman et al. 2016); `value` is the value after the last step."""
        found, advantage = np.zeros_like(rows["value"]), np.zeros_like(value)
        for time in reversed(range(self.rollout)):
            error = rows["reward"][time] + DISCOUNT * value * ~rows["fell"][time] - rows["value"][time]
            advantage = error + DISCOUNT * SMOOTHING * advantage * ~rows["ended"][time]
            found[time], value = advantage, rows["value"][time]
        return found

    def train_step(self, batch: Any) -> dict[str, Any]:
        """Updates `passes * MINIBATCHES` times (exact if replicas times `MINIBATCHES` divide the rows)."""
        for _ in range(self.passes):
            for first in range(MINIBATCHES):
                part = {name: column[first::MINIBATCHES] for name, column in batch.items()}
                logs = self.minimize(self.compute_loss, part)
        return {**logs, "return": tf.reduce_mean(batch["return"])}

    def compute_loss(self, batch: Any, training: bool) -> Any:
        """Returns the three loss terms of every row, with its weight."""
        logits, value = self.model(batch["observation"], training=training)
        new, old = tf.nn.log_softmax(logits), tf.nn.log_softmax(batch["logits"])
        ratio = tf.exp(tf.gather(new - old, batch["action"], batch_dims=1))
        bounded = tf.clip_by_value(ratio, 1 - CLIP, 1 + CLIP)
        gain = tf.minimum(ratio * batch["advantage"], bounded * batch["advantage"])
        return {
            "policy": (-gain, batch["weight"]),
            "value": (0.5 * tf.square(value - batch["target"]), batch["weight"]),
            "entropy": (ENTROPY * tf.reduce_sum(tf.exp(new) * new, axis=-1), batch["weight"]),
        }


@looplab.configurable
class Evaluation(looplab.Callback):
    """Plays with the most probable action at the end of each epoch; logs `evaluation_return`."""

    produces = ("evaluation_return",)  # so the best checkpoint can be chosen by it

    def __init__(self, episodes: int = 20, seed: int = 1_000_000) -> None:
        """Stores the number of episodes, and the seed of their first states."""
        self.episodes, self.seed = episodes, seed

    def on_epoch_end(self, event: Any, controls: Any) -> None:
        """Plays the episodes and logs their mean return."""
        act = tf.function(event.models["model"])
        games = cart_poles(self.episodes)
        observation, _ = games.reset(seed=self.seed)
        going, earned = np.ones(self.episodes, bool), 0
        while going.any():
            earned += going.sum()
            observation, _, fell, out_of_time, _ = games.step(act(observation)[0].numpy().argmax(axis=-1))
            going &= ~(fell | out_of_time)
        controls.log({"evaluation_return": earned / self.episodes})


def cart_poles(count: int) -> Any:
    """Creates environments that step in parallel; CartPole gives a reward of 1 per step."""
    try:
        import gymnasium
    except ImportError:
        raise looplab.ConfigurationError(
            "CartPole comes with Gymnasium, which is not installed. Run: pip install 'looplab[examples]'"
        ) from None
    return gymnasium.make_vec("CartPole-v1", num_envs=count)
