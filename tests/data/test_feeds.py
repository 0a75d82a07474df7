"""Feeds: each example once an epoch, any batch found at once, errors that say what is wrong."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.python.framework import kernels

import looplab
from looplab.data import StreamFeed, arrays, build_feed, first_batches
from looplab.execution.batches import batch_at


def drawn(feed, first, count):
    feed.seek(first)
    return [batch_at(feed.take(1), 0) for _ in range(count)]


def stream(data):
    return build_feed(data, batch_size=None, shuffle=False, seed=0)


@settings(max_examples=30)
@given(
    size=st.integers(1, 60), batch=st.integers(1, 20), seed=st.integers(0, 2**32 - 1), shuffle=st.booleans()
)
def test_p08_every_example_comes_once_an_epoch(size, batch, seed, shuffle):
    feed = build_feed(np.arange(size), batch_size=batch, shuffle=shuffle, seed=seed)
    steps = feed.steps_per_epoch
    assert steps == -(-size // batch)
    batches = drawn(feed, 0, 2 * steps)
    orders = [np.concatenate(batches[:steps]), np.concatenate(batches[steps:])]
    for order in orders:
        assert sorted(order) == list(range(size))
    if not shuffle:
        assert list(orders[0]) == list(range(size))
    counts = np.cumsum([len(part) for part in batches])
    assert [feed.examples(step) for step in range(1, 2 * steps + 1)] == list(counts)


def test_epochs_and_seeds_have_orders_of_their_own():
    feeds = [build_feed(np.arange(50), batch_size=50, shuffle=True, seed=seed) for seed in (0, 0, 1)]
    orders = [[tuple(b.numpy()) for b in drawn(feed, 0, 3)] for feed in feeds]
    assert orders[0] == orders[1] and len({*orders[0], *orders[2]}) == 6


@pytest.mark.slow
@given(first=st.integers(0, 40))
@settings(max_examples=10)
def test_p10_a_position_is_found_again(first):
    data = {"a": np.arange(23), "b": np.arange(46, dtype="float32").reshape(23, 2)}
    whole = drawn(build_feed(data, batch_size=4, shuffle=True, seed=3), 0, 45)
    again = build_feed(data, batch_size=4, shuffle=True, seed=3)
    for step, batch in enumerate(drawn(again, first, 5), start=first):
        for key in data:
            np.testing.assert_array_equal(batch[key], whole[step][key])
            np.testing.assert_array_equal(again.batch(step)[key], whole[step][key])


class Rows:
    """Examples that Python reads."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def placed(tensors):
    """The devices of tensors, by their names."""
    return {name: tf.DeviceSpec.from_string(tensor.device).device_index for name, tensor in tensors.items()}


KINDS = {
    "pixels": np.arange(69, dtype="uint8").reshape(23, 3),
    "floats": np.arange(46, dtype="float32").reshape(23, 2),
    "text": np.array([str(number) for number in range(23)]),
    "target": np.arange(23, dtype="int32"),
}


def test_small_arrays_are_kept_and_gathered_where_the_steps_run(monkeypatch):
    def batches(device):
        feed = build_feed(KINDS, batch_size=4, shuffle=True, seed=3, device=device)
        return feed, drawn(feed, 2, 9)

    feed, found = batches("/CPU:1")
    assert placed(feed.source.arrays) == {"pixels": 0, "floats": 1, "text": 0, "target": 1}
    gathered = [op for op in feed._read.graph.get_operations() if op.type == "GatherV2"]
    assert [tf.DeviceSpec.from_string(op.device).device_index for op in gathered] == [1, 0, 1, 0]
    for own, other in zip(found, batches("/CPU:0")[1], strict=True):
        for name in KINDS:
            np.testing.assert_array_equal(own[name], other[name])
    monkeypatch.setattr(arrays, "_RESIDENT", 23 * 11)
    assert set(placed(batches("/CPU:1")[0].source.arrays).values()) == {0}


