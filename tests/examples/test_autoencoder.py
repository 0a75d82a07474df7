"""The autoencoder example: its baseline, the noise in training only, its result."""

import json

import keras
import numpy as np
import pytest
from sklearn.decomposition import PCA

import looplab
from looplab.examples import baselines
from looplab.examples.autoencoder import Autoencoder, Denoiser
from tests.examples.shipped import train

DIGITS = looplab.data.digits()
TRAIN, HELD_OUT = DIGITS["train"][0], DIGITS["validation"][0]


def test_the_baseline_is_that_of_scikit_learn():
    known, unknown = (images.reshape(len(images), -1) for images in (TRAIN, HELD_OUT))
    pca = PCA(8).fit(known)
    error = np.mean((pca.inverse_transform(pca.transform(unknown)) - unknown) ** 2)
    assert baselines.pca(TRAIN, HELD_OUT, 8) == pytest.approx(error, rel=1e-3)


def test_fewer_bits_are_never_better_and_many_are_as_good_as_numbers():
    errors = [baselines.quantised_pca(TRAIN, HELD_OUT, bits) for bits in (12, 24, 48, 96)]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] > baselines.pca(TRAIN, HELD_OUT, 24)


def test_noise_is_there_in_training_only():
    trainer = Denoiser(lambda: Autoencoder(2, 4), lambda: keras.optimizers.SGD(0.0), noise=0.5)
    quiet = Denoiser(lambda: Autoencoder(2, 4), lambda: keras.optimizers.SGD(0.0), noise=0.0)
    losses = [
        made.fit(TRAIN[:32], np.zeros(32), batch_size=32, epochs=1, verbose=0).history["loss"]
        for made in (trainer, quiet)
    ]
    assert losses[0] != losses[1]
    held_out = HELD_OUT, np.zeros(len(HELD_OUT))
    assert trainer.evaluate(*held_out)["loss"] == quiet.evaluate(*held_out)["loss"]


def test_the_shipped_experiment_states_its_result(tmp_path):
    train("autoencoder", tmp_path, "epochs=1", "model.width=8", "callbacks.reconstructions.every=1ep")
    stated = json.loads((tmp_path / "outcome.json").read_text())["result"]
    assert stated["baseline"] == pytest.approx(baselines.pca(TRAIN, HELD_OUT, 8)) and not stated["met"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_its_result_is_met_and_is_not_without_learning(seed, tmp_path):
    for rate, met in ((0.002, True), (0.0, False)):
        train("autoencoder", tmp_path / str(rate), f"seed={seed}", f"optimizer.learning_rate={rate}")
        assert json.loads((tmp_path / str(rate) / "outcome.json").read_text())["result"]["met"] is met
