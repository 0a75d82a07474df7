"""What never ends is refused, and what may end is counted, which Ctrl-C can stop."""

import itertools
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.data import counting
from looplab.errors import DataError
from tests.process import environment, forking_python

ONES = np.ones((4, 1), "float32")


def made():
    return looplab.Trainer(lambda: keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]), "sgd", "mse")


def for_ever():
    while True:
        yield ONES, ONES


def for_ever_in_passes():
    while 1:
        for _ in range(3):
            try:
                yield ONES, ONES
            finally:
                pass


class Endless:
    def __iter__(self):
        while True:
            yield ONES, ONES


class EndlessPyDataset(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, index):
        return ONES, ONES


ENDLESS = {
    "function": for_ever,
    "nested": for_ever_in_passes,
    "lambda": lambda: for_ever(),
    "iterable": Endless(),
    "cycle": lambda: itertools.cycle([(ONES, ONES)]),
    "tf.data": tf.data.Dataset.from_tensors((ONES, ONES)).repeat(),
    "PyDataset": EndlessPyDataset(),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_never_ends_is_refused_at_once(kind):
    with pytest.raises(DataError, match=r"never ends? ?.*steps_per_epoch"):
        made().fit(ENDLESS[kind], verbose=0)
    with pytest.raises(DataError, match=r"never ends? ?.*validation_steps for an evaluation"):
        made().fit(ONES, ONES, validation_data=ENDLESS[kind], verbose=0)
    with pytest.raises(DataError, match=r"never ends? ?.*steps in evaluate and predict"):
        made().evaluate(ENDLESS[kind])


@pytest.mark.share(2)
@pytest.mark.parametrize("kind", ENDLESS)
def test_and_trains_where_its_epochs_have_a_length(kind):
    history = made().fit(
        ENDLESS[kind],
        steps_per_epoch=2,
        epochs=2,
        validation_data=looplab.Validation(ENDLESS[kind], steps=1),
        verbose=0,
    )
    assert len(history.history["val_loss"]) == 2


def ends():
    count = 0
    while True:
        yield ONES, ONES
        count += 1
        if count == 37:
            return


@pytest.mark.parametrize("batches", [0, 1, 2, 3, 37, 1000])
def test_what_ends_is_counted(batches):
    dataset = tf.data.Dataset.range(batches).filter(lambda _: True)
    assert counting.counted(dataset, "stream") == batches


def test_a_generator_that_ends_is_counted_though_it_says_for_ever():
    assert made()._preparation.feed(ends, None).steps_per_epoch == 37


def test_a_person_learns_what_takes_so_long(caplog, monkeypatch):
    monkeypatch.setattr(counting, "_FIRST", 0.0)
    assert made()._preparation.feed(ends, None).steps_per_epoch == 37
    assert any(
        "counting: 1 batches of the generator ends in 0 s. If it never ends, press Ctrl-C" in said
        for said in caplog.messages
    )


SLOW = """
import signal, numpy as np, keras, looplab
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests were started without it
ONES = np.ones((4, 1), "float32")
given = [0]
def batches():
    while given[0] >= 0:  # which nobody can know to be for ever
        given[0] += 1
        if given[0] == 200:
            print("reading", flush=True)
        yield ONES, ONES
trainer = looplab.Trainer(lambda: keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]), "sgd", "mse")
trainer.fit(batches)
"""


@pytest.mark.slow
def test_ctrl_c_ends_the_counting(tmp_path):
    process = subprocess.Popen(
        [forking_python(), "-c", SLOW],
        cwd=tmp_path,
        env=environment(PYTHONPATH=":".join(sys.path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert "reading\n" in [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        asked = time.monotonic()
        said = process.communicate(timeout=60)[1]
        assert process.returncode in (130, -signal.SIGINT) and "KeyboardInterrupt" in said, said
        assert time.monotonic() - asked < 20
    finally:
        process.kill()