def test_parts_of_arrays_share_their_copy_on_a_device():
    whole = arrays.Arrays((KINDS["floats"], KINDS["target"] % 2))
    train, valid = whole.split(0.5)
    feeds = [
        build_feed(part, batch_size=4, shuffle=False, seed=0, device="/CPU:1")
        for part in (train.weighted({0: 1.0, 1: 3.0}), valid)
    ]
    (_, y, weights), (_, target) = (drawn(feed, 0, 1)[0] for feed in feeds)
    assert feeds[0].source.plain.whole.arrays[0] is feeds[1].source.whole.arrays[0]
    assert list(weights) == [1.0, 3.0, 1.0, 3.0] and list(y) == [0, 1, 0, 1]
    assert list(target) == [1, 0, 1, 0]


def test_gpus_gather_rows_of_the_arrays_that_they_are_to_hold():
    """As the kernels say that this TensorFlow has for GPUs, also where there is none."""
    found = kernels.get_registered_kernels_for_op("GatherV2").kernel
    allowed = {
        dtype
        for kernel in found
        if kernel.device_type == "GPU"
        for constraint in kernel.constraint
        if constraint.name == "Tparams"
        for dtype in constraint.allowed_values.list.type
    }
    assert {dtype.as_datatype_enum for dtype in arrays._ON_GPU} <= allowed
    assert tf.uint8.as_datatype_enum not in allowed


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["graph", "xla_step", "xla_loop"])
def test_a_step_learns_the_same_from_data_on_its_device(monkeypatch, execution):
    x, y = np.random.default_rng(0).normal(size=(2, 30, 1)).astype("float32")
    learned = []
    for device in ("/CPU:0", "/CPU:1"):
        monkeypatch.setattr(looplab.strategy, "home", lambda strategy, device=device: device)
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        trainer = looplab.Trainer(model, "adam", "mse", execution=execution)
        trainer.fit(x, y, batch_size=4, epochs=2, validation_split=0.2, verbose=0)
        learned.append([trainer.predict(x), *trainer.model.get_weights()])
    for left, right in zip(*learned, strict=True):
        np.testing.assert_array_equal(left, right)


def test_the_order_is_well_mixed():
    # Chi-square of where each example stands over many epochs, against uniform.
    size, epochs = 16, 400
    feed = build_feed(np.arange(size), batch_size=size, shuffle=True, seed=11)
    places = np.zeros((size, size))
    for order in drawn(feed, 0, epochs):
        places[order.numpy(), np.arange(size)] += 1
    expected = epochs / size
    chi = ((places - expected) ** 2 / expected).sum()
    assert chi < 330  # 225 degrees of freedom: the 0.999996 quantile


@pytest.mark.parametrize("steps_per_epoch", [2, 20])
def test_an_epoch_may_be_shorter_than_a_pass_and_ends_with_it(steps_per_epoch, caplog):
    plain = build_feed(np.arange(23), batch_size=4, shuffle=True, seed=3)
    other = build_feed(np.arange(23), batch_size=4, shuffle=True, seed=3, steps_per_epoch=steps_per_epoch)
    assert (plain.steps_per_epoch, other.steps_per_epoch) == (6, min(steps_per_epoch, 6))
    said = "20 steps are requested, but one pass over the examples has 6" in caplog.text
    assert said == (steps_per_epoch == 20)
    for left, right in zip(drawn(plain, 5, 9), drawn(other, 5, 9), strict=True):
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(other.batch(13), plain.batch(13))
    assert other.position(13) == plain.position(13)
    assert other.examples(13) == plain.examples(13) == 23 * 2 + 4


def test_the_first_batches_of_arrays_are_their_first_rows():
    data = {"a": np.arange(23), "b": [[i, i] for i in range(23)]}
    found = first_batches(data, 3, 4)
    assert found.size == 12
    (batch,) = drawn(build_feed(found, batch_size=20, shuffle=False, seed=0), 0, 1)
    np.testing.assert_array_equal(batch["a"], np.arange(12))
    assert batch["b"].shape == (12, 2)
    assert first_batches(np.arange(70), 2, None).size == 64
    assert first_batches(np.arange(7), 2, 10).size == 7


def test_the_first_batches_of_a_stream_come_again_in_every_pass():
    dataset = tf.data.Dataset.range(1000).shuffle(1000, seed=1).batch(3)
    feed = stream(first_batches(dataset, 2, None))
    assert feed.steps_per_epoch == 2
    batches = [list(batch.numpy()) for batch in drawn(feed, 0, 6)]
    assert batches[:2] == batches[2:4] == batches[4:]
    assert stream(first_batches(dataset.repeat(), 5, None)).steps_per_epoch == 5


