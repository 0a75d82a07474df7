"""A check for a project's own tests: a run can rely on how data is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from looplab.data.arrays import are_arrays
from looplab.data.indexed_source import IndexedSource
from looplab.errors import ConfigurationError
from looplab.testing.feed_properties import examined
from looplab.testing.feed_trials import Given, Trial
from looplab.testing.report import FeedBroken, FeedReport


def check_feed(
    data: Any,
    *,
    batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    seed: int = 0,
    expected: Any = None,
    places: Sequence[int] | None = None,
) -> FeedReport:
    """Asserts that data is read as every run requires; on the host.

    Use it for a source, an adapter (`looplab.data.register_adapter`) or your own object. The check reads the
    data in three passes, in order and, if looplab shuffles it, shuffled. It compares all batches bit by bit
    with those of other feeds of the same data, each created as in a new process. It requires:

    - An epoch has the right number of steps; batches have the right size, the last one the rest, and fit the
      specification; the feed counts the examples that were read.
    - Each pass has each example once. Data that is not shuffled comes in order; each shuffled pass has
      another order, which the seed determines.
    - The same data and seed give the same batches. A run that continues at any step, from a position or from
      a snapshot of the pipeline, gets the batches that it would have got.
    - Batches that are taken together equal those taken one by one, feeds of one source do not disturb each
      other, and the shards of a batch form the batch.

    It creates a feed for each place and reads the data some twenty times: give it little data, a few steps of
    which the last is short.

    Args:
        data: Data that `fit` takes, or a function that creates it, called for each feed as in a new process.
            A `tf.data.Dataset` that shuffles needs a function. Objects are copied if possible.
        batch_size: The number of examples in a batch of arrays; 32 by default.
        steps_per_epoch: The number of steps in an epoch; needed for data without an end.
        seed: Determines the orders.
        expected: All examples in their order, nested arrays in the form of a batch. Without it an example
            that is never read, or read twice in place of another, is found only if the passes differ.
        places: The numbers of completed steps, in the first two passes, at which a run must find its place;
            None for all of them, or some twelve.

    Returns:
        The examined properties; prints as a table.

    Raises:
        FeedBroken: An AssertionError that names the properties that do not hold, and the findings.
        ConfigurationError: If arguments exclude each other.
        DataError: If looplab cannot read this kind of data, or the data is empty.
    """
    if expected is not None and not are_arrays(expected):
        raise ConfigurationError(
            "check_feed: expected must be nested arrays, all examples in the form of a batch; got a "
            f"{type(expected).__qualname__}."
        )
    in_order = Trial(Given(data, batch_size, steps_per_epoch, seed, expected, places))
    wrong = [place for place in in_order.places if not 0 <= place <= 2 * in_order.steps]
    if wrong:
        raise ConfigurationError(
            f"check_feed: places are completed steps of the first two passes, 0 to {2 * in_order.steps}; got "
            f"{wrong[0]}."
        )
    trials = [in_order]
    if isinstance(in_order.source, IndexedSource):
        trials.append(Trial(in_order.given, shuffle=True, in_order=in_order))
    properties = [each for trial in trials for each in examined(trial)]
    report = FeedReport(in_order.feed.describe(), properties)
    if broken := dict.fromkeys(each.name for each in properties if each.verdict == "broken"):
        raise FeedBroken(list(broken), report)
    return report
