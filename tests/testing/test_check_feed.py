"""`check_feed` finds what is wrong with a source or a feed, by property, and nothing where nothing is."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from looplab.data import adapters, passes, register_adapter
from looplab.data.arrays import Arrays
from looplab.data.indexed_feed import IndexedFeed
from looplab.data.resident_feed import ResidentFeed
from looplab.data.stream import Stream, StreamFeed
from looplab.errors import ConfigurationError
from looplab.testing import FeedBroken, check_feed

SIZE, BATCH = 11, 4
X = np.arange(SIZE * 2, dtype="float32").reshape(SIZE, 2)


class Items:
    """Examples by their index."""

    size = SIZE

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return X[index]


class TooLong(Items):
    size = SIZE + 1


class TooShort(Items):
    size = SIZE - 1


class Noisy(Items):
    def __getitem__(self, index):
        return X[index] + np.random.normal(size=2)


class Doubled(Items):
    def __getitem__(self, index):
        return X[index if index != 3 else 2]


class Reversed(Items):
    def __getitem__(self, index):
        return X[SIZE - 1 - index]


class OneCursor:
    """Can be iterated over again and again, but not twice at once."""

    def __iter__(self):
        self.at = 0
        while self.at < SIZE:
            self.at += 1
            yield X[self.at - 1 : self.at]


class OfFeed(Arrays):
    """Arrays that are read through another feed."""

    def __init__(self, feed, given=X):
        super().__init__(given)
        self.kind_of_feed = feed

    def feed(self, batch_size, **how):
        resident = issubclass(self.kind_of_feed, ResidentFeed)
        if resident and how["shard"] != (0, 1):
            return super().feed(batch_size, **how)
        return self.kind_of_feed(self, batch_size, **how)


class OfStream(Stream):
    """A stream that is read through another feed."""

    def __init__(self, feed):
        super().__init__(tf.data.Dataset.from_tensor_slices(X).batch(BATCH))
        self.kind_of_feed = feed

    def feed(self, batch_size, *, steps_per_epoch, **how):
        return self.kind_of_feed(self.dataset, steps_per_epoch)


class WrongSpec(Arrays):
    def __init__(self):
        super().__init__(X)
        self.spec = tf.TensorSpec([2], tf.float64)


class WrongLength(Arrays):
    def length(self, batch_size):
        return super().length(batch_size) + 1


class Untold(ResidentFeed):
    resumes = ""


class OtherEpoch(ResidentFeed):
    def __init__(self, *arguments, **how):
        super().__init__(*arguments, **how)
        self.steps_per_epoch -= 1


class ShortFirst(IndexedFeed):
    """The batch that is not full comes first."""

    def _rows(self, number, order, index):
        rows = tf.range(SIZE, dtype=tf.int64) if order is None else order
        start = tf.cast(index * BATCH - 1, tf.int32)
        return rows[tf.maximum(0, start) : start + BATCH]


class Twice(ResidentFeed):
    """An example comes twice in a pass, in the place of another."""

    def _order(self, number):
        order = super()._order(number)
        return order if order is None else tf.concat([order[:-1], order[:1]], 0)


class AlwaysShuffled(ResidentFeed):
    def __init__(self, *arguments, **how):
        super().__init__(*arguments, **{**how, "shuffle": True})


class OneOrder(ResidentFeed):
    def _order(self, number):
        return super()._order(tf.zeros_like(number))


class OneSeed(ResidentFeed):
    def __init__(self, *arguments, **how):
        super().__init__(*arguments, **{**how, "seed": 5})


class Miscounts(ResidentFeed):
    def examples(self, step):
        return step * self.batch_size


class UnshuffledRows(ResidentFeed):
    def rows(self, step):
        start = step % self._pass * self.batch_size
        return list(range(start, min(start + self.batch_size, self.size)))


class SeeksToEpochs(ResidentFeed):
    def seek(self, step):
        super().seek(step - step % self._pass)


class SeeksOnce(ResidentFeed):
    """Goes on from where it was, where it is to begin again."""

    began = False

    def seek(self, step):
        if not self.began:
            super().seek(step)
        self.began = True


class NextBatch(ResidentFeed):
    def batch(self, step):
        return super().batch(step + 1)


class BatchMoves(ResidentFeed):
    def batch(self, step):
        self.seek(step)
        return super().batch(step)


class ByTheClock(ResidentFeed):
    def position(self, step):
        return {**super().position(step), "saved": time.monotonic_ns()}


class NoJson(ResidentFeed):
    def position(self, step):
        return {"step": np.int64(step)}


class Tuples(ResidentFeed):
    def position(self, step):
        return {"step": (step, 0)}


class ByEpoch(ResidentFeed):
    def position(self, step):
        return {"epoch": step // self._pass}


class Forgets(StreamFeed):
    """A snapshot is taken as that of the step before."""

    def resume_from(self, snapshot):
        super().resume_from({**snapshot, "step": snapshot["step"] - 1})


class Mixed(ResidentFeed):
    """Several batches that are taken at once begin with the second example."""

    def take(self, count):
        taken = super().take(count)
        if count == 1:
            return taken
        return taken._replace(rows=tf.concat([taken.rows[1:2], taken.rows[:1], taken.rows[2:]], 0))


class Unsharded(IndexedFeed):
    def __init__(self, *arguments, shard, **how):
        super().__init__(*arguments, **how)


class Infinite(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, index):
        return np.full([2, 1], index, "float32")


def unseeded():
    return tf.data.Dataset.from_tensor_slices(X).shuffle(SIZE).batch(BATCH)


WRONG = {
    "too long": (TooLong(), "reading", r"IndexError.*reading example 11 \(counted from 0\) of 12"),
    "too short": (TooShort(), "completeness", r"example 10 \(counted from 0\) comes 0 times, not 1"),
    "untold": (OfFeed(Untold), "description", r"resumes is ''"),
    "specification": (WrongSpec(), "specification", r"batch 0 .* float32 \[4, 2\], not float64"),
    "length": (
        WrongLength(X),
        "length",
        r"length\(\) of the source is 4, not 3: 11 examples in batches of 4",
    ),
    "epoch": (OfFeed(OtherEpoch), "length", r"steps_per_epoch of the feed is 2, not 3"),
    "short first": (OfFeed(ShortFirst), "batch size", r"batch 0 of a pass has 3 examples, not 4"),
    "noisy": (Noisy(), "repetition", r"batch 0 .* differs from the first reading: row 0.*random numbers"),
    "unseeded stream": (unseeded, "repetition", r"batch 0 .* differs from the first reading.*random numbers"),
    "doubled": (Doubled(), "completeness", r"pass 1 example 2 \(counted from 0\) comes 2 times, not 1"),
    "twice": (OfFeed(Twice), "completeness (shuffled)", r"in pass 1 example \d+ .* comes [02] times"),
    "reversed": (Reversed(), "order", r"first pass is not the data in their order: row 0.*\[20.0, 21.0\]"),
    "always shuffled": (OfFeed(AlwaysShuffled), "order", r"first pass is not the data in their order"),
    "one order": (OfFeed(OneOrder), "order (shuffled)", r"all passes have the same order"),
    "one seed": (OfFeed(OneSeed), "order (shuffled)", r"the seeds 0 and 1 give the same orders"),
    "miscounts": (OfFeed(Miscounts), "examples", r"after 3 steps examples\(\) is 12, but 11 were read"),
    "rows": (OfFeed(UnshuffledRows), "rows (shuffled)", r"rows\(0\) is \[0, 1, 2, 3\], .* not what"),
    "seek": (OfFeed(SeeksToEpochs), "seek", r"after seek\(1\) batch 1 .* differs from the first reading"),
    "second seek": (OfFeed(SeeksOnce), "seek", r"after a second seek\(0\) of one feed batch 0"),
    "batch": (OfFeed(NextBatch), "batch", r"of batch\(0\) batch 0 .* differs from the first reading"),
    "batch moves": (OfFeed(BatchMoves), "batch", r"batch\(2\) moves the feed: batch 1"),
    "clock": (OfFeed(ByTheClock), "position", r"position\(0\) is .* in another feed of the same data"),
    "no JSON": (OfFeed(NoJson), "position", r"position\(0\) cannot be saved: .*int64"),
    "tuples": (OfFeed(Tuples), "position", r"\[0, 0\]\} after it was saved: use JSON's types"),
    "epochs": (OfFeed(ByEpoch), "position", r"position\(1\) is that of another step"),
    "snapshot": (OfStream(Forgets), "snapshot", r"with the snapshot of step 1, after seek\(1\) batch 1"),
    "take": (OfFeed(Mixed), "take", r"of take\(3\) at step 0, batch 0 .* another"),
    "one cursor": (OneCursor(), "independence", r"two feeds are read in turn, batch \d+"),
    "unsharded": (OfFeed(Unsharded), "shards", r"joined from 2 shards, batch 0 .* float32 \[8, 2\], not"),
}
ALSO = {  # what else is wrong then
    "always shuffled": {"rows", "shards"},
    "short first": {"examples", "rows", "shards"},
    "twice": {"shards"},
    "one order": {"shards"},
    "one seed": {"shards"},
}


def a_third(names):
    """All with `-m ""`; of each three the first in the ordinary suite."""
    return [
        pytest.param(name, marks=pytest.mark.slow if index % 3 else ()) for index, name in enumerate(names)
    ]


@pytest.mark.share(1)
@pytest.mark.parametrize("name", a_third(WRONG))
def test_what_is_wrong_is_told(name):
    data, where, says = WRONG[name]
    broken, _, way = where.partition(" (")
    batched = isinstance(data, OneCursor | Stream) or callable(data)
    with pytest.raises(FeedBroken, match=rf"\n    {broken} \({way[:-1] or '.*'}\): .*{says}") as caught:
        check_feed(data, batch_size=None if batched else BATCH, expected=X, places=(0, 1, 4))
    found = caught.value.broken
    assert found[0] == broken and {*found[1:]} <= ALSO.get(name, set())


def left_out(report):
    return {each.name: each.note for each in report.properties if each.verdict == "left out"}


@pytest.mark.slow
def test_a_report_says_of_every_property_whether_it_holds():
    report = check_feed(X, batch_size=BATCH, places=(4,))
    names = [each.name for each in report.properties]
    half = len(names) // 2
    assert names[:half] == names[half:] and len({*names}) == half
    assert [each.order for each in report.properties] == ["in order"] * half + ["shuffled"] * half
    assert {each.verdict for each in report.properties} == {"held", "left out"}
    assert all(f'"{name}"' in FeedBroken.__doc__ for name in names)
    assert left_out(report) == {"snapshot": "a run goes on at once, by its position"}
    assert report.feed == "11 examples in order, batch 4, 3 steps an epoch"
    assert "│ completeness  │ shuffled │ held" in repr(report) and repr(report).startswith(report.feed)


NAN = np.where(X > 5, np.nan, X)
TEXT = np.array([f"row {row}" for row in range(SIZE)])
GOOD = {
    "None, texts, NaN": (lambda: {"a": NAN, "b": None, "c": TEXT}, BATCH, {}),
    "one batch": (Items, 32, {}),
    "no batch size": (Items, None, {}),
    "a shorter epoch": (Items, BATCH, {"steps_per_epoch": 2}),
    "an endless PyDataset": (Infinite, None, {"steps_per_epoch": 3}),
    "an endless stream": (
        lambda: tf.data.Dataset.from_tensor_slices(X).repeat().batch(BATCH),
        None,
        {"steps_per_epoch": 4},
    ),
    "a stream that shuffles": (
        lambda: tf.data.Dataset.from_tensor_slices(X).shuffle(SIZE, seed=3).batch(BATCH),
        None,
        {},
    ),
    "ragged": (
        lambda: tf.data.Dataset.from_tensors(tf.ragged.constant([[1.0, 2.0], [3.0]])).repeat(3),
        None,
        {},
    ),
    "single examples": (lambda: X[:2], 1, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", a_third(GOOD))
def test_nothing_is_wrong_with(name):
    data, batch_size, more = GOOD[name]
    report = check_feed(data, batch_size=batch_size, places=(0, 2), **more)
    missing = left_out(report)
    expected = {
        "an endless PyDataset": {"batch size", "completeness", "order", "rows", "snapshot"},
        "an endless stream": {"batch size", "completeness", "order", "rows", "shards"},
        "a stream that shuffles": {"batch size", "order", "rows", "snapshot", "shards"},
        "ragged": {"batch size", "completeness", "order", "rows", "shards"},
        "single examples": {"order", "snapshot"},
    }
    assert {*missing} == expected.get(name, {"snapshot"})


@pytest.mark.slow
def test_a_type_of_ones_own_is_checked_as_it_will_be_read(monkeypatch):
    class Frames:
        def __init__(self, last):
            self.last = last

        def __call__(self):
            raise AssertionError("it is data, and not a function that makes them")

    monkeypatch.setattr(adapters, "_adapters", list(adapters._adapters))
    register_adapter("frames", lambda data: isinstance(data, Frames), lambda data: X[: data.last])
    check_feed(Frames(SIZE), batch_size=BATCH, expected=X, places=(2,))
    with pytest.raises(FeedBroken, match=r"example 9 .* comes 0 times"):
        check_feed(lambda: Frames(SIZE - 2), batch_size=BATCH, expected=X, places=(2,))


def test_arguments_that_do_not_go_together_are_refused(monkeypatch):
    monkeypatch.setattr(passes, "_LARGE", 0)

    def refused(data, says, **more):
        with pytest.raises(ConfigurationError, match=says):
            check_feed(data, **{"batch_size": BATCH, **more})

    refused(X, r"expected must be nested arrays.*got a object", expected=object())
    refused(X, r"places are completed steps .* 0 to 6; got 7", places=(2, 7))
    refused(unseeded(), r"check_feed: .*continues to count.*check_feed\(lambda: dataset", batch_size=None)
    refused(unseeded, r"batch_size: got 4")