def test_p12_a_position_is_a_few_numbers():
    position = build_feed(np.arange(23), batch_size=4, shuffle=True, seed=3).position(13)
    assert (position["epoch"], position["batch"]) == (2, 1)
    assert len(str(position)) < 300


def test_floats_become_keras_float_type_and_integers_stay():
    feed = build_feed((np.zeros((3, 2)), np.arange(3)), batch_size=2, shuffle=False, seed=0)
    assert [spec.dtype for spec in feed.element_spec] == [tf.float32, tf.int64]
    keras.config.set_floatx("float64")
    try:
        feed = build_feed(np.zeros((3, 2)), batch_size=2, shuffle=False, seed=0)
    finally:
        keras.config.set_floatx("float32")
    assert feed.element_spec.dtype == tf.float64


@pytest.mark.fault(58)
@pytest.mark.parametrize(
    ("data", "says"),
    [
        ((np.zeros((3, 2)), np.zeros(4)), r"different lengths \[3, 4\]"),
        (np.zeros((0, 2)), "empty"),
        (np.float32(3), "scalar"),
        (np.array([[1], [1, 2]], dtype=object), "rows have different lengths"),
        (object(), "cannot be read"),
    ],
)
def test_data_that_cannot_be_used_says_why(data, says):
    with pytest.raises(looplab.DataError, match=says) as error:
        build_feed(data, batch_size=2, shuffle=False, seed=0)
    assert error.value.exit_code == 5


def test_streams_repeat_and_are_found_again():
    dataset = tf.data.Dataset.range(10).batch(3)
    feed = StreamFeed(dataset)
    assert feed.steps_per_epoch == 4
    assert [list(b.numpy()) for b in drawn(feed, 3, 2)] == [[9], [0, 1, 2]]
    assert list(feed.batch(3).numpy()) == [9]
    assert feed.resumes == "from the state of its pipeline"


def test_a_pipeline_is_built_once_for_all_evaluations():
    class SequenceSource:
        def __len__(self):
            return 10

        def __getitem__(self, index):
            return np.float32(index)

    feed = build_feed(SequenceSource(), batch_size=3, shuffle=False, seed=0)
    built, gather = [], feed.source.gather

    def counted(rows):
        built.append(1)
        return gather(rows)

    feed.source.gather = counted
    passes = [drawn(feed, 0, 4 if number else 2) for number in range(3)]  # the first is broken off
    once = len(built)
    passes += [drawn(feed, 0, 4)]
    assert len(built) == once and [list(batch.numpy()) for batch in passes[-1]][-1] == [9]
    for own in passes:
        for left, right in zip(own, passes[-1], strict=False):
            np.testing.assert_array_equal(left, right)
    assert list(drawn(feed, 1, 1)[0].numpy()) == [3, 4, 5]


def test_a_stream_of_unknown_length_is_counted_once():
    dataset = tf.data.Dataset.range(10).filter(lambda x: x % 2 == 0).batch(2)
    assert StreamFeed(dataset).steps_per_epoch == 3


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        (lambda: tf.data.Dataset.range(4), "not batched"),
        (lambda: tf.data.Dataset.range(4).batch(2).repeat(), "steps_per_epoch"),
        (lambda: tf.data.Dataset.range(0).batch(2), "no elements"),
    ],
)
def test_streams_that_cannot_be_used_say_why(dataset, says):
    with pytest.raises(looplab.DataError, match=says):
        build_feed(dataset(), batch_size=None, shuffle=False, seed=0)


def test_arguments_that_do_not_go_together_are_refused():
    with pytest.raises(looplab.ConfigurationError, match="batch_size"):
        build_feed(tf.data.Dataset.range(4).batch(2), batch_size=2, shuffle=False, seed=0)
    with pytest.raises(looplab.ConfigurationError, match="from 1 to 2147483647"):
        build_feed(np.zeros(3), batch_size=0, shuffle=False, seed=0)


