"""The ways to read the data of `check_feed`: in order and shuffled, repeatedly from the beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from looplab.data import Source, as_source, build_feed
from looplab.data.indexed_source import BATCH_SIZE, IndexedSource
from looplab.data.stream import Stream, StreamFeed
from looplab.protocols import Feed
from looplab.testing.batches import Batch, read
from looplab.testing.fresh import fresh

_PLACES = 12  # the approximate number of places, by default


@dataclass(frozen=True)
class Given:
    """The data and settings of a check.

    Attributes:
        data: Data that `fit` takes, or a function that creates it.
        batch_size: The number of examples in a batch of arrays; None for 32.
        steps_per_epoch: The number of steps in an epoch, if it is not one pass over the data.
        seed: Determines the orders.
        expected: All examples in their order, nested arrays; None if they are not given.
        places: The completed steps at which a run must find its place; None for some.
    """

    data: Any
    batch_size: int | None
    steps_per_epoch: int | None
    seed: int
    expected: Any
    places: Sequence[int] | None

    def source(self) -> Source:
        """Returns the source as in a new process."""
        return as_source(fresh(self.data, "check_feed("))

    @cached_property
    def examples(self) -> Batch | None:
        """All examples in their order, as one batch."""
        if self.expected is None:
            return None
        source = as_source(self.expected)
        assert isinstance(source, IndexedSource)
        return read(source.feed(source.size, shuffle=False, seed=0), 0, 1)[0]


@dataclass
class Trial:
    """One way to read the data.

    Attributes:
        given: The data and settings.
        shuffle: Whether it is shuffled.
        in_order: The trial of the same data in order; None if this is that trial.
    """

    given: Given
    shuffle: bool = False
    in_order: Trial | None = None
    source: Source = field(init=False)
    feed: Feed = field(init=False)

    def __post_init__(self) -> None:
        self.source = self.given.source()
        self.feed = self.of(self.source)

    def of(self, source: Source, **more: Any) -> Feed:
        """Returns a feed of a source."""
        how = {"shuffle": self.shuffle, "seed": self.given.seed, **more}
        size, steps = self.given.batch_size, self.given.steps_per_epoch
        return build_feed(source, batch_size=size, steps_per_epoch=steps, **how)

    def new(self, **more: Any) -> Feed:
        """Returns the feed as in a new process."""
        return self.of(self.given.source(), **more)

    @property
    def order(self) -> str:
        """The name of the way."""
        if isinstance(self.source, Stream):
            return "as it comes"
        return "shuffled" if self.shuffle else "in order"

    @cached_property
    def steps(self) -> int:
        """The number of steps in one pass over the data; if it is not known, in an epoch."""
        return self.known or self.feed.steps_per_epoch or 1

    @cached_property
    def known(self) -> int | None:
        """The number of steps in one pass over the data, if it is known."""
        if isinstance(self.source, IndexedSource):
            batched, size = self.source.batched, self.given.batch_size or BATCH_SIZE
            return self.source.length(None) if batched else -(-self.source.size // size)
        return None if self.given.steps_per_epoch else self.feed.steps_per_epoch

    @cached_property
    def passes(self) -> list[list[Batch]]:
        """The batches of three passes, read one by one from a separate feed."""
        found = read(self.new(), 0, 3 * self.steps)
        return [found[number * self.steps : (number + 1) * self.steps] for number in range(3)]

    @cached_property
    def whole(self) -> list[Batch]:
        """The batches of all three passes."""
        return [batch for own in self.passes for batch in own]

    @cached_property
    def lying(self) -> list[bytes]:
        """The bytes that identify the examples, in the order of the first unshuffled pass."""
        return [each for batch in (self.in_order or self).passes[0] for each in batch.examples]

    @cached_property
    def places(self) -> Sequence[int]:
        """The completed steps at which a run must find its place, within two passes."""
        if self.given.places is not None:
            return sorted({*self.given.places})
        last = 2 * self.steps
        if last <= _PLACES:
            return range(last + 1)
        edges = {0, 1, self.steps - 1, self.steps, self.steps + 1, last}
        return sorted(edges | {index * last // _PLACES for index in range(_PLACES)})

    @property
    def counts(self) -> bool:
        """Whether the data counts its iterators, so that each one differs."""
        return isinstance(self.feed, StreamFeed) and self.feed.counts

    def read_from(self, feed: Feed, step: int) -> list[Batch]:
        """Lets a feed find its place, and returns one or two batches from there."""
        return read(feed, step, min(2, len(self.whole) - step))

    def difference(self, found: Sequence[Batch], first: int) -> str | None:
        """Describes the first batch from a step on that differs from the first reading; None if none does."""
        for step, batch in enumerate(found, first):
            if differs := batch.difference(self.whole[step]):
                return f"batch {step} (counted from 0) differs from the first reading: {differs}"
        return None
