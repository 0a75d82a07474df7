"""A run that goes on with other callbacks: those without a state come and go, no state is lost in silence."""

import keras
import numpy as np
import pytest

import looplab

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
HELD = (X, X[:, :1])


class Quiet(keras.callbacks.Callback):
    """Of one's own, with nothing but its arguments."""

    def __init__(self, word, every=1):
        super().__init__()
        self.word, self._every = word, every


class Counts(keras.callbacks.Callback):
    """Of one's own, with a state."""

    def __init__(self, name):
        super().__init__()
        self.name, self.epochs = name, 0

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1


class Counted(looplab.Callback):
    """looplab's kind, with a state."""

    epochs = 0

    def on_epoch_end(self, event, controls):
        self.epochs += 1

    def state(self):
        return {"epochs": self.epochs}

    def restore(self, state):
        self.epochs = state["epochs"]


class Plain(looplab.Callback):
    """looplab's kind, without one."""


def net():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def fit(run_dir, callbacks, epochs, **more):
    more = {"run_eagerly": True} | more  # for so few steps it takes less time than graphs
    trainer = looplab.Trainer(net, "sgd", "mse", run_dir=run_dir, callbacks=callbacks, **more)
    return trainer.fit(*HELD, validation_data=HELD, batch_size=4, epochs=epochs, verbose=0)


def nan():
    return keras.callbacks.TerminateOnNaN()


def stop():
    return keras.callbacks.EarlyStopping(patience=9)


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [nan, Plain, lambda: keras.callbacks.LambdaCallback(), lambda: Quiet("a")]),
        ([nan, Plain, lambda: Quiet("a")], []),
        ([stop, Counted, nan], [lambda: Quiet("b"), Counted, stop]),
    ],
)
def test_callbacks_without_a_state_come_go_and_change_places(before, after, tmp_path):
    fit(tmp_path, [make() for make in before], 1)
    assert len(fit(tmp_path, [make() for make in after], 2).epoch) == 2


def test_each_gets_its_own_state_back_whatever_stands_between(tmp_path):
    fit(tmp_path, [Counts("a"), nan(), Counted()], 2)
    first, second, own = Counts("a"), Counts("b"), Counted()
    fit(tmp_path, [Quiet("x"), own, first, second], 3, allow_change=["callbacks"])
    assert (first.epochs, second.epochs, own.epochs) == (
        3,
        1,
        3,
    )  # the first of a class is the first that was
    again = Counts("a"), Counts("b")
    fit(tmp_path, [*again, Counted()], 4)
    assert [each.epochs for each in again] == [4, 2]


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ([], [stop], "only in the trainer: EarlyStopping"),
        (
            [Counted, stop],
            [stop, stop],
            "only in the checkpoint: Counted; only in the trainer: EarlySt",
        ),
    ],
)
def test_a_state_is_neither_lost_nor_begun_anew_in_silence(before, after, says, tmp_path, caplog):
    fit(tmp_path, [make() for make in before], 1)
    with pytest.raises(looplab.CheckpointError) as caught:
        fit(tmp_path, [make() for make in after], 2)
    assert says in str(caught.value)
    assert "allow_change=[callbacks]" in str(caught.value)
    fit(tmp_path, [make() for make in after], 2, allow_change=["callbacks"])
    assert f"the run continues with other callbacks, as allowed: {says}" in caplog.text