@pytest.mark.slow
@settings(max_examples=12)
@given(
    size=st.integers(1, 30),
    batch=st.integers(1, 9),
    count=st.integers(1, 4),
    start=st.integers(0, 40),
    shuffle=st.booleans(),
    memory=st.booleans(),
)
def test_the_shards_of_all_ranks_are_the_batch(size, batch, count, start, shuffle, memory):
    """Also of a short last batch, of which a rank may have no row, and from any place."""
    rows = np.arange(size)
    data = rows if memory else Rows(rows)
    how = {"batch_size": batch, "shuffle": shuffle, "seed": 7}
    whole = build_feed(rows, **how)
    feeds = [build_feed(data, **how, shard=(rank, count)) for rank in range(count)]
    found = [drawn(feed, start, 4) for feed in feeds]
    for step, expected in enumerate(drawn(whole, start, 4), start):
        pieces = [own[step - start] for own in found]
        np.testing.assert_array_equal(np.concatenate(pieces), expected)
        np.testing.assert_array_equal(np.concatenate([feed.batch(step) for feed in feeds]), expected)
        assert [row for feed in feeds for row in feed.rows(step)] == whole.rows(step)
        lengths = [len(piece) for piece in pieces]
        assert max(lengths) - min(lengths) <= 1
        for feed, piece in zip(feeds, pieces, strict=True):
            assert feed.element_spec.shape.is_compatible_with(piece.shape)
            assert feed.examples(step) == whole.examples(step)
            assert feed.steps_per_epoch == whole.steps_per_epoch


def test_a_shard_without_rows_has_the_types_of_the_others():
    class Examples(Rows):
        def __getitem__(self, index):
            return {"text": f"row {index}", "pixels": np.full([2, 2], index, "uint8"), "float": 0.5}

    feed = build_feed(Examples(range(5)), batch_size=4, shuffle=False, seed=0, shard=(0, 2))
    for batch, rows in zip(drawn(feed, 0, 3), (2, 0, 2), strict=True):
        assert {name: (part.dtype, *part.shape) for name, part in batch.items()} == {
            "text": (tf.string, rows),
            "pixels": (tf.uint8, rows, 2, 2),
            "float": (tf.float32, rows),
        }


def test_the_shards_of_a_py_dataset_are_parts_of_its_batches():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return np.arange(10 * index, 10 * index + 5 - index)

    def batches(**shard):
        return drawn(build_feed(Batches(), batch_size=None, shuffle=True, seed=2, **shard), 1, 6)

    pieces = zip(*(batches(shard=(rank, 3)) for rank in range(3)), strict=True)
    for own, expected in zip(pieces, batches(), strict=True):
        np.testing.assert_array_equal(np.concatenate(own), expected)


def test_shards_of_streams_and_of_no_rank_are_refused():
    dataset = tf.data.Dataset.range(4).batch(2)
    with pytest.raises(
        looplab.ConfigurationError, match=r"tf\.data stream cannot be read in 2 shards.*arrays"
    ):
        build_feed(dataset, batch_size=None, shuffle=False, seed=0, shard=(0, 2))
    with pytest.raises(looplab.ConfigurationError, match=r"generator .* cannot be read in 2 shards"):
        build_feed(lambda: iter([np.ones(3)]), batch_size=None, shuffle=False, seed=0, shard=(1, 2))
    assert build_feed(dataset, batch_size=None, shuffle=False, seed=0, shard=(0, 1)).steps_per_epoch == 2
    for shard in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(looplab.ConfigurationError, match=r"shard: .*0 <= rank < count, got \("):
            build_feed(np.arange(4), batch_size=2, shuffle=False, seed=0, shard=shard)


@pytest.mark.slow
@settings(max_examples=30)
@given(
    size=st.integers(1, 30),
    batch=st.integers(1, 8),
    start=st.integers(0, 40),
    count=st.integers(1, 25),
    shuffle=st.booleans(),
)
def test_batches_taken_together_are_those_taken_alone(size, batch, start, count, shuffle):
    """In one piece, over several passes where none is short."""
    feed = build_feed(np.arange(size), batch_size=batch, shuffle=shuffle, seed=7)
    feed.seek(start)
    left = count
    while left:
        some = min(left, feed.max_take or left)
        taken = feed.take(some)
        for index in range(some):
            np.testing.assert_array_equal(batch_at(taken, index), feed.batch(start + count - left + index))
        left -= some
    assert size % batch or feed.max_take > 10**5
