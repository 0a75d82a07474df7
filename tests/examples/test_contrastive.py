"""The contrastive example: its copy follows, its negatives are those of the whole batch, its result."""

import numpy as np
import pytest

import looplab
import looplab.checkpoint.state
from looplab.examples.contrastive import Encoder, MomentumContrast
from tests.conftest import on_two_replicas
from tests.examples.shipped import last, train

TINY = [
    "model.filters=[8]",
    "model.dimension=4",
    "data.batch_size=600",
    "data.steps_per_epoch=null",
    "callbacks.probe.every=2st",
]


def encoder():
    return Encoder(filters=[8], dimension=4)


def images(count):
    return looplab.data.digits()["train"][0][:count], np.zeros(count)


@pytest.mark.slow
def test_the_shipped_experiment_runs_and_probes(tmp_path):
    train("contrastive", tmp_path, "epochs=null", "steps=2", *TINY)
    assert 0.0 <= last(tmp_path, "probe_accuracy_few") <= last(tmp_path, "probe_accuracy") <= 1.0
    assert last(tmp_path, "epoch_loss") > 0


@pytest.mark.slow
@on_two_replicas
def test_the_copy_moves_towards_the_encoder_by_one_part_in_ten(strategy):
    trainer = MomentumContrast(encoder, "sgd", momentum=0.9, strategy=strategy)
    trainer.fit(images(20), batch_size=20, steps=1, verbose=0)
    before = looplab.checkpoint.state.read(looplab.checkpoint.state.of_models({"slow": trainer.slow}))
    trainer.fit(images(20), batch_size=20, steps=2, verbose=0)
    after = looplab.checkpoint.state.read(looplab.checkpoint.state.of_models({"slow": trainer.slow}))
    model = looplab.checkpoint.state.read(looplab.checkpoint.state.of_models({"slow": trainer.model}))
    for path, old in before.items():
        np.testing.assert_allclose(after[path], 0.9 * old + 0.1 * model[path], atol=1e-6, err_msg=path)


@pytest.mark.slow
def test_micro_batches_leave_the_loss_what_it_is():
    losses = [
        MomentumContrast(encoder, "sgd", micro_batches=parts)
        .fit(images(30), batch_size=30, steps=3, verbose=0)
        .history["loss"]
        for parts in (1, 3)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.slow
def test_a_linear_probe_knows_the_digits(tmp_path):
    train("contrastive", tmp_path)
    assert last(tmp_path, "probe_accuracy") > 0.97  # of pixels 0.967, of the encoder untrained 0.950
    assert last(tmp_path, "probe_accuracy_few") > 0.93  # of pixels 0.908, of the encoder untrained 0.827
