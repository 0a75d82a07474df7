"""What an example needs, counted by shapes: the sums of anybody with pencil and paper."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import looplab
from looplab.data import build_feed
from looplab.execution import flops
from looplab.runs.wall_time import WallTime

layers = keras.layers


def dense():
    return keras.Sequential([layers.Input([64]), layers.Dense(32, "relu"), layers.Dense(10)])


def convolutions():
    return keras.Sequential(
        [
            layers.Input([8, 8, 3]),
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3),
            layers.Conv2DTranspose(5, 2, strides=2),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


def attention():
    tokens = keras.Input([16], dtype="int32")
    x = layers.Embedding(50, 8)(tokens)
    x = layers.MultiHeadAttention(2, 4, flash_attention=False)(x, x)
    return keras.Model(tokens, layers.Dense(50)(x))


def recurrent():
    return keras.Sequential([layers.Input([6, 4]), layers.LSTM(8), layers.Dense(2)])


def pooled():
    return keras.Sequential([layers.Input([None], dtype="int32"), layers.Embedding(9, 4), layers.Dense(2)])


def found(model, x, y, **options):
    trainer = looplab.Trainer(model, "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    trainer.fit(x, y, epochs=1, batch_size=options.pop("batch_size", 4), verbose=0)
    feed = build_feed((x, y), batch_size=4, shuffle=False, seed=0)
    return flops.of_example(trainer._engine.graph, feed.element_spec, trainer._engine.models, 4)


@pytest.mark.share(1)
@pytest.mark.parametrize("examples", [8, 9], ids=["batches of one size", "a short last batch"])
def test_operations_are_those_of_products_three_times(examples):
    y = np.zeros(examples, "int32")
    assert found(dense, np.zeros([examples, 64], "float32"), y) == {"flops": 3 * 2 * (64 * 32 + 32 * 10)}
    products = 64 * 4 * 9 * 3  # 8 x 8 x 4 numbers, each of a kernel 3 x 3 x 3
    products += 36 * 4 * 9  # 6 x 6 x 4, each of 3 x 3
    products += 36 * 4 * 5 * 4  # each of 6 x 6 x 4 is spread over 2 x 2 x 5
    products += 12 * 12 * 5 * 2
    assert found(convolutions, np.zeros([examples, 8, 8, 3], "float32"), y) == {"flops": 6 * products}


def test_tokens_are_those_of_sequences_and_attention_counts():
    x = np.zeros([9, 16], "int32")
    products = 4 * 16 * 8 * 8  # queries, keys, values and the output, of 2 heads of 4
    products += 2 * 16 * 16 * 8  # scores, and what they weigh
    products += 16 * 8 * 50
    assert found(attention, x, np.zeros([9, 16], "int32")) == {"tokens": 16, "flops": 6 * products}


@pytest.mark.slow
def test_what_shapes_do_not_tell_is_left_out():
    assert found(recurrent, np.zeros([8, 6, 4], "float32"), np.zeros(8, "int32")) == {}  # turns of a loop
    ragged = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None], tf.int32)
    trainer = looplab.Trainer(pooled, "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    trainer.fit(np.zeros([4, 3], "int32"), np.zeros([4, 3], "int32"), batch_size=4, verbose=0)
    assert "tokens" not in flops.of_example(None, ragged, trainer._engine.models, None)
    features = found(dense, np.zeros([8, 64], "int32"), np.zeros(8, "int32"))
    assert "tokens" not in features  # numbers, but no model that looks them up


def test_a_step_that_takes_its_batch_apart_is_no_hindrance():
    """Nor one whose operations on batches of another size are impossible: a rate is worth no run."""

    class Thirds(looplab.Trainer):
        def compute_loss(self, batch, training):
            parts = tf.split(batch[0], 3)
            return tf.reduce_sum(tf.concat([self.model(part) for part in parts], axis=0), axis=-1)

    data = tf.data.Dataset.from_tensors(np.zeros([12, 64], "float32")).unbatch().batch(6)
    data = data.map(lambda x: (x, x[:, :1])).apply(tf.data.experimental.assert_cardinality(2))
    trainer = Thirds(dense, "sgd")
    trainer.fit(data, epochs=1, verbose=0)
    assert int(trainer.step.numpy()) == 2


def test_rates_of_them_are_logged_and_said(tmp_path):
    trainer = looplab.Trainer(
        attention, "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_dir=tmp_path
    )
    x = np.zeros([64, 16], "int32")
    trainer.fit(x, x, epochs=2, batch_size=4)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    timing = next(r["timing"] for r in records if r["step"] == 32 and "time/step" in r["timing"])
    assert timing["tokens_per_second"] == pytest.approx(16 * timing["examples_per_second"], rel=1e-3)
    assert timing["flops_per_second"] > timing["tokens_per_second"]
    times = iter([0.0, 0.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    kept = WallTime(clock=lambda: next(times), rest="other")
    with kept.time("step"):
        pass
    kept.count(10, 40, {"tokens": 16, "flops": 1_000_000_000})
    assert kept.lines()[0][1] == "2.0 s: step 2.0 (5 steps/s, 320 tokens/s, 20 GFLOP/s)"
