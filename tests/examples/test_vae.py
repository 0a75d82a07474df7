"""The VAE example: its likelihood and its KL term against their formulas, the warm-up, its result."""

import keras
import numpy as np
import pytest
from scipy.stats import binom

import looplab
from looplab.examples.vae import VAE, Autoencoder
from tests.examples.shipped import train
from tests.process import records

TINY = [
    "model.width=8",
    "model.latent=2",
    "data.batch_size=600",
    "data.steps_per_epoch=null",
    "callbacks.pictures.every=2st",
]


def evaluated(run_dir):
    return [r["values"] for r in records(run_dir) if r["split"] == "validation"][-1]


def test_the_shipped_experiment_runs(tmp_path):
    train("vae", tmp_path, "epochs=null", "steps=2", *TINY)
    values = evaluated(tmp_path)
    assert values["epoch_reconstruction"] + values["epoch_kl"] == pytest.approx(
        values["epoch_loss"], rel=1e-5
    )


def test_the_loss_is_minus_the_elbo():
    trainer = VAE(lambda: Autoencoder(latent=2, width=8), "adam")
    images = looplab.data.digits()["validation"][0][:5]
    rng = np.random.default_rng(0)
    out = {
        "logits": rng.normal(size=images.shape).astype("float32"),
        "mean": rng.normal(size=(5, 2)).astype("float32"),
        "log_variance": rng.normal(size=(5, 2)).astype("float32"),
    }
    trainer.models["model"] = lambda images, training: out
    loss = trainer.compute_loss((images, None), training=False)
    chance = 1 / (1 + np.exp(-out["logits"].astype("float64")))
    likelihood = binom.logpmf(np.round(16 * images), 16, chance).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(loss["reconstruction"], -likelihood, rtol=1e-4)
    mean, variance = out["mean"], np.exp(out["log_variance"])
    np.testing.assert_allclose(
        loss["kl"], 0.5 * (mean**2 + variance - np.log(variance) - 1).sum(1), rtol=1e-4
    )


def test_the_kl_term_counts_for_nothing_at_first_and_fully_after_the_warm_up():
    trainer = VAE(lambda: Autoencoder(2, 8, dropout=0.0), lambda: keras.optimizers.SGD(0.0), warmup_steps=2)
    images = looplab.data.digits()["train"][0][:8]
    history = trainer.fit((images, np.zeros(8)), batch_size=8, epochs=4, verbose=0).history["kl"]
    assert history == pytest.approx([0.0, history[2] / 2, history[2], history[2]], rel=1e-5)


@pytest.mark.slow
def test_the_held_out_bound_is_far_above_that_of_independent_pixels(tmp_path):
    train("vae", tmp_path)
    assert evaluated(tmp_path)["epoch_loss"] < 95.0  # independent pixels: 251
