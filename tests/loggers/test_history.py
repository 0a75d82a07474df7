"""What `fit` returns."""

from looplab.loggers import History
from looplab.protocols import Record


def history_of(*records):
    history = History()
    for record in records:
        history.write(Record(*record))
    return history


def test_epochs_by_the_names_that_keras_gives_them():
    history = history_of(
        (4, 1, "validation", {"epoch_loss": 3.0}),
        (4, 1, "train", {"epoch_loss": 2.0, "learning_rate": 0.1}),
        (8, 2, "validation", {"epoch_loss": 1.5}),
        (8, 2, "test", {"epoch_loss": 1.6}),
        (8, 2, "train", {"epoch_loss": 1.0, "learning_rate": 0.05}),
    )
    assert history.epoch == [0, 1]
    assert list(history.history.items()) == [  # training first
        ("loss", [2.0, 1.0]),
        ("learning_rate", [0.1, 0.05]),
        ("val_loss", [3.0, 1.5]),
        ("test_loss", [1.6]),
    ]


def test_the_values_of_single_steps_are_left_out():
    history = history_of((2, 1, "train", {"loss": 9.0}), (4, 1, "train", {"epoch_loss": 2.0}))
    assert (history.epoch, history.history) == ([0], {"loss": [2.0]})


def test_the_last_evaluation_within_an_epoch_stands():
    history = history_of(
        (2, 1, "validation", {"epoch_loss": 3.0}),
        (4, 1, "validation", {"epoch_loss": 2.0}),
        (4, 1, "train", {"epoch_loss": 1.0}),
    )
    assert (history.epoch, history.history) == ([0], {"loss": [1.0], "val_loss": [2.0]})


def test_an_epoch_that_went_on_after_a_stop_counts_once_as_a_whole():
    history = history_of((2, 1, "train", {"epoch_loss": 3.0}), (4, 1, "train", {"epoch_loss": 2.0}))
    assert (history.epoch, history.history) == ([0], {"loss": [2.0]})


def test_a_run_that_continues_has_its_earlier_epochs(train, tmp_path):
    whole = train(tmp_path / "whole", epochs=3)
    train(tmp_path / "parts", epochs=1)
    parts = train(tmp_path / "parts", epochs=3)
    assert whole.epoch == parts.epoch == [0, 1, 2]
    assert set(whole.history) >= {"loss", "error", "val_loss", "val_error"}
    assert parts.history == whole.history
