"""An interrupt that a library takes for something else: it ends the run, and nobody is asked to report it."""

import json
import logging
import os
import random
import re
import signal
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.autograph.impl import api

import looplab
from tests.process import PROJECT, ended, start, write

X = np.random.default_rng(0).normal(size=(48, 3)).astype("float32")
# As pybind11 words it where an exception is interrupted while it is created.
LOST = (
    "pybind11::error_already_set: MISMATCH of original and normalized active exception types: ORIGINAL "
    "InvalidArgumentError REPLACED BY KeyboardInterrupt: <EMPTY MESSAGE>"
)


def model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


class Lost(looplab.Trainer):
    """Is interrupted while it is traced for the first time, and makes something else of it."""

    becomes: Exception | None = None
    number = signal.SIGINT

    def compute_loss(self, batch, training):
        if self.number is not None:
            number, self.number = self.number, None
            try:
                os.kill(os.getpid(), number)
            except BaseException:
                if self.becomes is not None:
                    raise self.becomes from None
        return super().compute_loss(batch, training)


def test_an_interrupt_that_becomes_an_error_is_an_interrupt(tmp_path):
    trainer = Lost(model, "adam", "mse", run_dir=tmp_path)
    trainer.becomes = RuntimeError(LOST)
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.fit(X, X[:, :1], verbose=0)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert not (tmp_path / "report.json").exists()
    trainer.fit(X, X[:, :1], verbose=0)


def test_a_signal_that_becomes_an_error_is_that_signal():
    trainer = Lost(model, "adam", "mse")
    trainer.number, trainer.becomes = signal.SIGTERM, AssertionError("Concurrent access?")
    with pytest.raises(looplab.errors.Terminated, match="before training began"):
        trainer.fit(X, X[:, :1], verbose=0)


def test_an_interrupt_that_is_swallowed_ends_the_run_as_it_begins(tmp_path):
    trainer = Lost(model, "adam", "mse", run_dir=tmp_path)
    with pytest.raises(looplab.Interrupted, match="interrupted at step 0, everything is saved"):
        trainer.fit(X, X[:, :1], verbose=0)
    assert json.loads((tmp_path / "outcome.json").read_text())["status"] == "interrupted"


def test_an_error_without_a_signal_stays_what_it_is():
    trainer = Lost(model, "adam", "mse")
    trainer.number = None
    trainer.compute_loss = lambda batch, training: [][1]
    with pytest.raises(Exception, match="list index out of range"):
        trainer.fit(X, X[:, :1], verbose=0)


def own(x):
    if tf.reduce_sum(x) > 0:
        return x + 1.0
    return x


@pytest.mark.parametrize("purpose", ["fit", "evaluate", "predict"])
def test_an_interrupt_within_autograph_is_not_reported_to_tensorflow(purpose, monkeypatch, caplog):
    class Own(looplab.Trainer):
        def test_step(self, batch):
            own(batch[0])
            return super().test_step(batch)

        def predict_step(self, batch):
            return own(batch[0])

        def compute_loss(self, batch, training):
            own(batch[0])
            return super().compute_loss(batch, training)

    def convert(entity, context):
        raise RuntimeError(LOST)

    trainer = Own(model, "adam", "mse")
    monkeypatch.setattr(api, "_convert_actual", convert)
    with pytest.raises(KeyboardInterrupt):
        getattr(trainer, purpose)(X, **({} if purpose == "predict" else {"y": X[:, :1]}))
    assert "AutoGraph" not in caplog.text


def test_what_autograph_says_else_is_heard(caplog):
    text = "AutoGraph could not transform f and will run it as-is.\nCause: no source"
    logging.getLogger("tensorflow").warning(text)
    assert text in caplog.text


def test_a_finalizer_that_is_interrupted_is_not_shown():
    class Final:
        def __init__(self, kind):
            self.kind = kind

        def __del__(self):
            raise self.kind

    class Finalizes(Lost):
        def compute_loss(self, batch, training):
            loss = super().compute_loss(batch, training)
            Final(KeyboardInterrupt)
            Final(ValueError)
            return loss

    with Unraisable() as told:
        with pytest.raises(looplab.Interrupted):
            Finalizes(model, "adam", "mse").fit(X, X[:, :1], verbose=0)
        assert set(told) == {ValueError}
        Final(KeyboardInterrupt)
        assert told[-1] is KeyboardInterrupt


class Unraisable:
    """Remembers what is not raisable."""

    def __enter__(self):
        self.before, told = sys.unraisablehook, []
        sys.unraisablehook = lambda unraisable: told.append(unraisable.exc_type)
        return told

    def __exit__(self, *exception):
        sys.unraisablehook = self.before


TRACED = """

class Traced(Mine):
    def compute_loss(self, batch, training):
        print("tracing", flush=True)
        x, y = batch
        for index in range(30):
            x = branched(x, index)
        return super().compute_loss((x, y), training)


def branched(x, index):
    def own(x):
        if tf.reduce_sum(x) > 1e9:
            return x * index
        return x

    return own(x)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_ctrl_c_while_a_model_is_traced_ends_the_command_without_noise(seed, tmp_path):
    source = PROJECT["mine.py"].replace("import keras\n", "import keras\nimport tensorflow as tf\n")
    write(tmp_path, PROJECT | {"mine.py": source + TRACED})
    process = start("experiment=mine", "trainer._target_=mine.Traced", cwd=tmp_path)
    said = ""
    while "tracing" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    time.sleep(random.Random(seed).random() * 3)
    process.send_signal(signal.SIGINT)
    code, rest = ended(process)
    said += rest
    assert code in (0, 130), said
    assert not re.search("TensorFlow team|AutoGraph|Exception ignored|Traceback|RuntimeError", said), said
