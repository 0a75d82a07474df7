"""The GAN examples: how many updates a step makes, the penalty against its formula, what the judge sees."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.examples import gan
from tests.examples.shipped import last, train

TINY = [
    "epochs=null", "steps=2", "data.batch_size=12", "data.steps_per_epoch=null", "data.limit=2",
    "model.generator.width=8", "model.critic.width=8", "callbacks.judge.every=2st",
]  # fmt: skip
MODELS = {"generator": lambda: gan.Generator(3, 8), "critic": lambda: gan.Critic(8)}
OPTIMIZERS = {"generator": "adam", "critic": "adam"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gan", "wgan_gp"])
def test_the_shipped_experiment_runs_and_is_judged(name, tmp_path):
    train(name, tmp_path, *TINY)
    assert 0.0 <= last(tmp_path, "recognised") <= 1.0
    assert 1 <= last(tmp_path, "classes") <= 10
    assert np.isfinite(last(tmp_path, "epoch_critic/held_out"))


@pytest.mark.slow
def test_the_critic_takes_several_steps_for_one_of_the_generator():
    trainer = gan.WGANGP(models=MODELS, optimizers=OPTIMIZERS, critic_steps=3)
    images = looplab.data.digits()["train"][0][:12]
    trainer.fit((images, np.zeros(12)), batch_size=6, epochs=1, verbose=0)
    assert int(trainer.optimizers["critic"].iterations.numpy()) == 6
    assert int(trainer.optimizers["generator"].iterations.numpy()) == 2


def test_the_penalty_of_a_linear_critic_is_that_of_its_slope():
    trainer = gan.WGANGP(models=MODELS, optimizers=OPTIMIZERS, penalty=10.0)
    slope = np.random.default_rng(0).normal(size=64).astype("float32")
    trainer.models["critic"] = lambda x, training: tf.reshape(x, [-1, 64]) @ slope[:, None]
    batch = {
        "real": tf.random.stateless_uniform([4, 8, 8, 1], [0, 1]),
        "noise": tf.random.stateless_normal([4, 3], [0, 2]),
        "share": tf.random.stateless_uniform([4, 1, 1, 1], [0, 3]),
    }
    penalty = trainer.critic_loss(batch, training=True)["penalty"]
    np.testing.assert_allclose(penalty, np.full((4, 1), 10 * (np.linalg.norm(slope) - 1) ** 2), rtol=1e-4)


def test_the_judge_tells_digits_from_noise():
    digits = looplab.data.digits()
    judge, noted = gan.Judge(digits), {}
    controls = SimpleNamespace(log=noted.update, show=lambda tag, kind, data: noted.update(shape=data.shape))

    def judged(images):
        def generator(noise):
            return tf.constant(images)

        generator.input_shape = (None, 3)
        judge.on_step(SimpleNamespace(models={"generator": generator}, step=1, epoch=1), controls)
        return noted["recognised"], noted["classes"]

    assert judge.classifier.score(digits["validation"][0].reshape(-1, 64), digits["validation"][1]) > 0.97
    share, classes = judged(digits["validation"][0])
    assert share > 0.8 and classes == 10
    share, _ = judged(np.random.default_rng(0).uniform(size=(500, 8, 8, 1)).astype("float32"))
    assert share < 0.15
    assert noted["shape"] == (1, 100, 100, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gan", "wgan_gp"])
def test_most_samples_are_recognised_and_all_digits_occur(name, tmp_path):
    train(name, tmp_path)
    assert last(tmp_path, "recognised") > 0.6  # held-out digits 0.85, noise 0.07
    assert last(tmp_path, "classes") == 10
