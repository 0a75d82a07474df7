"""An evaluation that is interrupted leaves nothing: it begins again from what was before it."""

import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.checkpoint import state
from tests.conftest import make_strategy
from tests.process import differing, records

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 4)).astype("float32"), RNG.normal(size=(24, 1)).astype("float32")
FIT = {"batch_size": 8, "epochs": 3, "verbose": 0}


def model():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    )


class Drawing(looplab.Trainer):
    """Draws in its step and in its evaluation, which changes variables on purpose too."""

    def setup(self):
        self.seeds = keras.random.SeedGenerator(self.seed)
        self.seen = tf.Variable(0.0, trainable=False, aggregation=tf.VariableAggregation.MEAN)

    def compute_loss(self, batch, training):
        x, y = batch
        noise = keras.random.normal((tf.shape(x)[0], 4), seed=self.seeds)
        return tf.reduce_mean((self.model(x + noise, training=True) - y) ** 2, -1) + 1e-3 * self.seen

    def test_step(self, batch):
        logs = self.measure(self.compute_loss, batch)
        self.seen.assign_add(1.0)
        self.model.layers[-1].bias.assign_add([0.25])  # a weight
        return logs


class Interrupting(keras.callbacks.Callback):
    """Counts what it hears of evaluations, and interrupts the second one after its second batch."""

    def __init__(self, interrupts):
        super().__init__()
        self.interrupts, self.begun, self.batches = interrupts, 0, 0

    def on_test_begin(self, logs=None):
        self.begun += 1

    def on_test_batch_end(self, batch, logs=None):
        self.batches += 1
        if self.interrupts and self.begun == 2 and batch == 1:
            os.kill(os.getpid(), signal.SIGINT)


class Logging(looplab.Callback):
    """Counts evaluations in its state, and logs the count before each."""

    every = None

    def __init__(self):
        self.count = 0

    def on_evaluate_begin(self, event, controls):
        self.count += 1
        controls.log({"count": self.count})

    def state(self):
        return {"count": self.count}

    def restore(self, state):
        self.count = state["count"]


@pytest.mark.share(1)
@pytest.mark.promise(10)
@pytest.mark.parametrize(
    ("replicas", "options"),
    [
        pytest.param(1, {"execution": "graph"}, marks=pytest.mark.slow),  # "averages" is the same, and more
        (1, {"execution": "graph", "optimizer": lambda: keras.optimizers.Adam(use_ema=True)}),
        (1, {"run_eagerly": True}),
        (2, {"execution": "graph"}),
    ],
    ids=["one device", "averages", "eagerly", "two replicas"],
)
def test_a_run_interrupted_in_an_evaluation_goes_on_as_if_it_never_was(replicas, options, tmp_path):
    def run(run_dir, interrupts=False):
        strategy = make_strategy(replicas) if replicas > 1 else "one_device"
        counts, logs = Interrupting(interrupts), Logging()
        how = {"optimizer": "adam", **options}
        trainer = Drawing(model, strategy=strategy, run_dir=run_dir, callbacks=[counts, logs], **how)
        trainer.fit((X, Y), validation_data=(X, Y), **FIT)
        return state.read(trainer._engine.variables), (counts.begun, counts.batches, logs.count)

    unbroken = run(tmp_path / "unbroken")
    with pytest.raises(looplab.Interrupted):
        run(tmp_path / "broken", interrupts=True)
    resumed = run(tmp_path / "broken")
    assert differing(unbroken[0], resumed[0]) == []
    assert unbroken[1] == resumed[1]
    lines = [
        [(r["step"], r["split"], r["values"]) for r in records(tmp_path / name)]
        for name in ("unbroken", "broken")
    ]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_a_trainer_without_a_run_directory_goes_on_too():
    def trainer():
        return Drawing(model, "adam", execution="graph")

    unbroken, broken = trainer(), trainer()
    unbroken.fit((X, Y), validation_data=(X, Y), **FIT)
    with pytest.raises(looplab.Interrupted):
        broken.fit((X, Y), validation_data=(X, Y), callbacks=[Interrupting(True)], **FIT)
    broken.fit((X, Y), validation_data=(X, Y), **FIT)
    assert differing(*(state.read(each._engine.variables) for each in (unbroken, broken))) == []
