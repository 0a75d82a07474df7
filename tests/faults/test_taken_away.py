"""Files of a run that somebody takes away while it trains: said, made again, and the run is the same."""

import os
import shutil
import time

import keras
import numpy as np
import pytest

import looplab
from tests.process import records, scalars, steps

X = np.linspace(-1, 1, 60, dtype="float32").reshape(-1, 1)


class At(looplab.Callback):
    """Does something to the run directory once, at a step."""

    every = "1st"

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step(self, event, controls):
        if event.step == self.step:
            written = event.run_dir / f"checkpoints/step-{self.step - self.step % 3:08d}"
            while not written.exists() or list(written.parent.glob(".*")):
                time.sleep(0.01)  # it is being saved
            self.act(event.run_dir)


def train(run_dir, act=None, epochs=4, step=13):
    trainer = looplab.Trainer(
        lambda: keras.Sequential([keras.Input([1]), keras.layers.Dense(1)]),
        keras.optimizers.SGD(0.1),
        "mse",
        execution="graph",
        log_every="1st",
        checkpoint=looplab.CheckpointPolicy(every="3st"),
        callbacks=[At(step, act or (lambda run_dir: None))],
        run_dir=run_dir,
    )
    trainer.fit(X, 2 * X, validation_data=(X, 2 * X), batch_size=10, epochs=epochs, verbose=0)
    return trainer


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    train(run_dir)
    return run_dir


def tags(run_dir):
    """What TensorBoard shows of both splits: tag, step and value."""
    return {split: sorted(scalars(run_dir, split)) for split in ("train", "validation")}


def the_log(run_dir):
    (run_dir / "metrics.jsonl").unlink()


def tensorboard(run_dir):
    shutil.rmtree(run_dir / "tensorboard")


def all_of_it(run_dir):
    shutil.rmtree(run_dir.rename(run_dir.with_name("doomed")))


def all_of_it_to_elsewhere(run_dir):
    run_dir.rename(run_dir.with_name("elsewhere"))


def another_run_in_its_place(run_dir):
    run_dir.rename(run_dir.with_name("elsewhere"))
    run_dir.mkdir()
    for name in ("metrics.jsonl", "log.txt"):
        (run_dir / name).write_text("somebody else's\n")


@pytest.mark.share(1)
@pytest.mark.fault(8)
@pytest.mark.parametrize(
    "act",
    [
        the_log,
        tensorboard,
        pytest.param(all_of_it, marks=pytest.mark.slow),  # as where it is elsewhere, for the run
        all_of_it_to_elsewhere,
        another_run_in_its_place,
    ],
)
def test_the_run_ends_as_if_nothing_had_happened(act, undisturbed, tmp_path, caplog):
    run_dir = tmp_path / "run"
    train(run_dir, act)
    assert records(run_dir) == records(undisturbed)
    assert tags(run_dir) == tags(undisturbed)
    assert "during the run; looplab writes it again" in caplog.text
    assert {path.name for path in undisturbed.iterdir()} <= {path.name for path in run_dir.iterdir()}
    assert (run_dir / "log.txt").read_text().count("epoch ") >= 4
    assert steps(run_dir)[-1] == 24
    for path in (run_dir / "checkpoints").iterdir():
        assert looplab.checkpoint.verify(path) is None
    caplog.clear()
    train(run_dir, epochs=5, step=0)  # and goes on
    assert "lost records" not in caplog.text and "damaged" not in caplog.text


@pytest.mark.fault(8)
def test_what_earlier_starts_showed_in_tensorboard_is_written_again(undisturbed, tmp_path, caplog):
    run_dir = tmp_path / "run"
    train(run_dir, epochs=2)
    train(run_dir, tensorboard, epochs=4)
    assert tags(run_dir) == tags(undisturbed)
    assert "looplab writes their scalars again from metrics.jsonl" in caplog.text


@pytest.mark.fault(8)
def test_what_cannot_be_made_again_ends_the_run_with_6(tmp_path):
    def shorten(run_dir):
        os.truncate(run_dir / "metrics.jsonl", 10)

    with pytest.raises(
        looplab.StorageError, match=r"metrics\.jsonl was written to by another process"
    ) as end:
        train(tmp_path / "run", shorten)
    assert end.value.exit_code == 6
    train(tmp_path / "run", step=0)  # goes on from the last checkpoint
    assert steps(tmp_path / "run")[-1] == 24


@pytest.mark.fault(8)
def test_a_directory_that_cannot_be_made_again_ends_the_run_with_6(tmp_path):
    def a_file_in_its_place(run_dir):
        all_of_it(run_dir)
        run_dir.write_text("")

    with pytest.raises(looplab.StorageError, match="run") as end:
        train(tmp_path / "run", a_file_in_its_place)
    assert end.value.exit_code == 6


@pytest.mark.slow
@pytest.mark.fault(8)
def test_what_was_taken_away_between_two_fits_is_said(tmp_path, caplog):
    trainer = train(tmp_path / "run", epochs=1)
    the_log(tmp_path / "run")
    trainer.fit(X, 2 * X, validation_data=(X, 2 * X), batch_size=10, epochs=2, verbose=0)
    assert "metrics.jsonl has lost records" in caplog.text
