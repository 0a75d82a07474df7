"""One line of a project's own tests: a run can rely on how data is read."""

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
    """Asserts that data is read as every run relies on; on the host.

    For a source, an adapter (`looplab.data.register_adapter`) or an object of one's own. The data is read in
    three passes, in order and, where looplab shuffles it, shuffled. All batches are compared bit for bit with
    those of other feeds of the same data, each as a new process would make it. What must hold:

    - An epoch has as many steps as it should, batches are of the right size, the last one of what is left,
      and of the specification; the feed counts the examples that were seen.
    - Each pass has each example once. What is not shuffled comes in order; a shuffled pass has an order of
      its own, which the seed decides.
    - The same data and seed give the same batches. A run that goes on at any step, from a position or from a
      snapshot of the pipeline, has the batches that it would have had.
    - Batches that are taken together are those taken one by one, feeds of one source do not disturb each
      other, and shards of a batch are the batch.

    It makes a feed for each place and reads the data some twenty times: give it little data, a few steps of
    which the last is short.

    Args:
        data: Data that `fit` takes, or a function that makes it, called for each feed as a new process would
            do. That is needed for a `tf.data.Dataset` that shuffles. Objects are copied where they can be.
        batch_size: Examples of a batch of arrays; 32 if not given.
        steps_per_epoch: Steps of an epoch; needed for data without an end.
        seed: Decides the orders.
        expected: All examples in their order, nested arrays of the form of a batch. Without it an example
            that is never read, or twice in the place of another, is found only if one pass differs from
            another.
        places: Completed steps at which a run is to find its place, of the first two passes; if None all of
            them, or some twelve.

    Returns:
        What was examined; prints as a table.

    Raises:
        FeedBroken: An AssertionError that says which properties do not hold, and what was found instead.
        ConfigurationError: If arguments do not go together.
        DataError: If the data is of a kind looplab cannot read, or empty.
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
