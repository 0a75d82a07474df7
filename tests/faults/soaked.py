"""A project whose run has every kind of state, in little, and the words of all ways to run it."""

from looplab.options.compatibility import Settings, refusals

PROJECT = {
    "soaked.py": '''
import os
import time
import keras
import numpy as np
import tensorflow as tf
import looplab


@looplab.configurable
def net():
    layers = [keras.layers.Dense(16, "relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    return keras.Sequential([*layers, keras.layers.Dense(2)])


@looplab.configurable
def points():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(330, 4)).astype("float32")
    y = (x.sum(axis=1) > 0).astype("int64")
    return {"train": (x, y), "validation": (x[:50], y[:50])}


@looplab.configurable
def stream(anew):
    (x, y), held = points().values()
    data = tf.data.Dataset.from_tensor_slices((x, y))
    data = data.shuffle(100, seed=3, reshuffle_each_iteration=anew).batch(10, drop_remainder=True)
    return {"train": data, "validation": held}


class Slowly(looplab.Callback):
    """Leaves time for a signal to come between executions; near the end much, for one that is late."""

    every = None

    def on_clock(self, event, controls):
        time.sleep(2 if event.step >= int(os.environ.get("STANDS_FROM", "1000000")) else 0.01)
''',
    "conf/experiment/soaked.yaml": """
# @package _global_
# every kind of state, in little
epochs: 6
model: {_target_: soaked.net}
optimizer: {use_ema: true, ema_momentum: 0.9}
data:
  source: {_target_: soaked.points}
  batch_size: 10
loss: {_target_: keras.losses.SparseCategoricalCrossentropy, from_logits: true}
metrics: [accuracy]
checkpoint: {every: 9st}  # more than the longest loop
callbacks:
  slowly: {_target_: soaked.Slowly}
  stopping:  # after the fifth epoch: nothing is that much better than the first
    _target_: looplab.callbacks.EarlyStopping
    monitor: val_loss
    min_delta: 100
    patience: 4
""",
}
REPLICAS = {1: [], 2: ["strategy=simulated", "strategy.replicas=2"]}
WAYS = {
    "step by step": ["execution=graph", "execution.steps_per_execution=1"],
    "loop of seven": ["execution=graph", "execution.steps_per_execution=7"],
    "xla step": ["execution=xla_step"],
    "xla loop": ["execution=xla_loop", "execution.steps_per_execution=7"],
}
STREAM = ["data.source._target_=soaked.stream", "data.batch_size=null"]
DATA = {
    "arrays": [],
    "stream": [*STREAM, "+data.source.anew=false"],  # whose pipeline's state is saved
    "stream in other orders": [*STREAM, "+data.source.anew=true"],  # which is read anew up to its place
}
PIECES = {1: [], 2: ["execution.micro_batches=2", "checkpoint.asynchronous=false"]}


def words_of(replicas, way, data, pieces):
    """Returns the words of a cell; None if looplab refuses it for every kind of BatchNormalization."""
    mode = WAYS[way][0].removeprefix("execution=")
    for batch_norm in ("sync", "local"):
        found = Settings(replicas=replicas, execution=mode, micro_batches=pieces, batch_norm=batch_norm)
        if not refusals(found):
            own = [f"strategy.batch_norm={batch_norm}"] if replicas > 1 else []
            return ["experiment=soaked", *REPLICAS[replicas], *own, *WAYS[way], *DATA[data], *PIECES[pieces]]
    return None
