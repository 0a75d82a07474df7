"""The VQ-VAE example: its gradients, its codebook, its result."""

import json

import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.examples.vq_vae import VQVAE, Codebook
from tests.conftest import make_strategy
from tests.examples.shipped import last, train

IMAGES = looplab.data.digits()["train"][0]


def test_points_get_the_nearest_codes_and_the_gradient_of_their_codes():
    model = VQVAE(2, 8, 3, width=4)
    points = model.points(IMAGES[:5]).numpy()
    apart = np.linalg.norm(points[:, None] - model.codes.numpy()[None], axis=-1)
    assert model.nearest(points).numpy().tolist() == apart.argmin(axis=1).tolist()
    with tf.GradientTape() as tape:
        images, *_ = model(IMAGES[:5])
        loss = tf.reduce_sum(images**2)
    gradients = tape.gradient(loss, [model.encoder.trainable_variables[0], model.codes.value])
    assert np.abs(gradients[0]).max() > 0 and gradients[1] is None  # straight through the choice


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_code_that_nothing_uses_becomes_a_point_of_the_batch_on_all_replicas_alike(replicas):
    trainer = Codebook(lambda: VQVAE(2, 8, 3, width=4), "sgd", strategy=make_strategy(replicas))
    far = np.array(trainer.model.codes)
    far[3] = 1e3
    trainer.model.codes.assign(far)
    trainer.model.used.assign([1.0, 1.0, 1.0, 0.01, 1.0, 1.0, 1.0, 1.0])
    trainer.fit(IMAGES[:8], np.zeros(8), batch_size=8, epochs=1, verbose=0)
    assert np.abs(trainer.model.codes[3]).max() < 100
    copies = trainer.strategy.experimental_local_results(trainer.model.codes.value) if replicas > 1 else []
    for copy in copies:
        np.testing.assert_array_equal(copy.numpy(), np.asarray(trainer.model.codes))


def test_the_shipped_experiment_states_its_result(tmp_path):
    words = ["epochs=1", "model.width=8", "callbacks.reconstructions.every=1ep"]
    train("vq_vae", tmp_path, *words)
    stated = json.loads((tmp_path / "outcome.json").read_text())["result"]
    assert stated["mode"] == "min" and 0.01 < stated["baseline"] < 0.1
    assert 0 < last(tmp_path, "codes_used") <= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_its_result_is_met_with_most_codes_and_is_not_without_learning(seed, tmp_path):
    for rate, met in ((0.002, True), (0.0, False)):
        train("vq_vae", tmp_path / str(rate), f"seed={seed}", f"optimizer.learning_rate={rate}")
        assert json.loads((tmp_path / str(rate) / "outcome.json").read_text())["result"]["met"] is met
    assert last(tmp_path / "0.002", "codes_used") > 0.8
