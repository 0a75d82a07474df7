"""REINFORCE (Williams 1992) on CartPole: the trainer generates its data with the present policy.

    python -m looplab.train +experiment=reinforce

Each step plays whole episodes, and makes those actions more probable that earned more than the mean at the
same time. A row of the batch is an episode: shape `[episodes, LIMIT, ...]`, with weight 0 after its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import looplab

LIMIT = 500  # steps after which CartPole-v1 ends an episode


@looplab.configurable
class Policy(keras.Model):
    """Maps observations, shape `[..., 4]`, to the logits of pushing left or right, `[..., 2]`."""

    def __init__(self, units: int = 64) -> None:
        """Creates a perceptron with `units` hidden units."""
        super().__init__()
        self.hidden = keras.layers.Dense(units, "relu")
        self.logits = keras.layers.Dense(2)

    def call(self, observations: Any) -> Any:
        """Returns the logits; see the class."""
        return self.logits(self.hidden(observations))


@looplab.configurable
class Reinforce(looplab.Trainer):
    """Learns from the returns of the episodes that it plays; logs their mean as `return`."""

    def __init__(self, *args: Any, episodes: int = 16, discount: float = 0.99, **kwargs: Any) -> None:
        """Creates the trainer.

        Args:
            *args: See `looplab.Trainer`.
            episodes: The number of episodes in each step, at least 2.
            discount: The weight of a reward one step later, from 0 to 1.
            **kwargs: See `looplab.Trainer`.
        """
        super().__init__(*args, **kwargs)
        self.episodes, self.discount = episodes, discount

    def make_batch(self, step: int) -> dict[str, np.ndarray]:
        """Plays; the data depends only on the seed, the step and the weights, so resume is exact."""
        rng = np.random.default_rng([self.seed, step])

        def sample(logits: np.ndarray) -> np.ndarray:
            return np.argmax(logits + rng.gumbel(size=logits.shape), axis=-1)

        batch = play(self.policy, sample, self.episodes, seed=int(rng.integers(2**31)))
        alive = batch["alive"]
        to_go, earned = np.zeros_like(alive), np.zeros(self.episodes, "float32")
        for time in reversed(range(LIMIT)):
            earned = alive[:, time] + self.discount * earned  # CartPole gives a reward of 1 for each step
            to_go[:, time] = earned
        advantage = to_go - to_go.mean(axis=0)  # the baseline: the episodes' mean later reward
        advantage /= advantage[alive > 0].std() + 1e-6
        return {**batch, "advantage": advantage, "return": alive.sum(axis=1)}

    @tf.function
    def policy(self, observations: Any) -> Any:
        """Calls the model as one graph."""
        return self.model(observations)

    def train_step(self, batch: Any) -> dict[str, Any]:
        """Makes one update, and logs the mean length of the episodes."""
        return {**super().train_step(batch), "return": tf.reduce_mean(batch["return"])}

    def compute_loss(self, batch: Any, training: bool) -> Any:
        """Returns -log p(action) * advantage of every step, and weight 0 for steps after the end."""
        log_policy = tf.nn.log_softmax(self.model(batch["observation"], training=training))
        taken = tf.gather(log_policy, batch["action"], batch_dims=2)
        return -taken * batch["advantage"], batch["alive"]


@looplab.configurable
class Evaluation(looplab.Callback):
    """Plays with the most probable actions at the end of each epoch; logs `evaluation_return`."""

    produces = ("evaluation_return",)  # so the best checkpoint can be chosen by it

    def __init__(self, episodes: int = 20, seed: int = 1_000_000) -> None:
        """Stores the number of episodes, and the seed of their first states."""
        self.episodes, self.seed = episodes, seed

    def on_epoch_end(self, event: Any, controls: Any) -> None:
        """Plays the episodes and logs their mean return."""
        policy = tf.function(event.models["model"])
        played = play(policy, lambda logits: logits.argmax(axis=-1), self.episodes, self.seed)
        controls.log({"evaluation_return": played["alive"].sum(axis=1).mean()})


def play(policy: Callable[..., Any], choose: Callable[..., Any], episodes: int, seed: int) -> dict[str, Any]:
    """Plays episodes of CartPole in parallel, each once; on the host.

    Args:
        policy: A function from observations `[episodes, 4]` to logits `[episodes, 2]`.
        choose: A function from logits, a NumPy array, to actions, 0 or 1, `[episodes]`.
        episodes: The number of episodes.
        seed: The seed of their first states.

    Returns:
        `observation` `[episodes, LIMIT, 4]`, `action` `[episodes, LIMIT]`, and `alive`, 1 for a step that
        was played and 0 after the end of the episode.
    """
    try:
        import gymnasium
    except ImportError:
        raise looplab.ConfigurationError(
            "CartPole comes with Gymnasium, which is not installed. Run: pip install 'looplab[examples]'"
        ) from None
    environments = gymnasium.make_vec("CartPole-v1", num_envs=episodes)
    observation, _ = environments.reset(seed=seed)
    played = {
        "observation": np.zeros((episodes, LIMIT, 4), "float32"),
        "action": np.zeros((episodes, LIMIT), "int64"),
        "alive": np.zeros((episodes, LIMIT), "float32"),
    }
    going = np.ones(episodes, bool)
    for time in range(LIMIT):
        action = choose(policy(observation).numpy())
        for name, value in (("observation", observation), ("action", action), ("alive", going)):
            played[name][:, time] = value
        observation, _, terminated, truncated, _ = environments.step(action)
        going &= ~(terminated | truncated)
        if not going.any():
            break
    return played
